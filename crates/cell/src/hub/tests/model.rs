//! The hub against a naive model: everything that ever happened in a list, and each watch reads it from where it began.

use std::collections::BTreeMap;

use bramah_machine::{Change, Event, HandleId, SessionId};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Begun, Bounds, Follower, Hub, Interest, Kinds, Told};
use super::{event, path};
use std::sync::Arc;

const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/d"];

const SESSION: SessionId = SessionId(1);

#[derive(Clone, Debug)]
enum Step {
    /// An entry with these events: where, what, and whether it is another command's.
    Happens(Vec<(usize, u8, bool)>),
    /// A replica applies so many entries.
    Applies(usize, usize),
    /// A replica gets a snapshot of all that has happened.
    GetsSnapshot(usize),
    /// The dispatch task of a replica runs.
    HandsOut(usize),
    /// A watch begins: its number, place, kinds, and how far back.
    Watches(u64, usize, bool, u16, Option<u64>),
    Unwatches(u64),
    Takes(usize),
    /// The client goes to this replica with all its watches.
    Reconnects(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let happens = vec((0..PATHS.len(), 0..5_u8, any::<bool>()), 1..5).prop_map(Step::Happens);
    let watches = (0..4_u64, 0..PATHS.len(), any::<bool>(), 1..16_u16, proptest::option::of(0..12_u64))
        .prop_map(|(number, at, subtree, kinds, back)| Step::Watches(number, at, subtree, kinds, back));
    prop_oneof![
        6 => happens,
        6 => (0..2_usize, 1..6_usize).prop_map(|(replica, entries)| Step::Applies(replica, entries)),
        1 => (0..2_usize).prop_map(Step::GetsSnapshot),
        6 => (0..2_usize).prop_map(Step::HandsOut),
        4 => watches,
        1 => (0..4_u64).prop_map(Step::Unwatches),
        6 => (1..8_usize).prop_map(Step::Takes),
        2 => (0..2_usize).prop_map(Step::Reconnects),
    ]
}

/// One replica: its hub, and how many entries it has applied.
struct Replica {
    hub: Arc<Hub>,
    applied: usize,
}

/// A watch as its client knows it.
struct Watch {
    interest: Interest,
    /// It is owed what comes after this.
    since: u64,
    /// The numbers of the events that it was told since then.
    told: Vec<u64>,
    /// It was told all up to this revision.
    position: u64,
}

struct World {
    runtime: tokio::runtime::Runtime,
    /// The entries, all that ever happened.
    entries: Vec<Vec<Event>>,
    revision: u64,
    events: u64,
    replicas: [Replica; 2],
    at: usize,
    follower: Follower,
    watches: BTreeMap<u64, Watch>,
    /// What the session is owed of its own handles.
    own: Watch,
}

const KINDS: [Kinds; 4] =
    [Kinds::CONTENTS_MODIFIED, Kinds::COUNTER_CHANGED, Kinds::ACL_CHANGED, Kinds::LOCK_ACQUIRED];

/// Each event has its number in what it tells.
fn change(what: u8, number: u64) -> Change {
    let handle = HandleId(1);
    match what {
        0 => Change::ContentsModified { generation: number },
        1 => Change::CounterChanged { value: number as i64 },
        2 => Change::AclChanged { generation: number },
        _ => Change::LockAcquired {
            session: SessionId(u64::from(what) - 2),
            handle,
            generation: number,
            shared: false,
            waited: true,
        },
    }
}

fn number(event: &Event) -> u64 {
    match event.change {
        Change::CounterChanged { value } => value as u64,
        Change::ContentsModified { generation }
        | Change::AclChanged { generation }
        | Change::LockAcquired { generation, .. } => generation,
        _ => unreachable!("the model makes no others"),
    }
}

fn wants(interest: &Interest, event: &Event) -> bool {
    let (top, at) = (interest.path.as_str(), event.path.as_str());
    let below =
        interest.subtree && (top == "/" || at.strip_prefix(top).is_some_and(|rest| rest.starts_with('/')));
    (top == at || below) && interest.kinds.intersects(Kinds::of(&event.change))
}

fn is_own(event: &Event) -> bool {
    matches!(event.change, Change::LockAcquired { session: SESSION, .. })
}

impl Watch {
    fn resumed(&mut self, begun: u64) {
        (self.since, self.position) = (begun, begun);
        self.told.clear();
    }

