//! Sessions: none expires before the last lease that its client was promised has run out, and none outlives it by more than
//! a bound (spec S-8; Chubby §2.8).

use std::collections::BTreeMap;

use super::Report;
use crate::history::Seconds;

/// Something that happened to a session. Times are in nanoseconds of one clock that all records share: the checker's, and
/// no host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The session's id.
    pub session: u64,
    /// When the client, or whoever looked at the cell, saw it.
    pub at: u64,
    /// What happened.
    pub event: Event,
}

/// What happens to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client may rely on the session until then: a lease counted from the moment at which it *asked* for it.
    Granted {
        /// The lease's end.
        until: u64,
    },
    /// The cell ended it because its lease ran out.
    Expired,
    /// Its client ended it.
    Closed,
}

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How much faster a server's clock may run than a client's, in millionths. A lease of that server may be
    /// over for the client that part of its length early.
    pub drift_ppm: u64,
    /// How long after the last lease a session must have ended, in nanoseconds. A change of leader gives every
    /// session its whole lease again (spec S-8), so: the leases and elections that faults could add, and some more.
    pub bound: u64,
    /// When the records end: sessions are not followed further. In nanoseconds.
    pub observed_until: u64,
}

/// Judges the sessions in these records, which may come in any sequence.
pub fn check(records: &[Record], rules: Rules) -> Report {
    let mut report = Report::new("sessions live as long as promised");
    let mut sessions: BTreeMap<u64, Session> = BTreeMap::new();
    for record in records {
        report.checked += 1;
        sessions.entry(record.session).or_default().add(record);
    }
    for (id, session) in sessions {
        if let Some(finding) = session.early(rules).or_else(|| session.late(rules)) {
            report.anomaly(|| format!("session {id} {finding}"));
        }
    }
    report
}

/// What is known of one session.
#[derive(Default)]
struct Session {
    /// When each lease was seen and when it ends.
    leases: Vec<(u64, u64)>,
    expired: Option<u64>,
    ended: Option<u64>,
}

impl Session {
    fn add(&mut self, record: &Record) {
        let earliest = |known: Option<u64>| Some(known.map_or(record.at, |known| known.min(record.at)));
        match record.event {
            Event::Granted { until } => return self.leases.push((record.at, until)),
            Event::Expired => self.expired = earliest(self.expired),
            Event::Closed => {}
        }
        self.ended = earliest(self.ended);
    }

    /// A lease that was running, or was given, when the session had expired: in whichever sequence they were seen.
    fn early(&self, rules: Rules) -> Option<String> {
        let expired = self.expired?;
        let drift = |(at, until): (u64, u64)| {
            let part = u128::from(until.saturating_sub(at)) * u128::from(rules.drift_ppm) / 1_000_000;
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        let broken = |lease: &&(u64, u64)| expired.saturating_add(drift(**lease)) < lease.1;
        let (at, until) = self.leases.iter().filter(broken).max_by_key(|lease| lease.1)?;
        Some(format!(
            "expired at {} s, {} s before the end of its lease until {} s, which its client was promised at {} s",
            Seconds(expired),
            Seconds(until - expired),
            Seconds(*until),
            Seconds(*at)
        ))
    }

    fn late(&self, rules: Rules) -> Option<String> {
        let last = self.leases.iter().map(|(_, until)| *until).max()?;
        let latest = last.saturating_add(rules.bound);
        let lease = format!("its last lease ran out at {} s", Seconds(last));
        match self.ended {
            Some(ended) if ended > latest => {
                Some(format!("ended at {} s only, though {lease}", Seconds(ended)))
            }
            None if rules.observed_until > latest => {
                Some(format!("has not ended by {} s, though {lease}", Seconds(rules.observed_until)))
            }
            _ => None,
        }
    }
}
