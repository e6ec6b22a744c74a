//! The open handles of a client's present session: what the task and the application's side share.

use std::collections::HashMap;
use std::sync::Arc;

use bramah_wire::v1;
use parking_lot::Mutex;

use crate::grip::{Ended, FollowUp, Grip, LostReason};

/// The handles that are open, by number.
#[derive(Default)]
pub(crate) struct Handles(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// 0: no session.
    session: u64,
    open: HashMap<u64, Arc<Grip>>,
    /// How the session before ended.
    end: Option<Ended>,
}

impl Handles {
    /// There is a session now, perhaps the same one on a new connection.
    pub(crate) fn session_is(&self, session: u64) {
        let mut table = self.0.lock();
        table.session = session;
        table.open.values().for_each(|grip| grip.reconnected());
    }

    /// The cell is about to say anew what all handles are to their locks.
    pub(crate) fn unconfirmed(&self) {
        self.0.lock().open.values().for_each(|grip| grip.reconnected());
    }

    /// The session is over, and so are its handles, for ever (spec H-6).
    pub(crate) fn session_over(&self, end: &Ended) {
        let mut table = self.0.lock();
        table.session = 0;
        table.end = Some(end.clone());
        table.open.drain().for_each(|(_, grip)| grip.end(end.clone(), LostReason::SessionExpired));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().open.is_empty()
    }

    /// A handle was opened; its session may be over by now.
    pub(crate) fn open(&self, grip: &Arc<Grip>) {
        let mut table = self.0.lock();
        if table.session == grip.session {
            table.open.insert(grip.handle, grip.clone());
            return;
        }
        let over = || Ended::SessionExpired(format!("session {} is over", grip.session));
        let end = table.end.clone().unwrap_or_else(over);
        grip.end(end, LostReason::SessionExpired);
    }

    /// A handle is being closed: false, if it was before, or went with its session.
    pub(crate) fn close(&self, grip: &Grip) -> bool {
        let mut table = self.0.lock();
        table.session == grip.session && table.open.remove(&grip.handle).is_some()
    }

    /// What the cell says of handles.
    pub(crate) fn told(&self, states: Vec<v1::HandleState>) -> Vec<FollowUp> {
        let table = self.0.lock();
        let told = states.into_iter().filter_map(|state| {
            let grip = table.open.get(&state.handle)?;
            Some((grip.clone(), grip.told(state)?))
        });
        told.collect()
    }

    /// What the cell has to be asked, because it did not say it on the new connection.
    pub(crate) fn look(&self) -> Vec<FollowUp> {
        let table = self.0.lock();
        table.open.values().filter_map(|grip| Some((grip.clone(), grip.look()?))).collect()
    }
}