    /// What was told is the beginning of what is owed, and all of it up to a revision.
    fn check(&self, owed: &[(u64, u64)], upto: u64, what: &str) {
        let numbers: Vec<u64> = owed.iter().map(|(_, number)| *number).collect();
        assert!(numbers.starts_with(&self.told), "{what} was told {:?} of {owed:?}", self.told);
        let due = owed.iter().filter(|(revision, _)| *revision <= upto).count();
        assert!(self.told.len() >= due, "{what} was told {:?} of {owed:?} up to {upto}", self.told);
    }
}

impl World {
    fn new(bounds: [(usize, usize); 2]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let replicas = bounds.map(|(events, inbox)| {
            let bounds = Bounds { events, bytes: 1 << 20, inbox };
            Replica { hub: Hub::new(bounds, 5), applied: 0 }
        });
        let follower = replicas[0].hub.follow(SESSION);
        let interest = Interest { number: 0, path: path("/"), subtree: true, kinds: Kinds::ALL, after: None };
        let own = Watch { interest, since: 5, told: Vec::new(), position: 5 };
        Self {
            runtime,
            entries: Vec::new(),
            revision: 5,
            events: 0,
            replicas,
            at: 0,
            follower,
            watches: BTreeMap::new(),
            own,
        }
    }

    fn hub_revision(&self) -> u64 {
        self.replicas[self.at].hub.ring.lock().end().revision
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Happens(events) => self.happen(events),
            Step::Applies(replica, entries) => self.apply(replica, entries),
            Step::GetsSnapshot(replica) => {
                self.replicas[replica].applied = self.entries.len();
                self.replicas[replica].hub.begin_anew(self.revision);
            }
            Step::HandsOut(replica) => self.runtime.block_on(self.replicas[replica].hub.hand_out()),
            Step::Watches(number, at, subtree, kinds, back) => self.watch(number, at, subtree, kinds, back),
            Step::Unwatches(number) => {
                self.follower.unwatch(number);
                self.watches.remove(&number);
            }
            Step::Takes(most) => drop(self.take(most)),
            Step::Reconnects(replica) => self.reconnect(replica),
        }
    }

    fn happen(&mut self, events: Vec<(usize, u8, bool)>) {
        let mut entry = Vec::new();
        for (at, what, another) in events {
            self.revision += u64::from(another || entry.is_empty());
            self.events += 1;
            entry.push(event(self.revision, PATHS[at], change(what, self.events)));
        }
        self.entries.push(entry);
    }

    fn apply(&mut self, replica: usize, entries: usize) {
        let replica = &mut self.replicas[replica];
        for entry in self.entries.iter().skip(replica.applied).take(entries) {
            replica.hub.push(entry.clone());
            replica.applied += 1;
        }
    }

    fn watch(&mut self, number: u64, at: usize, subtree: bool, kinds: u16, back: Option<u64>) {
        let mut set = Kinds::NONE;
        (0..4).filter(|bit| kinds & 1 << bit != 0).for_each(|bit| set |= KINDS[bit]);
        let after = back.map(|back| self.hub_revision().saturating_sub(back));
        let interest = Interest { number, path: path(PATHS[at]), subtree, kinds: set, after };
        self.watches.remove(&number);
        let watch = Watch { interest: interest.clone(), since: 0, told: Vec::new(), position: 0 };
        self.watches.insert(number, watch);
        self.begin(interest);
    }

