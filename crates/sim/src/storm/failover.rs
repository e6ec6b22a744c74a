//! How long nobody is served when a leader crashes.

use rand::RngExt;

use super::{CALM_MS, Storm};
use crate::history::{Answer, Call, Outcome};

/// The longest that the cell may take to be whole again between two crashes, in milliseconds.
const WHOLE_LIMIT_MS: u64 = 30_000;
/// The longest that a fail-over may take, in milliseconds.
const FAILOVER_LIMIT_MS: u64 = 30_000;

impl Storm {
    /// Crashes so many leaders, one after the other, each in a cell that is whole.
    pub(super) fn crash_leaders(&mut self, crashes: u64) {
        self.run_for(CALM_MS);
        for _ in 0..crashes {
            let pause = self.random.random_range(100..400);
            self.run_for(pause);
            if !self.wait_until(WHOLE_LIMIT_MS, Storm::is_whole) {
                return self
                    .watch
                    .report(format!("the cell was not whole within {WHOLE_LIMIT_MS} ms after a crash"));
            }
            let Some(leader) = self.leader() else { continue };
            let crashed_ns = self.now_ms() * 1_000_000;
            if self.random.random_bool(0.5) {
                self.kill(leader)
            } else {
                self.cut_power(leader)
            }
            if !self.wait_until(FAILOVER_LIMIT_MS, |storm| storm.served_since(crashed_ns).is_some()) {
                return self
                    .watch
                    .report(format!("nobody was served within {FAILOVER_LIMIT_MS} ms after a crash"));
            }
            let served_ns = self.served_since(crashed_ns).unwrap_or(crashed_ns);
            self.failovers_us.push((served_ns - crashed_ns) / 1_000);
            self.start_if_down(leader);
        }
        self.fired("crash");
    }

    fn wait_until(&mut self, limit_ms: u64, done: impl Fn(&Storm) -> bool) -> bool {
        let limit = self.now_ms() + limit_ms;
        while !done(self) {
            if self.now_ms() >= limit {
                return false;
            }
            self.run_for(10);
        }
        true
    }

    /// All replicas are up and follow a leader that has their logs nearly up to date.
    fn is_whole(&self) -> bool {
        let cells: Vec<_> = self.replicas.iter().filter_map(super::Replica::cell).collect();
        let indexes: Vec<u64> = cells.iter().map(|cell| cell.status().applied_index).collect();
        let led = cells.iter().all(|cell| cell.leadership().borrow().leader.is_some());
        let spread = indexes.iter().max().zip(indexes.iter().min()).map_or(0, |(most, least)| most - least);
        cells.len() == self.replicas.len() && led && self.leader().is_some() && spread < 20
    }

    /// When the first write that was asked for since then was acknowledged.
    fn served_since(&self, since_ns: u64) -> Option<u64> {
        self.recorder.first(|operation| {
            let done =
                matches!(operation.outcome, Outcome::Answered(Answer::Value { .. } | Answer::Written { .. }));
            done && operation.invoked >= since_ns && !matches!(operation.call, Call::Read | Call::Get)
        })
    }
}
