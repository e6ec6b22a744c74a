//! The judges: what a run may not have shown, whatever was done to the cell meanwhile.
//!
//! They are pure functions of a record: no clock, no cell, no randomness. So a record that failed once fails for ever, and
//! can be judged again after the judge has changed. Each gives a [`Report`]; what several say is read together:
//!
//! ```
//! use bramah_sim::check::linear;
//! use bramah_sim::history::{Answer, Call, Outcome, Recorder};
//!
//! let recorder = Recorder::monotonic();
//! let mut ask = |client, call, answer| {
//!     let begun = recorder.begin(client, "/f", call);
//!     recorder.end(begun, Outcome::Answered(answer));
//! };
//! ask(1, Call::create("old"), Answer::Written { generation: 1, revision: 1, created: true });
//! ask(1, Call::set("new"), Answer::Written { generation: 2, revision: 2, created: false });
//! ask(2, Call::Get, Answer::Contents { contents: "old".into(), generation: 1, revision: 1 });
//!
//! let report = linear::check(&recorder.history(), linear::STEPS);
//! assert!(!report.is_clean());
//! assert!(report.anomalies[0].starts_with("/f is not linearizable: no order explains what client 2 was told"));
//! println!("{report}");
//! ```

pub mod digests;
pub mod events;
pub mod exactly_once;
pub mod linear;
pub mod locks;
pub mod sessions;

use std::fmt;

/// Anomalies beyond so many are counted, not described: whoever reads the first few has enough to do.
const MOST_DESCRIBED: usize = 32;

/// What a judge found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// What was looked for.
    pub what: &'static str,
    /// How many records were judged. A report about none proves nothing.
    pub checked: u64,
    /// Of what no judgement was found within the bounds of the search. Not an anomaly, and not the absence of one.
    pub undecided: Vec<String>,
    /// What must not be, each to be read alone. The first 32.
    pub anomalies: Vec<String>,
    /// How many more anomalies there are.
    pub undescribed: u64,
}

impl Report {
    /// Nothing found so far.
    pub fn new(what: &'static str) -> Self {
        Self { what, checked: 0, undecided: Vec::new(), anomalies: Vec::new(), undescribed: 0 }
    }

    /// No anomaly, and nothing undecided.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.anomalies.is_empty() && self.undecided.is_empty()
    }

    fn anomaly(&mut self, text: impl FnOnce() -> String) {
        if self.anomalies.len() < MOST_DESCRIBED {
            self.anomalies.push(text());
        } else {
            self.undescribed += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.anomalies.len() as u64 + self.undescribed;
        let Self { what, checked, undecided, .. } = self;
        write!(formatter, "{what}: {checked} checked, {found} anomalies, {} undecided", undecided.len())?;
        for anomaly in &self.anomalies {
            write!(formatter, "\n- {anomaly}")?;
        }
        for undecided in undecided {
            write!(formatter, "\n? {undecided}")?;
        }
        Ok(())
    }
}
