//! Where the members are: what the cell has agreed on, and what this replica's settings say.
//!
//! The engine goes on with a connection when a member's address changes, so connections look here. If a member does
//! not answer where the cell says it is, it is tried where the settings say: after all replicas were moved at once
//! nobody could tell the others. Each message names the replica it is for, so a wrong address does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::consensus::{Member, ReplicaId};

/// Addresses of replicas without numbers that are kept.
const MOST_SEEDS: usize = 32;

/// The members' addresses. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Roster(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    agreed: BTreeMap<ReplicaId, Member>,
    configured: BTreeMap<ReplicaId, Member>,
    /// Peers' addresses of replicas whose numbers are not known.
    seeds: Vec<String>,
    /// Those to be tried where the settings say.
    elsewhere: BTreeSet<ReplicaId>,
    /// Since when members don't answer where they are tried.
    silent_since: BTreeMap<ReplicaId, Instant>,
}

/// A member that has not answered for so long is tried at its other address: one late answer says nothing, and a
/// connection takes its time to come about.
const PATIENCE: Duration = Duration::from_secs(1);

impl Roster {
    /// What the settings say: members, and addresses of some of the cell's replicas.
    pub(crate) fn new(configured: &[(ReplicaId, Member)], seeds: &[String]) -> Self {
        let configured = configured.iter().cloned().collect();
        let table = Table { configured, seeds: seeds.to_vec(), ..Table::default() };
        Self(Arc::new(Mutex::new(table)))
    }

    /// The members as the newest entry in this replica's log has them.
    pub(crate) fn agree<'a>(&self, nodes: impl Iterator<Item = (&'a ReplicaId, &'a Member)>) {
        let agreed = nodes.map(|(id, member)| (*id, member.clone())).collect();
        let mut table = self.0.lock();
        if table.agreed != agreed {
            table.agreed = agreed;
            table.elsewhere.clear();
            table.silent_since.clear();
        }
    }

    /// Where to reach a member's peers' port now; `given` if nothing else is known of it.
    pub(crate) fn peer_address(&self, id: ReplicaId, given: &Member) -> String {
        let table = self.0.lock();
        let agreed = table.agreed.get(&id).unwrap_or(given);
        let member = match table.elsewhere.contains(&id) {
            true => table.configured.get(&id).unwrap_or(agreed),
            false => agreed,
        };
        member.peer_address.clone()
    }

    /// It has answered.
    pub(crate) fn answered(&self, id: ReplicaId) {
        self.0.lock().silent_since.remove(&id);
    }

    /// It does not answer at this address: after a while it is tried at the other one, if there is one.
    pub(crate) fn failed(&self, id: ReplicaId, address: &str) {
        let mut table = self.0.lock();
        let now = Instant::now();
        if now - *table.silent_since.entry(id).or_insert(now) < PATIENCE {
            return;
        }
        table.silent_since.remove(&id);
        let agreed = table.agreed.get(&id).is_some_and(|member| member.peer_address == address);
        let differs = table.configured.get(&id).is_some_and(|member| member.peer_address != address);
        match agreed && differs {
            true => table.elsewhere.insert(id),
            false => table.elsewhere.remove(&id),
        };
    }

    /// What the settings say of a member.
    pub(crate) fn configured(&self, id: ReplicaId) -> Option<Member> {
        self.0.lock().configured.get(&id).cloned()
    }

    /// The peers' addresses at which any other replica may be found, each once.
    pub(crate) fn others(&self, own: ReplicaId) -> BTreeSet<String> {
        let table = self.0.lock();
        let members = table.agreed.iter().chain(&table.configured);
        let addresses = members.filter(|(id, _)| **id != own).map(|(_, member)| &member.peer_address);
        let own = table.agreed.get(&own).or(table.configured.get(&own)).map(|member| &member.peer_address);
        let known = addresses.chain(&table.seeds).filter(|address| !address.is_empty());
        known.filter(|address| Some(*address) != own).cloned().collect()
    }

    /// The peers' addresses of the members that the cell has agreed on.
    pub(crate) fn agreed(&self) -> Vec<String> {
        self.0.lock().agreed.values().map(|member| member.peer_address.clone()).collect()
    }

    /// Another replica says that members are reached here. The newest of such addresses are kept: the settings of
    /// a replica that was away may name nobody who is still a member.
    pub(crate) fn heard(&self, addresses: Vec<String>) {
        let mut table = self.0.lock();
        for address in addresses {
            if !table.seeds.contains(&address) {
                table.seeds.push(address);
            }
        }
        let surplus = table.seeds.len().saturating_sub(MOST_SEEDS);
        table.seeds.drain(..surplus);
    }

    /// The members and their addresses, for people.
    pub(crate) fn describe(&self) -> String {
        let table = self.0.lock();
        let members = if table.agreed.is_empty() { &table.configured } else { &table.agreed };
        let list = members.iter().map(|(id, member)| format!("{id} ({})", member.peer_address));
        list.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(port: u16) -> Member {
        Member { peer_address: format!("a:{port}"), client_address: format!("b:{port}") }
    }

    /// Spec G-7: a member that does not answer where the cell says it is, is looked for where the settings say.
    #[tokio::test(start_paused = true)]
    async fn both_addresses_are_tried_in_turns() {
        let roster = Roster::new(&[(1, member(1)), (2, member(20))], &["c:3".to_owned()]);
        assert_eq!(roster.peer_address(2, &member(9)), "a:9", "nothing is agreed on");
        roster.agree([(1, member(1)), (2, member(2))].iter().map(|(id, member)| (id, member)));
        assert_eq!(roster.peer_address(2, &member(9)), "a:2");
        let silent = async |id, address: &str| {
            roster.failed(id, address);
            tokio::time::sleep(PATIENCE).await;
            roster.failed(id, address);
        };
        silent(2, "a:2").await;
        assert_eq!(roster.peer_address(2, &member(9)), "a:20");
        silent(2, "a:20").await;
        assert_eq!(roster.peer_address(2, &member(9)), "a:2");
        roster.failed(2, "a:2");
        tokio::time::sleep(PATIENCE).await;
        roster.answered(2);
        roster.failed(2, "a:2");
        assert_eq!(roster.peer_address(2, &member(9)), "a:2", "it was late once and answered since");
        silent(1, "a:1").await;
        assert_eq!(roster.peer_address(1, &member(9)), "a:1", "there is no other address");
        assert_eq!(roster.others(1), ["a:2", "a:20", "c:3"].map(str::to_owned).into());
        assert_eq!(roster.describe(), "1 (a:1), 2 (a:2)");
    }

    /// A replica whose settings are old finds the members through whoever knows one of them.
    #[test]
    fn addresses_that_others_name_are_tried_too_and_are_bounded() {
        let roster = Roster::new(&[(1, member(1))], &[]);
        roster.heard(vec!["d:7".to_owned(), "d:7".to_owned()]);
        assert_eq!(roster.others(1), ["d:7".to_owned()].into());
        roster.heard((0..100).map(|port| format!("e:{port}")).collect());
        assert_eq!(roster.others(1).len(), MOST_SEEDS);
        assert!(roster.others(1).contains("e:99"), "the newest stay");
    }
}
