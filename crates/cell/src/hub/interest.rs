//! What a follower wants to be told of, and which of its watches an event is for.

use std::collections::{BTreeMap, HashMap};

use bramah_machine::{Change, Event, Path};

/// Kinds of changes: a set of [`Change`]'s variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u16);

impl Kinds {
    /// [`Change::Created`].
    pub const CREATED: Kinds = Kinds(1);
    /// [`Change::ContentsModified`].
    pub const CONTENTS_MODIFIED: Kinds = Kinds(1 << 1);
    /// [`Change::CounterChanged`].
    pub const COUNTER_CHANGED: Kinds = Kinds(1 << 2);
    /// [`Change::Deleted`].
    pub const DELETED: Kinds = Kinds(1 << 3);
    /// [`Change::AclChanged`].
    pub const ACL_CHANGED: Kinds = Kinds(1 << 4);
    /// [`Change::LockAcquired`].
    pub const LOCK_ACQUIRED: Kinds = Kinds(1 << 5);
    /// [`Change::LockWanted`].
    pub const LOCK_WANTED: Kinds = Kinds(1 << 6);
    /// [`Change::LockReleased`].
    pub const LOCK_RELEASED: Kinds = Kinds(1 << 7);
    /// [`Change::LockLost`].
    pub const LOCK_LOST: Kinds = Kinds(1 << 8);
    /// [`Change::HandleClosed`].
    pub const HANDLE_CLOSED: Kinds = Kinds(1 << 9);
    /// None.
    pub const NONE: Kinds = Kinds(0);
    /// Those after which the node itself is another one: see [`Change::is_of_the_node`].
    pub const OF_THE_NODE: Kinds = Kinds(0x1f);
    /// All.
    pub const ALL: Kinds = Kinds(0x3ff);

    /// The kind of one change.
    pub fn of(change: &Change) -> Kinds {
        match change {
            Change::Created { .. } => Kinds::CREATED,
            Change::ContentsModified { .. } => Kinds::CONTENTS_MODIFIED,
            Change::CounterChanged { .. } => Kinds::COUNTER_CHANGED,
            Change::Deleted => Kinds::DELETED,
            Change::AclChanged { .. } => Kinds::ACL_CHANGED,
            Change::LockAcquired { .. } => Kinds::LOCK_ACQUIRED,
            Change::LockWanted { .. } => Kinds::LOCK_WANTED,
            Change::LockReleased { .. } => Kinds::LOCK_RELEASED,
            Change::LockLost { .. } => Kinds::LOCK_LOST,
            Change::HandleClosed { .. } => Kinds::HANDLE_CLOSED,
        }
    }

    /// Whether they have one of `other` in common.
    pub fn intersects(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Kinds {
    type Output = Kinds;

    fn bitor(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Kinds {
    fn bitor_assign(&mut self, other: Kinds) {
        self.0 |= other.0;
    }
}

/// Which events a watch wants (spec E-1, E-4).
#[derive(Clone, Debug)]
pub struct Interest {
    /// The watch's number, its follower's choice. A watch that has it already ends.
    pub number: u64,
    /// The node; it need not exist.
    pub path: Path,
    /// What is below the node, too.
    pub subtree: bool,
    /// Kinds of changes.
    pub kinds: Kinds,
    /// Only what came after this revision; `None`: what comes from now on.
    pub after: Option<u64>,
}

/// One watch.
#[derive(Debug)]
struct Watch {
    interest: Interest,
    /// The place from which on it wants events, or has not been told of them yet.
    from: u64,
}

impl Watch {
    fn wants(&self, place: u64, event: &Event) -> bool {
        place >= self.from
            && event.revision > self.interest.after.unwrap_or(0)
            && self.interest.kinds.intersects(Kinds::of(&event.change))
    }
}

/// A node's name, and those of the directories on the way to the root.
pub(super) fn way(path: &Path) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path.as_str()), |name| match name.rfind('/')? {
        0 if name.len() == 1 => None,
        0 => Some("/"),
        slash => Some(&name[..slash]),
    })
}

/// The watches of one follower.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_number: BTreeMap<u64, Watch>,
    exact: HashMap<Box<str>, Vec<u64>>,
    subtree: HashMap<Box<str>, Vec<u64>>,
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.by_number.contains_key(&number)
    }

    fn numbers(&mut self, subtree: bool) -> &mut HashMap<Box<str>, Vec<u64>> {
        if subtree { &mut self.subtree } else { &mut self.exact }
    }

    /// Adds one whose number is free.
    pub(super) fn insert(&mut self, interest: Interest, from: u64) {
        let numbers = self.numbers(interest.subtree).entry(interest.path.as_str().into()).or_default();
        numbers.push(interest.number);
        self.by_number.insert(interest.number, Watch { interest, from });
    }

    /// Removes one. Answers its node, and whether it was on its subtree, if it was the last of its kind there.
    pub(super) fn remove(&mut self, number: u64) -> Option<(Path, bool)> {
        let Interest { path, subtree, .. } = self.by_number.remove(&number)?.interest;
        let places = self.numbers(subtree);
        let numbers = places.get_mut(path.as_str())?;
        numbers.retain(|other| *other != number);
        if !numbers.is_empty() {
            return None;
        }
        places.remove(path.as_str());
        Some((path, subtree))
    }

    /// Nodes that are watched, and whether with their subtrees.
    pub(super) fn places(&self) -> impl Iterator<Item = (&str, bool)> {
        let exact = self.exact.keys().map(|path| (&**path, false));
        exact.chain(self.subtree.keys().map(|path| (&**path, true)))
    }

    /// The watches that an event is for.
    pub(super) fn of<'a>(&'a self, place: u64, event: &'a Event) -> impl Iterator<Item = u64> + 'a {
        let exact = self.exact.get(event.path.as_str()).into_iter();
        let ways = (!self.subtree.is_empty()).then(|| way(&event.path)).into_iter().flatten();
        let numbers = exact.chain(ways.filter_map(|name| self.subtree.get(name))).flatten().copied();
        numbers.filter(move |number| self.by_number.get(number).is_some_and(|w| w.wants(place, event)))
    }

    /// Nobody wants what is before this place any more: it has been told.
    pub(super) fn told_before(&mut self, place: u64) {
        self.by_number.values_mut().for_each(|watch| watch.from = watch.from.max(place));
    }

    /// What is before `first` is lost: those that wanted it go on at `resume`. Answers their numbers.
    pub(super) fn lose_before(&mut self, first: u64, resume: u64) -> Vec<u64> {
        let losers = self.by_number.iter_mut().filter(|(_, watch)| watch.from < first);
        losers
            .map(|(number, watch)| {
                watch.from = resume;
                *number
            })
            .collect()
    }

    /// Whether one wants something before this place.
    pub(super) fn want_before(&self, place: u64) -> bool {
        self.by_number.values().any(|watch| watch.from < place)
    }
}
