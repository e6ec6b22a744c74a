//! Members come and go: a new replica joins and votes, a voter only learns for a while or leaves, one takes another's
//! place, several change in one joint step.

use std::collections::BTreeSet;

use bramah_cell::Change;
use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

/// A cell never has more replicas than this, running or not.
const MOST_REPLICAS: usize = 10;

pub(super) struct MembersChange;

impl Fault for MembersChange {
    fn name(&self) -> &'static str {
        "members change"
    }

    fn why(&self) -> &'static str {
        "old and new majorities overlap in every step, whoever dies between two of them (Raft section 6; spec G-7)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        if storm.changes_members() {
            return None;
        }
        let voters = storm.voters();
        let some_voter = voters[storm.random().random_range(0..voters.len())];
        let one = BTreeSet::from([some_voter]);
        let (what, changes) = match storm.random().random_range(0..5) {
            0 | 1 if storm.replica_count() < MOST_REPLICAS => {
                let (id, member) = storm.new_replica();
                let ids = BTreeSet::from([id]);
                let changes = vec![Change::Add { id, member }, Change::Promote { ids }];
                (format!("replica {id} joins and votes"), changes)
            }
            2 if storm.replica_count() < MOST_REPLICAS => {
                let (new, member) = storm.new_replica();
                let replace = Change::Replace { old: some_voter, new, member: Some(member) };
                (format!("replica {new} takes the place of {some_voter}"), vec![replace])
            }
            3 if voters.len() > 3 => {
                (format!("replica {some_voter} leaves"), vec![Change::Remove { ids: one }])
            }
            _ if voters.len() > 3 => {
                let fewer: BTreeSet<u64> =
                    voters.iter().copied().filter(|voter| *voter != some_voter).collect();
                let all: BTreeSet<u64> = voters.iter().copied().collect();
                let changes = vec![Change::Voters { ids: fewer }, Change::Voters { ids: all }];
                (format!("replica {some_voter} only learns for a while"), changes)
            }
            _ => return None,
        };
        storm.change_members(changes);
        Some(what)
    }
}
