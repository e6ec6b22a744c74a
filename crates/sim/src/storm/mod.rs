//! One storm: a cell, its applications, faults out of one seed, and the judgement at the end.

mod client;
pub mod disk;
mod failover;
mod judge;
mod ledger;
mod locks;
mod means;
mod picture;
mod replica;
pub mod timeline;
mod told;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bramah_cell::{Cell, Change};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::check::digests;
use crate::engine::{Engine, HostId, Pace, network::Link};
use crate::faults::{self, Fault};
use crate::history::Recorder;
use client::Application;
pub use judge::Report;
use ledger::Ledger;
pub use picture::picture;
pub use replica::{Manner, Replica};
use timeline::{Kind, Timeline};
use watch::Watch;

/// How long the cell may take to be one again after the last fault.
const CONVERGENCE_LIMIT_MS: u64 = 60_000;
/// After so long a change of the members is taken for given up.
const LONGEST_CHANGE_MS: u64 = 20_000;
/// Nothing strikes while the cell starts, in milliseconds.
const CALM_MS: u64 = 1_500;
/// An idle machine is run this often, in milliseconds. Machines that are far apart are run less often, which is as
/// exact: nothing that one does can reach another any sooner.
const QUANTUM_MS: u64 = 5;
/// How long a packet takes from continent to continent, in milliseconds.
const FAR_MS: (u64, u64) = (20, 70);
/// How often the replicas' states are compared, in milliseconds.
const SAMPLE_MS: u64 = 200;
/// Pause between two faults, in milliseconds.
const PAUSE_MS: (u64, u64) = (150, 2_500);
/// A cell that is whole does one write to a counter and one to a file within this, in milliseconds.
const PROOF_LIMIT_MS: u64 = 10_000;
/// When no session may be left: the calls under way take 6 s at most and the end of a session 2.5 s, a lease lasts 12 s
/// from then or from the last election, of which there may be two, and its end is looked for every half second.
const SESSIONS_LIMIT_MS: u64 = 28_000;
/// Leases that grew under load last so long, and so do all in the eyes of the next leader (spec S-2).
const LONGEST_LEASE_MS: u64 = 60_000;

/// What is to be simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All chance comes from here.
    pub seed: u64,
    /// 3 or 5.
    pub replicas: u64,
    /// Machines with applications.
    pub applications: u32,
    /// How long faults strike.
    pub seconds: u64,
    /// Longest pause of a worker of an application between two calls.
    pub think: Duration,
    /// The machines are on different continents: packets take long, and so do heartbeats and elections.
    pub far_apart: bool,
    /// Names of the faults that strike; none: calm.
    pub faults: Vec<String>,
    /// Instead of faults: so many leaders crash, one after the other, and how long nobody is served is measured.
    pub leader_crashes: u64,
}

impl Plan {
    /// Lets only these faults strike: names with commas between, `all` or `none`.
    ///
    /// # Errors
    /// When a name is no fault's.
    pub fn choose_faults(&mut self, names: &str) -> Result<(), UnknownFault> {
        let known: Vec<String> = faults::all().iter().map(|fault| fault.name().to_owned()).collect();
        self.faults = match names {
            "none" => Vec::new(),
            "all" => known,
            _ => {
                let chosen: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
                match chosen.iter().find(|name| !known.contains(name)) {
                    Some(name) => return Err(UnknownFault { name: name.clone(), known: known.join(", ") }),
                    None => chosen,
                }
            }
        };
        Ok(())
    }

    /// What a seed stands for.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x706c_616e);
        let names: Vec<String> = faults::all().iter().map(|fault| fault.name().to_owned()).collect();
        // Some storms are of a few faults that come often, some of all.
        let some = if random.random_ratio(1, 3) { names.len() } else { random.random_range(2..7) };
        let mut chosen = names;
        while chosen.len() > some {
            chosen.swap_remove(random.random_range(0..chosen.len()));
        }
        Self {
            seed,
            replicas: if random.random_ratio(1, 4) { 5 } else { 3 },
            applications: 3,
            seconds: 30,
            think: Duration::from_millis(300),
            far_apart: random.random_ratio(1, 5),
            faults: chosen,
            leader_crashes: 0,
        }
    }
}

