//! What happened, in the order in which it happened: for the picture of a failed run.

use std::sync::Arc;

use bramah_cell::ReplicaId;
use parking_lot::Mutex;
use serde::Serialize;

/// Notes beyond this are counted only.
const MOST_NOTES: usize = 20_000;

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A process began.
    Started,
    /// A process ended.
    Ended,
    /// A replica became leader.
    Leads,
    /// A fault began.
    Fault,
    /// A fault ended.
    Healed,
    /// Something that must never happen.
    Anomaly,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Simulated milliseconds.
    pub at_ms: u64,
    /// Which replica, if one.
    pub replica: Option<ReplicaId>,
    /// What it is about.
    pub kind: Kind,
    /// In words.
    pub what: String,
}

/// Takes notes; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    now_ms: u64,
    list: Vec<Note>,
    left_out: u64,
}

impl Timeline {
    /// What notes that are not taken in any host's turn are dated.
    pub(super) fn set_now_ms(&self, now_ms: u64) {
        self.0.lock().now_ms = now_ms;
    }

    /// Takes a note.
    pub(super) fn note(&self, replica: Option<ReplicaId>, kind: Kind, what: &str) {
        let mut notes = self.0.lock();
        if notes.list.len() == MOST_NOTES {
            notes.left_out += 1;
            return;
        }
        let at_ms = crate::engine::now_ms().max(notes.now_ms);
        notes.list.push(Note { at_ms, replica, kind, what: what.to_owned() });
    }

    /// All notes, in order.
    pub fn notes(&self) -> Vec<Note> {
        self.0.lock().list.clone()
    }
}
