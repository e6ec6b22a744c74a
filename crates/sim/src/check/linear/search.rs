//! The search for an order: Wing and Gong's (1993), with Lowe's memory (2017), and four savings.
//!
//! It walks through *positions*: which operations the order has so far, and the state they led to. From a position, every
//! operation may come next that was called before each of those still missing returned, and whose answer the state gives.
//! A position that was left without success is not entered again. And:
//!
//! 1. **An operation that fits and changes nothing is taken at once,** with no way back. In any order that goes on from
//!    here, it can be moved to the front: the others see the same states as before, and nothing must come before it.
//! 2. **Operations that need not be done come last,** as most never were. Equal ones are one *class* with a number: as they
//!    differ only in their calls' times, the earliest may as well be first.
//! 3. **A position is dominated** by one with the same state and the same required operations that has used no
//!    more of any class: what can follow the former can follow the latter. It is not entered if that one failed.
//! 4. **What takes the state out of reach** of an operation that must be done, and could be next, is not tried, if the model
//!    can tell ([`Model::within_reach`]): a revision never comes back.
//!
//! Positions are compared as they are, not by their hashes.

use std::collections::HashMap;
use std::hash::Hash;

use crate::history::{Answer, Call};

/// What a key would do if it had no replicas and one caller at a time.
pub trait Model {
    /// All that later answers depend on.
    type State: Clone + Eq + Hash;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `call`; `None` if `answer` is not what this state gives. Without an answer, any is right.
    fn step(&self, state: &Self::State, call: &Call, answer: Option<&Answer>) -> Option<Self::State>;

    /// Whether any operations that this model was made for can lead from `state` to one that gives `answer` to `call`.
    /// To say `true` of everything is right, and slow.
    fn within_reach(&self, state: &Self::State, call: &Call, answer: Option<&Answer>) -> bool {
        let _ = (state, call, answer);
        true
    }

    /// The state, for people.
    fn describe(&self, state: &Self::State) -> String;
}

/// One operation, as the search sees it.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it was called.
    pub invoked: u64,
    /// When it was over. One operation comes before another if it returned *before* the other was called; at the
    /// same nanosecond, they overlap. `None`: it need not be done, and may be at any time after its call.
    pub returned: Option<u64>,
    /// What was asked.
    pub call: Call,
    /// What was answered; `None`: anything may have been.
    pub answer: Option<Answer>,
    /// What an order calls it.
    pub number: usize,
}

/// The search was given up: it needs more steps than it was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfSteps;

/// A search under way.
#[derive(Debug)]
pub struct Search<'a, M: Model> {
    model: &'a M,
    /// Those that must be done, by the time of their call.
    required: Vec<Required<'a>>,
    classes: Vec<Class<'a>>,
    steps_left: u64,
    here: Position<M::State>,
    order: Vec<Taken>,
    /// Where the search has been: of each state and set of required operations, how much of each class was used.
    been: HashMap<(Done, M::State), Vec<Box<[u32]>>>,
}

#[derive(Debug)]
struct Required<'a> {
    returned: u64,
    interval: &'a Interval,
}

/// Operations that need not be done and are alike.
#[derive(Debug)]
struct Class<'a> {
    call: &'a Call,
    answer: Option<&'a Answer>,
    /// When each was called, and which it is; the earliest first.
    members: Vec<(u64, usize)>,
}

#[derive(Debug)]
struct Position<S> {
    done: Bits,
    used: Box<[u32]>,
    state: S,
}

#[derive(Clone, Copy, Debug)]
enum Taken {
    Required(usize),
    OfClass(usize),
}

/// Ways to go on from a position.
#[derive(Debug)]
struct Ways<S> {
    /// Operations that must be done, with the states they lead to; the best is the last.
    required: Vec<(usize, S)>,
    /// The next class to try.
    class: usize,
    /// No operation that was called after this may be next.
    frontier: u64,
    /// Those that must be done and may be next.
    candidates: Vec<usize>,
}

/// A position that was left by one of its ways.
#[derive(Debug)]
struct Left<S> {
    state: S,
    length: usize,
    ways: Ways<S>,
}

