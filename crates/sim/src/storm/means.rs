//! What faults can do to a storm's machines, and what they can know of them.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bramah_cell::Change;
use rand::RngExt;
use rand::rngs::StdRng;
use twox_hash::XxHash3_64;

use super::replica::{Known, Slot};
use super::timeline::Kind;
use super::{LONGEST_CHANGE_MS, Manner, Replica, Storm, disk, make};
use crate::engine::network::Network;
use crate::engine::{HostId, Pace};

/// What a new machine's wall clock is off by at most: a day.
const WALL_OFF_MS: i64 = 86_400_000;

impl Storm {
    /// Simulated milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.engine.now_ms()
    }

    /// Where chance comes from.
    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// The network.
    pub fn network(&self) -> Network {
        self.engine.network().clone()
    }

    /// How many replicas there are.
    pub fn replica_count(&self) -> usize {
        self.replicas.len()
    }

    /// A replica's disk.
    pub fn disk(&mut self, replica: usize) -> &mut disk::HostDisk {
        &mut self.replicas[replica].disk
    }

    /// The machine of a replica.
    pub fn host_of(&self, replica: usize) -> HostId {
        self.replicas[replica].host
    }

    /// Whether a replica's process runs.
    pub fn is_up(&self, replica: usize) -> bool {
        self.engine.host(self.replicas[replica].host).is_up()
    }

    /// A replica whose process runs, by chance.
    pub fn any_up(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.replicas.len()).filter(|replica| self.is_up(*replica)).collect();
        (!up.is_empty()).then(|| up[self.random.random_range(0..up.len())])
    }

    /// The leader as it sees itself, else any replica that is up: faults at the leader teach most.
    pub fn leader_or_any(&mut self) -> Option<usize> {
        let leader = self.leader();
        if leader.is_some() && self.random.random_ratio(2, 3) { leader } else { self.any_up() }
    }

    /// The leader, as it sees itself.
    pub fn leader(&self) -> Option<usize> {
        (0..self.replicas.len()).find(|replica| {
            self.replicas[*replica].cell().is_some_and(|cell| cell.leadership().borrow().here)
        })
    }

    /// A replica, up or not, by chance.
    pub fn any_replica(&mut self) -> usize {
        self.random.random_range(0..self.replicas.len())
    }

    /// The machines of two replicas, by chance.
    pub fn two_replicas(&mut self) -> Option<(HostId, HostId)> {
        let one = self.any_replica();
        let other = (one + self.random.random_range(1..self.replicas.len())) % self.replicas.len();
        Some((self.replicas[one].host, self.replicas[other].host))
    }

    /// All machines, those of applications too.
    pub fn hosts(&self) -> Vec<HostId> {
        self.replicas.iter().map(|replica| replica.host).chain(self.applications.iter().copied()).collect()
    }

    /// Two machines, by chance.
    pub fn two_hosts(&mut self) -> (HostId, HostId) {
        let hosts = self.hosts();
        let one = self.random.random_range(0..hosts.len());
        let other = (one + self.random.random_range(1..hosts.len())) % hosts.len();
        (hosts[one], hosts[other])
    }

    /// The machine of an application, by chance.
    pub fn any_application(&mut self) -> HostId {
        self.applications[self.random.random_range(0..self.applications.len())]
    }

    /// The machines of the other replicas.
    pub fn other_hosts(&self, replica: usize) -> Vec<HostId> {
        self.replicas.iter().map(|it| it.host).filter(|host| *host != self.replicas[replica].host).collect()
    }

    /// Lets nothing through on these links for a while.
    pub fn block(&mut self, fault: &'static str, links: Vec<(HostId, HostId)>, lasts_ms: u64) {
        let set = |storm: &Storm, links: &[(HostId, HostId)], blocked: bool| {
            for (from, to) in links {
                storm.network().set_link(*from, *to, |link| link.block(blocked));
            }
        };
        let before = self.network().counts().blocked;
        set(self, &links, true);
        self.later(lasts_ms, move |storm| {
            set(storm, &links, false);
            let blocked = storm.network().counts().blocked > before;
            storm.fired_if(fault, blocked);
        });
    }

    /// Has a leader hand leadership over.
    pub fn hand_over(&mut self, replica: usize) {
        if let Some(cell) = self.replicas[replica].cell() {
            self.engine.also(self.replicas[replica].host, async move { cell.hand_over().await });
        }
    }

    /// Stops a replica as SIGTERM would; it is started again when it has ended.
    pub fn stop(&mut self, replica: usize) {
        let stop = self.replicas[replica].slot.lock().stop.take();
        let _ = stop.map(|stop| stop.send(()));
    }

    /// How a replica's process gets along with time.
    pub fn set_pace(&mut self, replica: usize, pace: Pace) {
        let host = self.replicas[replica].host;
        if self.engine.host(host).is_up() {
            self.engine.set_pace(host, pace);
        }
    }

    /// Has a replica's process get along with time like this for a while, unless something else changes it before.
    pub fn pace_for(&mut self, replica: usize, pace: Pace, lasts_ms: u64) {
        self.set_pace(replica, pace);
        let host = self.replicas[replica].host;
        let change = self.engine.host(host).pace_changes();
        self.later(lasts_ms, move |storm| {
            if storm.engine.host(host).pace_changes() == change {
                storm.set_pace(replica, Pace::Rate(1.0));
            }
        });
    }

    /// Moves a replica's wall clock.
    pub fn jump_wall_clock(&mut self, replica: usize, by_ms: i64) {
        self.replicas[replica].wall_off_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Starts a replica's process.
    pub fn start(&mut self, replica: usize, manner: Manner) {
        if self.replicas[replica].starts == 0 {
            // No two machines agree on the time: the wall clock is read when a cell begins.
            let off = self.random.random_range(-WALL_OFF_MS..=WALL_OFF_MS);
            self.jump_wall_clock(replica, off);
        }
        let founders = self.replicas.iter().filter(|it| !it.joins).map(Replica::member).collect();
        let others =
            self.replicas.iter().filter(|it| it.number != self.replicas[replica].number && !it.retired);
        let members = Known { founders, peers: others.map(|it| it.member().1.peer_address).collect() };
        let host = self.replicas[replica].host;
        let transport = self.engine.transport(host);
        let watch = self.watch.clone();
        let main = self.replicas[replica].main(members, manner, transport, watch);
        self.engine.start(host, main);
        self.timeline.note(Some(self.replicas[replica].number), Kind::Started, "started");
    }

    pub(super) fn start_if_down(&mut self, replica: usize) {
        if !self.is_up(replica) && !self.replicas[replica].retired {
            self.start(replica, Manner::Again);
        }
    }

    /// Ends a replica's process as SIGKILL would.
    pub fn kill(&mut self, replica: usize) {
        if self.is_up(replica) {
            self.replicas[replica].disk.kill();
            self.engine.kill(self.replicas[replica].host);
            *self.replicas[replica].slot.lock() = Slot::default();
            self.timeline.note(Some(self.replicas[replica].number), Kind::Ended, "killed");
        }
    }

    /// Cuts the power of a replica's machine: what was not synced is lost, kept or torn.
    pub fn cut_power(&mut self, replica: usize) {
        if self.is_up(replica) {
            self.lose_power(replica, "between two steps");
        }
    }

    pub(super) fn lose_power(&mut self, replica: usize, step: &str) {
        self.engine.cut_power(self.replicas[replica].host);
        *self.replicas[replica].slot.lock() = Slot::default();
        let lost = self.replicas[replica].disk.lose_power(&mut self.random);
        for (name, times) in [("lost writes", lost.lost), ("torn write", lost.torn)] {
            if times > 0 {
                self.fired(name);
            }
        }
        let what =
            format!("power cut {step}: {} sectors lost, {} torn, {} kept", lost.lost, lost.torn, lost.kept);
        self.timeline.note(Some(self.replicas[replica].number), Kind::Ended, &what);
    }

    /// A replica that goes on after its disk failed to keep what must last promises what it can't know.
    pub(super) fn see_ignored_failure(&mut self, replica: usize) {
        let runs = matches!(self.engine.host(self.replicas[replica].host).pace(), Pace::Rate(_));
        if let Some(what) = self.replicas[replica].disk.ignored_failure(self.now_ms(), runs) {
            self.watch.report(format!("replica {} goes on, though \"{what}\" had failed", replica + 1));
        }
    }

    /// A number that two runs have in common only if packets came at the same instants, the same bytes were
    /// written, and clients were told the same.
    pub(super) fn fingerprint(&self, history: &crate::history::History) -> u64 {
        let mut all = XxHash3_64::with_seed(self.engine.fingerprint());
        self.replicas.iter().for_each(|replica| all.write_u64(replica.disk.fingerprint()));
        all.write(format!("{history:?}").as_bytes());
        all.finish()
    }

    /// Starts a replica again after a while, if it is down then.
    pub fn restart_later(&mut self, replica: usize, after_ms: u64) {
        self.later(after_ms, move |storm| storm.start_if_down(replica));
    }

    /// How long a replica stays away: half of them come back before anybody has missed them, as a supervisor starts them.
    pub fn time_away(&mut self) -> u64 {
        if self.random.random_bool(0.5) {
            self.random.random_range(5..120)
        } else {
            self.random.random_range(120..4_000)
        }
    }

    /// Does something after so many milliseconds, at the latest when the storm is over.
    pub fn later(&mut self, after_ms: u64, work: impl FnOnce(&mut Storm) + 'static) {
        self.serial += 1;
        self.later.insert((self.engine.now_ms() + after_ms, self.serial), Box::new(work));
    }

    /// A fault had its effect.
    pub fn fired(&mut self, fault: &'static str) {
        *self.fired.entry(fault).or_default() += 1;
    }

    /// As [`Storm::fired`], if it really had one.
    pub fn fired_if(&mut self, fault: &'static str, really: bool) {
        if really {
            self.fired(fault);
        }
    }

    /// Whether a change of the members is under way.
    pub fn changes_members(&self) -> bool {
        let under_way =
            |(until, done): &(u64, Arc<AtomicBool>)| self.now_ms() < *until && !done.load(Ordering::Relaxed);
        self.changing.as_ref().is_some_and(under_way)
    }

    /// The numbers of the members that vote; those that the cell began with, if nobody says more.
    pub fn voters(&self) -> Vec<u64> {
        let votes = self.newest_members().into_iter().filter(|(_, votes)| *votes).map(|(id, _)| id);
        let voters: Vec<u64> = votes.collect();
        if voters.is_empty() { (1..=self.plan.replicas).collect() } else { voters }
    }

    /// Starts a replica that waits to be taken into the cell.
    pub fn new_replica(&mut self) -> (u64, bramah_cell::Member) {
        let number = self.replicas.len() as u64 + 1;
        let host = self.engine.add_host(&format!("replica {number}"));
        let seed = self.random.random();
        let mut replica = Replica::new(host, number, seed, self.plan.far_apart);
        replica.joins = true;
        let member = replica.member();
        self.replicas.push(replica);
        self.start(self.replicas.len() - 1, Manner::Again);
        member
    }

    /// Has these changes of the members made, one after the other, by whichever replica is up.
    pub fn change_members(&mut self, changes: Vec<Change>) {
        let Some(asked) = self.any_up() else { return };
        let Some(cell) = self.replicas[asked].cell() else { return };
        for change in &changes {
            match change {
                Change::Remove { ids } => self.leaving.extend(ids),
                Change::Replace { old, .. } => drop(self.leaving.insert(*old)),
                _ => {}
            }
        }
        let done = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicBool::new(false));
        self.changing = Some((self.now_ms() + LONGEST_CHANGE_MS, Arc::clone(&done)));
        let (ended, succeeded) = (Arc::clone(&done), Arc::clone(&made));
        self.engine.also(self.replicas[asked].host, async move {
            succeeded.store(make(&cell, changes).await, Ordering::Relaxed);
            ended.store(true, Ordering::Relaxed);
        });
        self.later(LONGEST_CHANGE_MS, move |storm| {
            storm.fired_if("members change", made.load(Ordering::Relaxed))
        });
    }

    /// Kills an application's process and starts another in its place.
    pub fn replace_application(&mut self) {
        let number = self.random.random_range(0..self.plan.applications);
        self.engine.kill(self.applications[number as usize]);
        self.start_application(number);
    }

    /// A copy of what was once said has come again. So a command that was refused for certain may be done after all: a
    /// network that copies is nothing that the client, or the cell, could know of.
    pub fn was_replayed(&mut self) {
        self.replayed_until = self.now_ms() * 1_000_000;
    }

    /// Whether one replica's data may be destroyed: only while all others have theirs, found damaged or not, and are a
    /// majority without it in the eyes of everybody.
    pub fn may_damage(&mut self, replica: usize) -> bool {
        let is_whole = |other: &Replica| {
            !other.disk.is_damaged() && other.cell().is_some_and(|cell| cell.status().trouble.is_empty())
        };
        let mut others =
            self.replicas.iter().enumerate().filter(|(other, it)| *other != replica && !it.retired);
        let number = self.replicas[replica].number;
        let sets = self.replicas.iter().filter_map(Replica::cell).flat_map(|cell| cell.status().voter_sets);
        let is_spared = sets.into_iter().all(|voters| !voters.contains(&number) || voters.len() > 2);
        is_spared && others.all(|(_, other)| is_whole(other))
    }
}