/// A name that is no fault's.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is no fault; there are: {known}")]
pub struct UnknownFault {
    name: String,
    known: String,
}

type Later = Box<dyn FnOnce(&mut Storm)>;

/// A storm under way.
pub struct Storm {
    engine: Engine,
    plan: Plan,
    replicas: Vec<Replica>,
    watch: Watch,
    ledger: Ledger,
    timeline: Timeline,
    recorder: Recorder,
    random: StdRng,
    fired: BTreeMap<&'static str, u64>,
    later: BTreeMap<(u64, u64), Later>,
    serial: u64,
    enough: Arc<AtomicBool>,
    applications: Vec<HostId>,
    /// How many processes of applications there were so far.
    incarnations: u32,
    /// Until when a change of the members is under way at most, and whether it has come to its end.
    changing: Option<(u64, Arc<AtomicBool>)>,
    /// Replicas that were asked to leave for good.
    leaving: BTreeSet<u64>,
    failovers_us: Vec<u64>,
    /// When a copy of what clients had said last came again.
    replayed_until: u64,
    digests: Vec<digests::Record>,
    next_sample_ms: u64,
}

impl std::fmt::Debug for Storm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "storm of seed {} at {} ms", self.plan.seed, self.engine.now_ms())
    }
}

impl Storm {
    /// Runs a storm from its beginning to its judgement.
    pub fn run(plan: Plan) -> Report {
        let began = std::time::Instant::now();
        let mut storm = Storm::begin(plan);
        match storm.plan.leader_crashes {
            0 => storm.rage(),
            crashes => storm.crash_leaders(crashes),
        }
        storm.calm_down();
        judge::judge(storm, began)
    }

    fn begin(plan: Plan) -> Self {
        let timeline = Timeline::default();
        let mut storm = Self {
            engine: Engine::new(plan.seed, if plan.far_apart { FAR_MS.0 } else { QUANTUM_MS }),
            replicas: Vec::new(),
            watch: Watch::new(timeline.clone()),
            ledger: Ledger::default(),
            timeline,
            recorder: Recorder::new(crate::engine::now_ns),
            random: StdRng::seed_from_u64(plan.seed),
            fired: BTreeMap::new(),
            later: BTreeMap::new(),
            serial: 0,
            enough: Arc::default(),
            applications: Vec::new(),
            incarnations: 0,
            changing: None,
            leaving: BTreeSet::new(),
            failovers_us: Vec::new(),
            replayed_until: 0,
            digests: Vec::new(),
            next_sample_ms: 0,
            plan,
        };
        if storm.plan.far_apart {
            storm.network().set_usual(Link { delay_ms: FAR_MS, ..Link::default() });
        }
        for number in 1..=storm.plan.replicas {
            let host = storm.engine.add_host(&format!("replica {number}"));
            let seed = storm.random.random();
            let far_apart = storm.plan.far_apart;
            storm.replicas.push(Replica::new(host, number, seed, far_apart));
        }
        for replica in 0..storm.replicas.len() {
            storm.start(replica, Manner::Again);
        }
        for number in 0..storm.plan.applications {
            let host = storm.engine.add_host(&format!("application {number}"));
            storm.applications.push(host);
            storm.start_application(number);
        }
        storm
    }

    fn start_application(&mut self, number: u32) {
        let host = self.applications[number as usize];
        let application = self.application(host, number);
        self.engine.start(host, application.main());
    }

    fn application(&mut self, host: HostId, number: u32) -> Application {
        self.incarnations += 1;
        Application {
            number,
            incarnation: self.incarnations,
            seed: self.random.random(),
            addresses: self.replicas.iter().map(|replica| replica.member().1.client_address).collect(),
            transport: self.engine.transport(host),
            recorder: self.recorder.clone(),
            watch: self.watch.clone(),
            ledger: self.ledger.clone(),
            think: self.plan.think,
            enough: Arc::clone(&self.enough),
        }
    }

