//! Power cuts and kills at every step of every operation, against a model.

use std::path::Path;

use bramah_cell::log::{Log, LogOptions};
use futures_util::FutureExt;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use proptest::prelude::*;

use super::sim_disk::{Random, SimDisk};
use super::{Entry, LogId, Vote, block_on, entries_of, entry, log_id, open, small, submit, vote};

const FOLDER: &str = "/log";

#[derive(Clone, Debug)]
enum Step {
    Append {
        entries: usize,
        bytes: usize,
    },
    Truncate {
        entries: usize,
    },
    Purge {
        entries: u64,
    },
    /// As after a snapshot from the leader: the log goes on behind its own end.
    PurgeBeyond {
        entries: u64,
    },
    Vote,
    /// The writer falls behind.
    Pause,
    Resume,
    /// Time passes.
    Tick,
    Reopen,
    Kill,
    PowerCut {
        steps: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6_usize, 0..2500_usize).prop_map(|(entries, bytes)| Step::Append { entries, bytes }),
        2 => (1..12_usize).prop_map(|entries| Step::Truncate { entries }),
        2 => (1..20_u64).prop_map(|entries| Step::Purge { entries }),
        1 => (1..20_u64).prop_map(|entries| Step::PurgeBeyond { entries }),
        1 => Just(Step::Vote),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => Just(Step::Tick),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => (0..40_u64).prop_map(|steps| Step::PowerCut { steps }),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Contents {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Contents {
    fn next(&self) -> u64 {
        let purged = self.purged.map_or(0, |purged| purged.index + 1);
        self.entries.last().map_or(purged, |entry| entry.log_id.index + 1)
    }
}

/// Every state that the log passes through, an entry at a time. What is certain after a crash is that the log
/// is in one of them, and not in one before `sure`.
struct Model {
    history: Vec<Contents>,
    sure: usize,
    term: u64,
}

impl Model {
    fn now(&self) -> &Contents {
        &self.history[self.history.len() - 1]
    }

    fn change(&mut self, change: impl FnOnce(&mut Contents)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.history.push(next);
    }

    fn all_sure(&mut self) {
        self.sure = self.history.len() - 1;
    }

    /// The log was opened again and holds `found`.
    fn accept(&mut self, found: Contents) -> Result<(), TestCaseError> {
        let known = self.history[self.sure..].contains(&found);
        prop_assert!(known, "found {found:#?}\nbut promised {:#?}", self.history[self.sure]);
        self.history = vec![found];
        self.sure = 0;
        self.term += 1;
        Ok(())
    }
}

struct Run {
    disk: SimDisk,
    log: Log,
    model: Model,
    random: Random,
    appends: Vec<(super::Flushed, usize)>,
}

fn options() -> LogOptions {
    small()
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::default();
        let log = open(&disk.shared(), Path::new(FOLDER), &options()).expect("a log");
        let model = Model { history: vec![Contents::default()], sure: 0, term: 1 };
        Self { disk, log, model, random: Random::new(seed), appends: Vec::new() }
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let term = self.model.term;
        match step {
            Step::Append { entries, bytes } => {
                let first = self.model.now().next();
                let new: Vec<Entry> =
                    (first..first + entries as u64).map(|index| entry(term, index, bytes)).collect();
                for entry in &new {
                    self.model.change(|contents| contents.entries.push(entry.clone()));
                }
                if let Ok(flushed) = submit(&mut self.log, new).await {
                    self.appends.push((flushed, self.model.history.len() - 1));
                }
            }
            Step::Truncate { entries } => {
                let kept = self.model.now().entries.len().saturating_sub(entries);
                let last = self.model.now().entries[..kept].last().map(|entry| entry.log_id);
                let last = last.or(self.model.now().purged);
                self.model.term += 1;
                self.model.change(|contents| contents.entries.truncate(kept));
                let _ = self.log.truncate_after(last).await;
            }
            Step::Purge { entries } => {
                let last = self.model.now().entries.iter().take(entries as usize).last();
                if let Some(upto) = last.map(|entry| entry.log_id) {
                    self.purge(upto).await;
                }
            }
            Step::PurgeBeyond { entries } => {
                let upto = log_id(term, self.model.now().next() + entries);
                self.purge(upto).await;
            }
            Step::Vote => {
                self.disk.resume();
                self.model.term += 1;
                let vote = vote(self.model.term, self.random.below(2) == 0);
                self.model.change(|contents| contents.vote = Some(vote));
                // The workers have done what they can by the first look at it.
                match self.log.save_vote(&vote).now_or_never() {
                    Some(Ok(())) => self.model.all_sure(),
                    _ => prop_assert!(self.disk.power_is_cut(), "the vote was not saved"),
                }
            }
            Step::Pause => self.disk.pause(),
            Step::Resume => self.disk.resume(),
            Step::Tick => self.disk.tick(),
            Step::Reopen => {
                self.disk.resume();
                // Without power the workers stand still, and this would wait for them.
                let _ = self.log.close().now_or_never();
                if !self.disk.power_is_cut() {
                    self.model.all_sure();
                }
                let left = self.disk.copy();
                return self.start_again(left).await;
            }
            Step::Kill => {
                let left = self.disk.copy();
                return self.start_again(left).await;
            }
            Step::PowerCut { steps } => self.disk.cut_power_after(steps),
        }
        self.hear_callbacks()?;
        if self.disk.power_is_cut() {
            let left = self.disk.after_power_cut(&mut self.random);
            return self.start_again(left).await;
        }
        self.compare().await
    }

    async fn purge(&mut self, upto: LogId) {
        self.model.change(|contents| {
            contents.purged = Some(upto);
            contents.entries.retain(|entry| entry.log_id.index > upto.index);
        });
        let _ = self.log.purge(upto).await;
    }

    /// What was called back is promised.
    fn hear_callbacks(&mut self) -> Result<(), TestCaseError> {
        let mut waiting = Vec::new();
        for (mut flushed, at) in std::mem::take(&mut self.appends) {
            match flushed.try_recv() {
                Ok(Ok(())) => self.model.sure = self.model.sure.max(at),
                Ok(Err(error)) => prop_assert!(self.disk.power_is_cut(), "{error}"),
                Err(_) => waiting.push((flushed, at)),
            }
        }
        self.appends = waiting;
        Ok(())
    }

    /// While it runs, the log shows everything at once.
    async fn compare(&mut self) -> Result<(), TestCaseError> {
        let found = contents_of(&mut self.log).await;
        prop_assert_eq!(&found, self.model.now());
        Ok(())
    }

    async fn start_again(&mut self, disk: SimDisk) -> Result<(), TestCaseError> {
        self.hear_callbacks()?;
        self.appends.clear();
        self.disk = disk;
        let opened = open(&self.disk.shared(), Path::new(FOLDER), &options());
        self.log = opened.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let found = contents_of(&mut self.log).await;
        self.model.accept(found)
    }
}

async fn contents_of(log: &mut Log) -> Contents {
    let state = log.get_log_state().await.expect("a state");
    let entries = entries_of(log).await.expect("entries");
    let last = entries.last().map(|entry| entry.log_id).or(state.last_purged_log_id);
    assert_eq!(state.last_log_id, last);
    Contents { vote: log.read_vote().await.expect("a vote"), purged: state.last_purged_log_id, entries }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Spec G-1, G-4: whatever is appended, truncated, purged and voted, and wherever the power goes, the log
    /// opens again with all that it promised, and with nothing that was not once in it.
    #[test]
    fn nothing_promised_is_lost(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        block_on(async {
            let mut run = Run::new(seed);
            for step in steps {
                run.take(step).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// Spec G-1: a power cut after each single step of a row of operations that uses every file.
#[test]
fn power_cut_after_each_step() {
    let script = || {
        [
            Step::Append { entries: 5, bytes: 2000 },
            Step::Vote,
            Step::Append { entries: 5, bytes: 2000 },
            Step::Purge { entries: 6 },
            Step::Truncate { entries: 2 },
            Step::Append { entries: 5, bytes: 2000 },
            Step::Vote,
            Step::Append { entries: 5, bytes: 2000 },
            Step::Purge { entries: 8 },
            Step::Append { entries: 5, bytes: 2000 },
            Step::PurgeBeyond { entries: 3 },
            Step::Append { entries: 5, bytes: 2000 },
        ]
    };
    let mut cuts = 0;
    for cut in 0.. {
        let mut was_cut = false;
        for seed in 0..4 {
            was_cut |= block_on(async {
                let mut run = Run::new(seed);
                let first = run.disk.clone();
                first.cut_power_after(cut);
                for step in script() {
                    run.take(step).await.expect("nothing promised is lost");
                }
                first.power_is_cut()
            });
        }
        if !was_cut {
            break;
        }
        cuts = cut;
    }
    assert!(cuts > 60, "only {cuts} steps were found");
}

/// Spec G-4: a first start that is interrupted at any step is simply begun again.
#[test]
fn power_cut_during_the_first_start() {
    let mut cuts = 0;
    for cut in 0.. {
        let disk = SimDisk::default();
        disk.cut_power_after(cut);
        if let Ok(log) = open(&disk.shared(), Path::new(FOLDER), &options()) {
            drop(log);
            break;
        }
        for seed in 0..8 {
            let left = disk.after_power_cut(&mut Random::new(seed));
            open(&left.shared(), Path::new(FOLDER), &options()).expect("the log begins again");
        }
        cuts += 1;
    }
    assert!(cuts > 8, "only {cuts} steps were found");
}
