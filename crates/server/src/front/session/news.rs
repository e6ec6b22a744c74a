//! What a session is told unasked: the events of its watches, and what becomes of its handles (spec S-3, E-2 to E-4).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bramah_cell::{Cell, Follower, Told};
use bramah_machine::{Principal, SessionId, State};
use bramah_wire::limits::MAX_WATCHES_PER_SESSION;
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::handle_state::Place;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::replies::{Flow, News};
use crate::front::translate::{self, Caller};

/// Events taken at once, which are then all that waits for the client outside of its follower's bounded inbox.
const EVENTS_AT_ONCE: usize = 128;

/// States of watches that may wait for a client.
pub(super) const MAX_WATCH_STATES: usize = 2 * MAX_WATCHES_PER_SESSION;

/// Tells one stream's client.
pub(super) struct Teller {
    cell: Cell,
    caller: Caller,
    flow: Arc<Flow>,
    follower: Follower,
    /// Whoever has its one permit may take from the follower: it comes back when the stream has taken the events
    /// before.
    turn: Arc<Semaphore>,
}

impl Teller {
    /// Follows what becomes of a session from now on.
    pub(super) fn new(cell: Cell, session: SessionId, principal: Principal, flow: Arc<Flow>) -> Teller {
        let follower = cell.follow(session);
        let caller = Caller { principal, session: Some(session) };
        Teller { cell, caller, flow, follower, turn: Arc::new(Semaphore::new(1)) }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The handles that hold or wait. The follower was there before this looks: what comes later is told.
    pub(super) fn standing(&self) -> Vec<v1::HandleState> {
        let mut all = self.places();
        all.retain(|state| state.place() != Place::Apart);
        all
    }

    fn places(&self) -> Vec<v1::HandleState> {
        let session = self.caller.session.unwrap_or(SessionId(0));
        translate::places(&self.cell.view(), session)
    }

    /// All of the session's events up to this revision were told, if that is known.
    pub(super) fn seen(&self) -> Option<News> {
        let revision = self.follower.seen();
        (revision > 0).then_some(News::UpTo(revision))
    }

    /// Ends and begins watches; says how each one begun stands.
    pub(super) fn change_watches(&self, ended: &[u64], begun: &[v1::Watch]) -> Vec<News> {
        ended.iter().for_each(|number| self.follower.unwatch(*number));
        self.flow.watch_states.fetch_add(begun.len(), Ordering::Relaxed);
        begun.iter().map(|watch| News::Watch(self.watch(watch))).collect()
    }

    fn watch(&self, watch: &v1::Watch) -> v1::WatchState {
        let number = watch.number;
        self.begin(watch).unwrap_or_else(|failure| {
            // Else another watch of that number would go on.
            self.follower.unwatch(number);
            v1::WatchState { number, failure: Some(failure), ..v1::WatchState::default() }
        })
    }

    fn begin(&self, watch: &v1::Watch) -> Result<v1::WatchState, v1::Failure> {
        let interest = translate::interest(watch, self.cell.name())?;
        let permitted = self.cell.read(|state| state.permit_reading(&self.caller.principal, &interest.path));
        permitted.map_err(|refusal| translate::refused(&refusal))?;
        let begun = self.follower.watch(interest);
        let begun = begun.map_err(|error| translate::failure(Code::TooMany, error.to_string()))?;
        let bramah_cell::Begun { revision, gap } = begun;
        Ok(v1::WatchState { number: watch.number, revision, gap, failure: None })
    }

    /// What came, once the stream has taken what came before. Cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<News> {
        // Nobody closes it.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let told = self.follower.next(EVENTS_AT_ONCE).await;
        self.news(told, turn.ok())
    }

    /// This replica's state holds all of it (spec E-2).
    fn news(&self, told: Told, turn: Option<OwnedSemaphorePermit>) -> Vec<News> {
        let view = self.cell.view();
        let mut news: Vec<_> = told.lagged.iter().map(|lagged| News::Watch(gap(*lagged))).collect();
        self.flow.watch_states.fetch_add(news.len(), Ordering::Relaxed);
        if told.own_lagged {
            news.push(News::Handles(self.places()));
        }
        for delivery in told.events {
            if delivery.own {
                news.extend(translate::place(&view, &delivery.event.change).map(News::Handle));
            }
            if !delivery.watches.is_empty() && self.may_see(&view, &delivery.event.path) {
                news.push(News::Event(delivery));
            }
        }
        if told.revision > 0 {
            news.push(News::UpTo(told.revision));
        }
        news.extend(turn.map(News::More));
        news
    }

    /// The watch was permitted once, for its own node (spec A-2).
    fn may_see(&self, view: &State, path: &bramah_machine::Path) -> bool {
        view.permit_reading(&self.caller.principal, path).is_ok()
    }
}

fn gap((number, revision): (u64, u64)) -> v1::WatchState {
    v1::WatchState { number, revision, gap: true, failure: None }
}