    /// Faults strike until the time is over.
    fn rage(&mut self) {
        let faults: Vec<Box<dyn Fault>> = faults::all()
            .into_iter()
            .filter(|fault| self.plan.faults.iter().any(|name| name == fault.name()))
            .collect();
        self.run_for(CALM_MS);
        let end = self.now_ms() + self.plan.seconds * 1_000;
        while self.now_ms() < end {
            if !faults.is_empty() {
                let which = self.random.random_range(0..faults.len());
                self.strike(faults[which].as_ref());
            }
            let pause = self.random.random_range(PAUSE_MS.0..=PAUSE_MS.1);
            self.run_for(pause.min(end - self.now_ms()));
        }
    }

    fn strike(&mut self, fault: &dyn Fault) {
        if let Some(what) = fault.strike(self) {
            self.timeline.note(None, Kind::Fault, &format!("{}: {what}", fault.name()));
        }
    }

    /// All faults end, everybody is back, and the applications stop.
    fn calm_down(&mut self) {
        let limit = self.now_ms() + LONGEST_CHANGE_MS;
        while self.changes_members() && self.now_ms() < limit {
            self.run_for(100);
        }
        while let Some((_, later)) = self.later.pop_first() {
            later(self);
        }
        self.engine.network().heal();
        for replica in 0..self.replicas.len() {
            self.replicas[replica].disk.heal();
            self.set_pace(replica, Pace::Rate(1.0));
            self.start_if_down(replica);
        }
        self.timeline.note(None, Kind::Healed, "all faults are over");
        // Some calls are still made while the cell finds together.
        self.run_for(1_000);
        self.enough.store(true, Ordering::Relaxed);
        let limit = self.now_ms() + CONVERGENCE_LIMIT_MS;
        while !self.is_one() && self.now_ms() < limit {
            self.run_for(100);
        }
        if !self.is_one() {
            let states: Vec<String> = self.replicas.iter().map(describe).collect();
            self.watch.report(format!(
                "the cell did not come together within {CONVERGENCE_LIMIT_MS} ms after the last fault: {}",
                states.join("; ")
            ));
        }
        self.prove_that_it_writes();
        self.read_everything();
        self.sample_states();
        self.see_the_last_events();
        self.see_sessions_end();
        let purged =
            self.replicas.iter().filter_map(Replica::cell).filter(|cell| cell.status().purged_index > 0);
        let purged = purged.count() > 0;
        self.fired_if("snapshots and purges", purged);
    }

    fn prove_that_it_writes(&mut self) {
        let host = self.engine.add_host("writer");
        let addresses = self.members().map(|replica| replica.member().1.client_address).collect();
        let application = Application { addresses, ..self.application(host, 0) };
        let done = Arc::new(AtomicBool::new(false));
        self.engine.start(host, client::prove(application, Arc::clone(&done)));
        let limit = self.now_ms() + PROOF_LIMIT_MS;
        while !done.load(Ordering::Relaxed) && self.now_ms() < limit {
            self.run_for(50);
        }
        if !done.load(Ordering::Relaxed) {
            self.watch.report(format!("a cell that came together did not write within {PROOF_LIMIT_MS} ms"));
        }
    }

    /// Every replica that is up has told of all changes that its state shows.
    fn see_the_last_events(&mut self) {
        self.run_for(SAMPLE_MS);
        for replica in self.members() {
            if let Some(cell) = replica.cell() {
                self.watch.ends(replica.number, &cell);
            }
        }
    }

    /// All applications are closed or dead: after their last leases nothing is left of them (spec S-8).
    fn see_sessions_end(&mut self) {
        let announced = |cell: &Cell| {
            cell.read(|state| state.sessions().any(|(_, session)| bramah_cell::is_announcement(session)))
        };
        let grown = self.members().filter_map(Replica::cell).any(|cell| announced(&cell));
        let patience = SESSIONS_LIMIT_MS + if grown { LONGEST_LEASE_MS } else { 0 };
        let limit = self.now_ms() + patience;
        while !self.sessions_left().is_empty() && self.now_ms() < limit {
            self.run_for(100);
        }
        for replica in self.members() {
            if let Some(cell) = replica.cell().filter(|cell| of_clients(cell).is_empty()) {
                self.ledger.look_at_the_end(replica.number, &cell.view());
            }
        }
        for left in self.sessions_left() {
            self.watch.report(format!("{left} {patience} ms after all applications are gone"));
        }
    }