impl<'a, M: Model> Search<'a, M> {
    /// Over these operations, in any sequence.
    pub fn new(model: &'a M, intervals: &'a [Interval]) -> Self {
        let required = required(intervals);
        let classes = classes(intervals);
        let here = Position {
            done: Bits::new(required.len()),
            used: vec![0; classes.len()].into(),
            state: model.initial(),
        };
        Self { model, required, classes, steps_left: 0, here, order: Vec::new(), been: HashMap::new() }
    }

    /// An order, by the numbers of its operations; `None`: there is none.
    ///
    /// # Errors
    /// [`OutOfSteps`] when neither is certain after asking the model `steps` times.
    pub fn run(mut self, steps: u64) -> Result<Option<Vec<usize>>, OutOfSteps> {
        self.steps_left = steps;
        let mut left: Vec<Left<M::State>> = Vec::new();
        loop {
            let Some(mut ways) = self.arrive()? else { return Ok(Some(self.numbers())) };
            let (taken, state) = loop {
                if let Some(way) = self.next_way(&mut ways)? {
                    break way;
                }
                let Some(back) = left.pop() else { return Ok(None) };
                self.undo(back.length);
                self.here.state = back.state;
                ways = back.ways;
            };
            let before = std::mem::replace(&mut self.here.state, state);
            left.push(Left { state: before, length: self.order.len(), ways });
            self.take(taken);
        }
    }

    /// Takes what changes nothing, and lists the ways on; `None` at the goal.
    fn arrive(&mut self) -> Result<Option<Ways<M::State>>, OutOfSteps> {
        let mut ways = Ways { required: Vec::new(), class: 0, frontier: u64::MAX, candidates: Vec::new() };
        let mut next = self.here.done.first_missing(0);
        while next < self.required.len() && self.required[next].interval.invoked <= ways.frontier {
            let Interval { call, answer, .. } = self.required[next].interval;
            let state = self.step(call, answer.as_ref())?;
            if state.as_ref() == Some(&self.here.state) {
                self.take(Taken::Required(next));
            } else {
                ways.frontier = ways.frontier.min(self.required[next].returned);
                ways.candidates.push(next);
                ways.required.extend(state.map(|state| (next, state)));
            }
            next = self.here.done.first_missing(next + 1);
        }
        if ways.candidates.is_empty() {
            return Ok(None);
        }
        ways.required.reverse();
        if self.been_here(&ways) {
            ways.required.clear();
            ways.class = self.classes.len();
        }
        Ok(Some(ways))
    }

    /// Whether this position, or one that dominates it, was entered before; if not, remembers it.
    fn been_here(&mut self, ways: &Ways<M::State>) -> bool {
        // With one way on, the memory of the next fork will do.
        if self.classes.is_empty() && ways.required.len() < 2 {
            return false;
        }
        let key = (self.here.done.key(), self.here.state.clone());
        let entries = self.been.entry(key).or_default();
        let used = &self.here.used;
        let no_more = |one: &[u32], other: &[u32]| one.iter().zip(other).all(|(one, other)| one <= other);
        if entries.iter().any(|entry| no_more(entry, used)) {
            return true;
        }
        entries.retain(|entry| !no_more(used, entry));
        entries.push(used.clone());
        false
    }

