//! The first entry of a new cell's log: the members it begins with.
//!
//! Every member writes the very same entry, with no leader's name in it, before it takes part in anything.
//! Were it written by each in its own name, the first leader would have to overwrite it at all the others.

use std::collections::{BTreeMap, BTreeSet};

use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::type_config::alias::{EntryOf, LeaderIdOf, LogIdOf};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};

use crate::config::CellConfig;
use crate::consensus::{Member, ReplicaId, TypeConfig};
use crate::error::StartError;
use crate::log::Log;

/// Begins the cell if this replica's log is empty and the settings say that the cell is new.
pub(crate) async fn begin(config: &CellConfig, log: &mut Log) -> Result<(), StartError> {
    let engine = |error: std::io::Error| StartError::Engine(error.to_string());
    let last = log.get_log_state().await.map_err(engine)?.last_log_id;
    if last.is_some() || log.read_vote().await.map_err(engine)?.is_some() {
        return Ok(());
    }
    if !config.bootstrap {
        return Err(StartError::NotBootstrapped(config.data.display().to_string()));
    }
    let members: BTreeMap<ReplicaId, Member> = config.members.iter().cloned().collect();
    let voters: BTreeSet<ReplicaId> = members.keys().copied().collect();
    let membership =
        Membership::new(vec![voters], members).map_err(|error| StartError::Config(error.to_string()))?;
    let nobody = LeaderIdOf::<TypeConfig>::new(0, 0);
    let first = LogIdOf::<TypeConfig>::new(nobody.to_committed(), 0);
    let entry = EntryOf::<TypeConfig>::new(first, EntryPayload::Membership(membership));
    log.blocking_append([entry]).await.map_err(|error| StartError::Engine(error.to_string()))
}

/// Whether the replica has ever voted, or has more in its log than the entry that every new cell begins with.
pub(crate) async fn has_history(log: &mut Log) -> Result<bool, StartError> {
    let engine = |error: std::io::Error| StartError::Engine(error.to_string());
    let last = log.get_log_state().await.map_err(engine)?.last_log_id;
    Ok(last.is_some_and(|last| last.index > 0) || log.read_vote().await.map_err(engine)?.is_some())
}