    fn begin(&mut self, interest: Interest) {
        let (number, after, now) = (interest.number, interest.after, self.hub_revision());
        let Begun { revision, gap } = self.follower.watch(interest).expect("there is room");
        let kept = after.is_none_or(|after| after >= self.replicas[self.at].hub.ring.lock().begins_after());
        assert_eq!(gap, !kept);
        assert_eq!(revision, after.filter(|_| !gap).unwrap_or(now));
        self.watches.get_mut(&number).expect("it was put there").resumed(revision);
    }

    fn reconnect(&mut self, replica: usize) {
        self.at = replica;
        self.follower = self.replicas[replica].hub.follow(SESSION);
        let now = self.hub_revision();
        self.own.resumed(now);
        for number in Vec::from_iter(self.watches.keys().copied()) {
            let watch = &self.watches[&number];
            self.begin(Interest { after: Some(watch.position), ..watch.interest.clone() });
        }
    }

    fn take(&mut self, most: usize) -> bool {
        let (seen, begins) = (self.follower.seen(), self.replicas[self.at].hub.ring.lock().begins_after());
        let Some(told) = self.follower.take(most) else { return false };
        assert!(told.events.len() <= most);
        let revisions = told.events.iter().map(|delivery| delivery.event.revision);
        assert!(revisions.is_sorted(), "{told:?}");
        assert!(told.lagged.is_empty() && !told.own_lagged || seen < begins, "nothing was lost: {told:?}");
        self.hear(&told);
        true
    }

    fn hear(&mut self, told: &Told) {
        for delivery in &told.events {
            assert!(delivery.own || !delivery.watches.is_empty(), "{told:?}");
            for watch in &delivery.watches {
                let watch = self.watches.get_mut(watch).expect("the watch has not ended");
                watch.told.push(number(&delivery.event));
            }
            if delivery.own {
                self.own.told.push(number(&delivery.event));
            }
        }
        let now = self.hub_revision();
        for (number, resume) in &told.lagged {
            assert_eq!(*resume, now);
            self.watches.get_mut(number).expect("the watch has not ended").resumed(*resume);
        }
        if told.own_lagged {
            self.own.resumed(now);
        }
        for watch in self.watches.values_mut() {
            watch.position = watch.position.max(told.revision);
        }
        self.check(told.revision);
    }

    fn check(&self, upto: u64) {
        let happened = || self.entries.iter().flatten();
        let owed = |watch: &Watch, wants: &dyn Fn(&Event) -> bool| -> Vec<(u64, u64)> {
            let owed = happened().filter(|event| event.revision > watch.since && wants(event));
            owed.map(|event| (event.revision, number(event))).collect()
        };
        for (number, watch) in &self.watches {
            watch.check(
                &owed(watch, &|event| wants(&watch.interest, event)),
                upto,
                &format!("watch {number}"),
            );
        }
        self.own.check(&owed(&self.own, &is_own), upto, "the session");
    }

    /// In the end all is told.
    fn end(&mut self) {
        self.apply(self.at, usize::MAX);
        let hub = Arc::clone(&self.replicas[self.at].hub);
        loop {
            self.runtime.block_on(hub.hand_out());
            if !self.take(3) {
                break;
            }
        }
        assert_eq!(self.follower.seen(), self.revision);
        self.check(self.revision);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Spec E-3, E-4: whatever happens, is watched, lost and resumed, in tiny rings and inboxes: each watch is told
    /// what it is owed, in order, none missing and none twice, or that it lagged.
    #[test]
    fn watches_are_told_what_they_are_owed(
        bounds in [(1..20_usize, 1..4_usize), (1..40_usize, 1..4_usize)],
        steps in vec(step(), 1..60),
    ) {
        let mut world = World::new(bounds);
        steps.into_iter().for_each(|step| world.take_step(step));
        world.end();
    }
}