    fn sessions_left(&self) -> Vec<String> {
        let left = self.members().filter_map(|replica| {
            let cell = replica.cell()?;
            let sessions = of_clients(&cell);
            (!sessions.is_empty()).then(|| format!("{replica:?} still has the sessions {sessions:?}"))
        });
        left.collect()
    }

    /// Reads every key through every replica, so that the history ends with what is there.
    fn read_everything(&mut self) {
        let members: Vec<u64> = self.members().map(|replica| replica.number).collect();
        for replica in (0..self.replicas.len()).filter(|it| members.contains(&(*it as u64 + 1))) {
            let host = self.engine.add_host("reader");
            let addresses = vec![self.replicas[replica].member().1.client_address];
            let application = Application { addresses, ..self.application(host, 0) };
            let done = Arc::new(AtomicBool::new(false));
            self.engine.start(host, client::read_all(application, Arc::clone(&done)));
            let limit = self.now_ms() + CONVERGENCE_LIMIT_MS;
            while !done.load(Ordering::Relaxed) && self.now_ms() < limit {
                self.run_for(50);
            }
            if !done.load(Ordering::Relaxed) {
                self.watch.report(format!("replica {} answers no reads at the end", replica + 1));
            }
        }
    }

    /// Whether all members are up, follow one leader, and have applied the same.
    fn is_one(&self) -> bool {
        let cells: Option<Vec<Cell>> = self.members().map(Replica::cell).collect();
        let Some(cells) = cells.filter(|cells| !cells.is_empty()) else { return false };
        let leaders: Vec<_> =
            cells.iter().map(|cell| cell.leadership().borrow().leader.as_ref().map(|(id, _)| *id)).collect();
        let statuses: Vec<_> = cells.iter().map(Cell::status).collect();
        leaders[0].is_some()
            && leaders.windows(2).all(|pair| pair[0] == pair[1])
            && statuses
                .iter()
                .all(|it| it.applied_index == statuses[0].last_log_index && it.trouble.is_empty())
    }

    /// The replicas that are members, as whoever knows of the newest change has it.
    fn members(&self) -> impl Iterator<Item = &Replica> {
        let ids: Vec<u64> = self.newest_members().into_iter().map(|(id, _)| id).collect();
        self.replicas.iter().filter(move |replica| ids.contains(&replica.number))
    }

    fn newest_members(&self) -> Vec<(u64, bool)> {
        let statuses = self.replicas.iter().filter_map(Replica::cell).map(|cell| cell.status());
        let newest = statuses.max_by_key(|status| status.applied_index);
        let members = newest.map(|status| status.members).unwrap_or_default();
        members.into_iter().map(|(id, _, votes)| (id, votes)).collect()
    }

    /// Goes on for so many simulated milliseconds.
    pub fn run_for(&mut self, ms: u64) {
        let end = self.engine.now_ms() + ms;
        while self.engine.now_ms() < end {
            let next = self.later.keys().next().map_or(end, |(due, _)| *due).clamp(self.engine.now_ms(), end);
            if next > self.engine.now_ms() {
                self.engine.step(next);
                self.look_after();
            }
            self.timeline.set_now_ms(self.engine.now_ms());
            if self.engine.now_ms() >= self.next_sample_ms {
                self.next_sample_ms = self.engine.now_ms() + SAMPLE_MS;
                self.sample_states();
            }
            while let Some(entry) = self.later.first_entry().filter(|it| it.key().0 <= self.engine.now_ms()) {
                entry.remove()(self);
            }
        }
    }

    /// Looks at every state, and notes its digest: two replicas that have applied the same must have the same (spec G-9).
    fn sample_states(&mut self) {
        let closing = self.watch.closing();
        for replica in &self.replicas {
            if let Some(cell) = replica.cell() {
                let (applied, view) = (cell.status().applied_index, cell.view());
                let digest = view.digest();
                self.digests.push(digests::Record { replica: replica.number, applied, digest });
                self.ledger.look(replica.number, applied, &view, &closing);
            }
        }
    }

