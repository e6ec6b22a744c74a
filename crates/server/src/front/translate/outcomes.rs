//! What became of a command, as it travels.

use bramah_machine::{AclNames, Answer, HandleId, NodeKind, Outcome, Refusal, Sequencer, Stat};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::handle_state::Place;
use bramah_wire::v1::outcome::Outcome as Reply;

use super::failures::{failure, refused};

/// What the machine said, as it travels. `tried_before`: another copy of the command may have been done.
pub(in crate::front) fn outcome(outcome: Outcome, tried_before: bool) -> v1::Outcome {
    let reply = match outcome {
        Ok(answer) => answered(answer),
        Err(refusal) => {
            // Only the end of the session hides what became of the other copy: else its answer came again.
            let hidden = tried_before && matches!(refusal, Refusal::SessionExpired { .. });
            let failure = refused(&refusal);
            Reply::Failure(v1::Failure {
                may_have_been_done: failure.may_have_been_done || hidden,
                ..failure
            })
        }
    };
    v1::Outcome { outcome: Some(reply) }
}

fn answered(answer: Answer) -> Reply {
    match answer {
        Answer::Written { generation, revision, created } => {
            Reply::Written(v1::Written { generation, revision, created })
        }
        Answer::Deleted { revision } => Reply::Deleted(v1::Deleted { revision }),
        Answer::Counter { value, revision } => Reply::Counter(v1::CounterValue { value, revision }),
        Answer::Done => Reply::Done(v1::Done {}),
        Answer::NodeOpened { handle: HandleId(handle), instance, created } => {
            Reply::NodeOpened(v1::NodeOpened { handle, instance, created })
        }
        Answer::LockAcquired { generation, shared } => {
            let state = v1::HandleState { lock_generation: generation, shared, ..at(Place::Holding) };
            Reply::Lock(v1::LockState { state: Some(state), waiters: 0 })
        }
        Answer::LockWaiting { waiters } => {
            Reply::Lock(v1::LockState { state: Some(at(Place::Waiting)), waiters })
        }
        Answer::LockApart => Reply::Lock(v1::LockState { state: Some(at(Place::Apart)), waiters: 0 }),
        Answer::Txn { held, answers } => {
            let done = |answer| v1::Outcome { outcome: Some(answered(answer)) };
            Reply::Txn(v1::TxnDone { held, outcomes: answers.into_iter().map(done).collect() })
        }
        Answer::AclSet { generation, revision } => Reply::AclSet(v1::AclSet { generation, revision }),
        Answer::SessionOpened { .. } | Answer::SessionEnded => Reply::Failure(failure(
            Code::Internal,
            "an answer about a session where none was asked for".to_owned(),
        )),
    }
}

/// The caller knows which handle it asked about.
fn at(place: Place) -> v1::HandleState {
    v1::HandleState { place: place.into(), ..v1::HandleState::default() }
}

pub(super) fn stat(stat: &Stat) -> v1::Stat {
    v1::Stat {
        kind: kind(stat.kind).into(),
        instance: stat.instance,
        content_generation: stat.content_generation,
        lock_generation: stat.lock_generation,
        acl_generation: stat.acl_generation,
        checksum: stat.checksum,
        length: stat.length,
        children: stat.children,
        created_revision: stat.created_revision,
        modified_revision: stat.modified_revision,
        ephemeral: stat.ephemeral,
        acl: Some(acl(&stat.acl)),
    }
}

pub(super) fn kind(kind: NodeKind) -> v1::Kind {
    match kind {
        NodeKind::Directory => v1::Kind::Directory,
        NodeKind::File => v1::Kind::File,
        NodeKind::Counter => v1::Kind::Counter,
    }
}

fn acl(names: &AclNames) -> v1::AclNames {
    let text = |name: &str| name.to_owned();
    v1::AclNames { read: text(&names.read), write: text(&names.write), change_acl: text(&names.change_acl) }
}

pub(super) fn sequencer(sequencer: Sequencer) -> v1::Sequencer {
    let Sequencer { path, instance, generation, shared } = sequencer;
    v1::Sequencer { path: path.as_str().to_owned(), instance, generation, shared }
}
