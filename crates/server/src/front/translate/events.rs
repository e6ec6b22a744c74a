//! What happened, as it travels: events, and what a handle is to its lock.

use bramah_cell::{Interest, Kinds};
use bramah_machine::{Change, Event, Handle, HandleId, Path, Place, SessionId, State};
use bramah_wire::v1;
use bramah_wire::v1::event::Kind;
use bramah_wire::v1::handle_state::Place as WirePlace;

use super::failures::invalid;
use super::outcomes::kind;

/// Reads what a client wants to be told of.
pub(in crate::front) fn interest(watch: &v1::Watch, cell: &str) -> Result<Interest, v1::Failure> {
    if watch.number == 0 {
        return Err(invalid("watches are numbered from 1"));
    }
    let path = Path::parse_in_cell(&watch.path, cell).map_err(|error| invalid(&error.to_string()))?;
    let kinds = match watch.kinds.is_empty() {
        true => Kinds::OF_THE_NODE,
        false => kinds(watch)?,
    };
    Ok(Interest { number: watch.number, path, subtree: watch.subtree, kinds, after: watch.after_revision })
}

fn kinds(watch: &v1::Watch) -> Result<Kinds, v1::Failure> {
    let mut kinds = Kinds::NONE;
    for wanted in &watch.kinds {
        kinds |= match Kind::try_from(*wanted).unwrap_or_default() {
            Kind::Created => Kinds::CREATED,
            Kind::ContentsModified => Kinds::CONTENTS_MODIFIED,
            Kind::CounterChanged => Kinds::COUNTER_CHANGED,
            Kind::Deleted => Kinds::DELETED,
            Kind::AclChanged => Kinds::ACL_CHANGED,
            Kind::LockAcquired => Kinds::LOCK_ACQUIRED,
            Kind::LockWanted => Kinds::LOCK_WANTED,
            Kind::LockReleased => Kinds::LOCK_RELEASED,
            Kind::LockLost => Kinds::LOCK_LOST,
            Kind::Unspecified => {
                return Err(invalid(
                    "the watch wants a kind of event that this version does not know; is the client newer than the cell?",
                ));
            }
        };
    }
    Ok(kinds)
}

/// An event for some watches; `None` if it is for nobody but the session whose handle it is of.
pub(in crate::front) fn event(event: &Event, watches: Vec<u64>) -> Option<v1::Event> {
    let path = event.path.as_str().to_owned();
    let whose = event.change.handle().unwrap_or((SessionId(0), HandleId(0)));
    let told = v1::Event {
        revision: event.revision,
        path,
        session: whose.0.0,
        handle: whose.1.0,
        watches,
        ..v1::Event::default()
    };
    Some(match event.change {
        Change::Created { kind: node } => {
            v1::Event { kind: Kind::Created.into(), node: kind(node).into(), ..told }
        }
        Change::ContentsModified { generation } => {
            v1::Event { kind: Kind::ContentsModified.into(), generation, ..told }
        }
        Change::CounterChanged { value } => v1::Event { kind: Kind::CounterChanged.into(), value, ..told },
        Change::Deleted => v1::Event { kind: Kind::Deleted.into(), ..told },
        Change::AclChanged { generation } => v1::Event { kind: Kind::AclChanged.into(), generation, ..told },
        Change::LockAcquired { generation, shared, .. } => {
            v1::Event { kind: Kind::LockAcquired.into(), generation, shared, ..told }
        }
        Change::LockWanted { shared } => v1::Event { kind: Kind::LockWanted.into(), shared, ..told },
        Change::LockReleased { .. } => v1::Event { kind: Kind::LockReleased.into(), ..told },
        Change::LockLost { .. } => v1::Event { kind: Kind::LockLost.into(), ..told },
        Change::HandleClosed { .. } => return None,
    })
}

/// What has become of a session's own handle, which an event speaks of: `None` if its client did it itself. The
/// state is at least as new as the event, and what it says is newer.
pub(in crate::front) fn place(state: &State, change: &Change) -> Option<v1::HandleState> {
    let (session, id) = change.handle()?;
    match change {
        Change::LockAcquired { .. } => Some(match state.handle(session, id) {
            Some(handle) => standing(state, session, id, handle),
            None => told(state, session, id, WirePlace::Closed),
        }),
        Change::LockLost { .. } => Some(told(state, session, id, WirePlace::Lost)),
        Change::HandleClosed { .. } => Some(told(state, session, id, WirePlace::Closed)),
        _ => None,
    }
}

/// What all of a session's handles are to their locks.
pub(in crate::front) fn places(state: &State, session: SessionId) -> Vec<v1::HandleState> {
    state.handles_of(session).map(|(id, handle)| standing(state, session, id, handle)).collect()
}

fn standing(state: &State, session: SessionId, id: HandleId, handle: &Handle) -> v1::HandleState {
    match handle.place {
        Place::Apart => told(state, session, id, WirePlace::Apart),
        Place::Waiting { .. } => told(state, session, id, WirePlace::Waiting),
        Place::Holding { generation } => v1::HandleState {
            lock_generation: generation,
            shared: state.sequencer_of(handle).is_some_and(|sequencer| sequencer.shared),
            ..told(state, session, id, WirePlace::Holding)
        },
    }
}

fn told(state: &State, session: SessionId, id: HandleId, place: WirePlace) -> v1::HandleState {
    let after_call = state.session(session).map_or(0, |session| session.highest());
    v1::HandleState { handle: id.0, place: place.into(), after_call, ..v1::HandleState::default() }
}