    fn next_way(&mut self, ways: &mut Ways<M::State>) -> Result<Option<(Taken, M::State)>, OutOfSteps> {
        while let Some((next, state)) = ways.required.pop() {
            if self.leaves_all_within_reach(&state, ways, Some(next)) {
                return Ok(Some((Taken::Required(next), state)));
            }
        }
        while ways.class < self.classes.len() {
            let tried = ways.class;
            ways.class += 1;
            let class = &self.classes[tried];
            let unused = class.members.get(self.here.used[tried] as usize);
            if unused.is_none_or(|(invoked, _)| *invoked > ways.frontier) {
                continue;
            }
            match self.step(class.call, class.answer)? {
                Some(state)
                    if state != self.here.state && self.leaves_all_within_reach(&state, ways, None) =>
                {
                    return Ok(Some((Taken::OfClass(tried), state)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn leaves_all_within_reach(&self, state: &M::State, ways: &Ways<M::State>, taken: Option<usize>) -> bool {
        ways.candidates.iter().filter(|candidate| Some(**candidate) != taken).all(|candidate| {
            let interval = self.required[*candidate].interval;
            self.model.within_reach(state, &interval.call, interval.answer.as_ref())
        })
    }

    fn step(&mut self, call: &Call, answer: Option<&Answer>) -> Result<Option<M::State>, OutOfSteps> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(OutOfSteps)?;
        Ok(self.model.step(&self.here.state, call, answer))
    }

    fn take(&mut self, taken: Taken) {
        match taken {
            Taken::Required(next) => self.here.done.insert(next),
            Taken::OfClass(class) => self.here.used[class] += 1,
        }
        self.order.push(taken);
    }

    fn undo(&mut self, length: usize) {
        for taken in self.order.drain(length..) {
            match taken {
                Taken::Required(next) => self.here.done.remove(next),
                Taken::OfClass(class) => self.here.used[class] -= 1,
            }
        }
    }

    fn numbers(&self) -> Vec<usize> {
        let mut used = vec![0; self.classes.len()];
        let number = |taken: &Taken| match *taken {
            Taken::Required(next) => self.required[next].interval.number,
            Taken::OfClass(class) => {
                used[class] += 1;
                self.classes[class].members[used[class] - 1].1
            }
        };
        self.order.iter().map(number).collect()
    }
}

fn required(intervals: &[Interval]) -> Vec<Required<'_>> {
    let required =
        intervals.iter().filter_map(|interval| Some(Required { returned: interval.returned?, interval }));
    let mut required: Vec<Required<'_>> = required.collect();
    required.sort_by_key(|required| required.interval.invoked);
    required
}

fn classes(intervals: &[Interval]) -> Vec<Class<'_>> {
    // In the order of first appearance: a hash map's own order would make two runs differ.
    let mut places: HashMap<(&Call, Option<&Answer>), usize> = HashMap::new();
    let mut classes: Vec<Class<'_>> = Vec::new();
    for interval in intervals.iter().filter(|interval| interval.returned.is_none()) {
        let (call, answer) = (&interval.call, interval.answer.as_ref());
        let place = *places.entry((call, answer)).or_insert(classes.len());
        if place == classes.len() {
            classes.push(Class { call, answer, members: Vec::new() });
        }
        classes[place].members.push((interval.invoked, interval.number));
    }
    for class in &mut classes {
        class.members.sort_unstable();
    }
    classes
}

/// A set of small numbers.
#[derive(Debug)]
struct Bits {
    words: Vec<u64>,
    /// All words before this one are full.
    full: usize,
    /// All words from this one on are empty.
    end: usize,
}

/// A set, as its words from the first that isn't full to the last that isn't empty: a few, as operations are
/// done roughly in the order in which they were called.
type Done = (usize, Box<[u64]>);

impl Bits {
    fn new(length: usize) -> Self {
        Self { words: vec![0; length / 64 + 1], full: 0, end: 0 }
    }

    fn insert(&mut self, bit: usize) {
        self.words[bit / 64] |= 1 << (bit % 64);
        self.end = self.end.max(bit / 64 + 1);
        // The last word has room for one bit more than there are, so it is never full.
        while self.words[self.full] == u64::MAX {
            self.full += 1;
        }
    }

    fn remove(&mut self, bit: usize) {
        self.words[bit / 64] &= !(1 << (bit % 64));
        self.full = self.full.min(bit / 64);
    }

    /// The first number from `from` on that is not in the set.
    fn first_missing(&self, from: usize) -> usize {
        let from = from.max(self.full * 64);
        let mut word = from / 64;
        let mut missing = self.words.get(word).map_or(0, |bits| !bits & (u64::MAX << (from % 64)));
        while missing == 0 && word + 1 < self.words.len() {
            word += 1;
            missing = !self.words[word];
        }
        word * 64 + missing.trailing_zeros() as usize
    }

    fn key(&mut self) -> Done {
        while self.end > self.full && self.words[self.end - 1] == 0 {
            self.end -= 1;
        }
        (self.full, self.words[self.full..self.end.max(self.full)].into())
    }
}