    /// Sees to machines whose power a fault cut in the middle of a step, and to processes that ended.
    fn look_after(&mut self) {
        for replica in 0..self.replicas.len() {
            if let Some(step) = self.replicas[replica].disk.power_cut_at() {
                self.fired("crash at step");
                self.lose_power(replica, &step);
                let pause = self.time_away();
                self.restart_later(replica, pause);
            }
            self.see_ignored_failure(replica);
            self.see_early_entrance(replica);
            if std::mem::take(&mut self.replicas[replica].slot.lock().stopped) {
                self.timeline.note(Some(self.replicas[replica].number), Kind::Ended, "stopped");
                self.engine.kill(self.replicas[replica].host);
                self.replicas[replica].disk.died();
                self.restart_later(replica, 100);
            }
            let ended = self.replicas[replica].slot.lock().ended.take();
            if let Some(why) = ended {
                self.ended_by_itself(replica, &why);
            }
        }
    }

    /// A replica that forgot what it had promised takes part in all only once it was repaired (spec G-4).
    fn see_early_entrance(&mut self, replica: usize) {
        let Replica { lost_at: Some(lost_at), number, .. } = self.replicas[replica] else { return };
        let status = self.replicas[replica].cell().map(|cell| cell.status());
        let Some(status) = status.filter(|status| status.trouble.is_empty()) else { return };
        self.replicas[replica].lost_at = None;
        if status.applied_index < lost_at {
            let applied = status.applied_index;
            self.watch.report(format!(
                "replica {number} lost its folder after entry {lost_at} and takes part in all with entry {applied}"
            ));
        }
    }

    /// What an operator does when a replica ended with an error.
    fn ended_by_itself(&mut self, replica: usize, why: &str) {
        let number = self.replicas[replica].number;
        self.timeline.note(Some(number), Kind::Ended, why);
        self.engine.kill(self.replicas[replica].host);
        if why.contains("was removed from the cell") && self.leaving.contains(&number) {
            self.replicas[replica].retired = true;
            return;
        }
        match self.replicas[replica].disk.explains_end(why) {
            disk::Explanation::Damage => {
                self.fired("repair from the others");
                self.replicas[replica].disk.wipe();
                let applied =
                    self.replicas.iter().filter_map(Replica::cell).map(|cell| cell.status().applied_index);
                self.replicas[replica].lost_at = applied.max();
                self.start(replica, Manner::Replace);
            }
            disk::Explanation::Passing => {
                self.fired("failing disk");
                self.replicas[replica].disk.died();
                self.restart_later(replica, 700);
            }
            disk::Explanation::Alone | disk::Explanation::NoRoom => {
                self.replicas[replica].disk.died();
                self.restart_later(replica, 700);
            }
            disk::Explanation::None => {
                self.watch.report(format!("replica {number} ended without a cause: {why}"));
            }
        }
    }
}

/// Makes changes as an operator would: again, until each is done or refused for long.
async fn make(cell: &Cell, changes: Vec<Change>) -> bool {
    for change in changes {
        let mut tries = 0;
        while let Err(error) =
            cell.change_members(change.clone(), tokio::time::Instant::now() + Duration::from_secs(5)).await
        {
            tries += 1;
            tracing::info!(%error, ?change, "a change of the members was not made");
            if tries == 5 {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    true
}

/// Sessions of applications, as a replica has them.
fn of_clients(cell: &Cell) -> Vec<u64> {
    let of_client = |session: &bramah_machine::Session| !bramah_cell::is_announcement(session);
    cell.read(|state| state.sessions().filter(|(_, it)| of_client(it)).map(|(id, _)| id.0).collect())
}

fn describe(replica: &Replica) -> String {
    match replica.cell() {
        None => format!("{replica:?} is down"),
        Some(cell) => {
            let status = cell.status();
            format!(
                "{replica:?} is {} of term {} under {:?}, log to {}, applied {} {}",
                status.leadership.role,
                status.leadership.term,
                status.leadership.leader.as_ref().map(|(id, _)| *id),
                status.last_log_index,
                status.applied_index,
                status.trouble
            )
        }
    }
}
