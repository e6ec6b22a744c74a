//! The search for an order: Wing and Gong's (1993), with Lowe's memory (2017), and four savings.
//!
//! It walks through *positions*: which operations the order has so far, and the state they led to. From a position, every
//! operation may come next that was called before each of those still missing returned, and whose answer the state gives.
//! A position that was left without success is not entered again. And:
//!
//! 1. **An operation that fits and changes nothing is taken at once,** with no way back. In any order that goes on from
//!    here, it can be moved to the front: the others see the same states as before, and nothing must come before it.
//! 2. **Operations that need not be done come last,** as most never were: right before one that must be done, and few
//!    before many. Equal ones are one *class* with a number: as they differ only in their calls' times, the earliest may
//!    as well be first.
//! 3. **A position is dominated** by one with the same state and the same required operations that has used no
//!    more of any class, or more only of classes for which others do that it has left ([`Model::covers`]): what can follow
//!    the former can follow the latter. It is not entered if that one failed.
//! 4. **What takes the state out of reach** of an operation that must be done, and could be next, is not tried, if the model
//!    can tell ([`Model::within_reach`]): a revision never comes back.
//!
//! Positions are compared as they are, not by their hashes.

use std::collections::{HashMap, VecDeque};
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

    /// Whether `call` does in every state where `conditional` does something the same.
    /// To say `false` of everything is right, and slow.
    fn covers(&self, call: &Call, conditional: &Call) -> bool {
        let _ = (call, conditional);
        false
    }

    /// The state, for people.
    fn describe(&self, state: &Self::State) -> String;
}

/// How much of each class of unknown operations was used.
type Used = Box<[u32]>;

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
    /// Chains longer than this are left out of this round.
    longest_chain: usize,
    left_some_chain: bool,
    here: Position<M::State>,
    order: Vec<Taken>,
    /// Where the search has been: of each state and set of required operations, how much of each class was used.
    been: HashMap<(Done, M::State), Vec<Used>>,
}

#[derive(Debug)]
struct Required<'a> {
    returned: u64,
    interval: &'a Interval,
}

/// Operations that need not be done and are alike.
#[derive(Clone, Debug)]
struct Class<'a> {
    call: &'a Call,
    answer: Option<&'a Answer>,
    /// When each was called, and which it is; the earliest first.
    members: Vec<(u64, usize)>,
    /// A class that can stand in for this one.
    covered_by: Option<usize>,
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

/// A way on from a position: some operations that need not be done, one that must be, and the state they lead to.
#[derive(Debug)]
struct Way<S> {
    chain: Chain,
    required: usize,
    state: S,
}

/// Classes, one for each operation that need not be done.
type Chain = Vec<usize>;

/// The ways on from a position, found as they are needed.
#[derive(Debug)]
struct Ways<S> {
    /// Those found.
    found: VecDeque<Way<S>>,
    /// No operation that was called after this may be next.
    frontier: u64,
    /// Those that must be done and may be next.
    candidates: Vec<usize>,
    /// Chains, short ones first, to be made longer by each class.
    chains: VecDeque<(Chain, S)>,
    /// The chains by the states they lead to.
    leading_to: HashMap<S, Vec<Chain>>,
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
        let classes = classes(model, intervals);
        let here = Position {
            done: Bits::new(required.len()),
            used: vec![0; classes.len()].into(),
            state: model.initial(),
        };
        Self {
            model,
            required,
            classes,
            steps_left: 0,
            longest_chain: 0,
            left_some_chain: false,
            here,
            order: Vec::new(),
            been: HashMap::new(),
        }
    }

    /// An order, by the numbers of its operations; `None`: there is none.
    ///
    /// # Errors
    /// [`OutOfSteps`] when neither is certain after `steps` questions to the model and comparisons of positions.
    pub fn run(mut self, steps: u64) -> Result<Option<Vec<usize>>, OutOfSteps> {
        // Most orders need one such operation at a place. A wrong turn far back is found sooner if longer chains, of
        // which there are far more, are left for a later round. Only a round that left nothing proves that there is no order.
        for longest in [1, 2, 4] {
            self.begin(longest, steps / 8);
            match self.round() {
                Ok(None) if self.left_some_chain => {}
                Err(OutOfSteps) => {}
                found => return found,
            }
        }
        self.begin(usize::MAX, steps);
        self.round()
    }

    fn begin(&mut self, longest_chain: usize, steps: u64) {
        self.undo(0);
        self.here.state = self.model.initial();
        self.been.clear();
        (self.longest_chain, self.left_some_chain, self.steps_left) = (longest_chain, false, steps);
    }

    fn round(&mut self) -> Result<Option<Vec<usize>>, OutOfSteps> {
        let mut left: Vec<Left<M::State>> = Vec::new();
        loop {
            let Some(mut ways) = self.arrive()? else { return Ok(Some(self.numbers())) };
            let way = loop {
                if let Some(way) = self.next_way(&mut ways)? {
                    break way;
                }
                let Some(back) = left.pop() else { return Ok(None) };
                self.undo(back.length);
                self.here.state = back.state;
                ways = back.ways;
            };
            let before = std::mem::replace(&mut self.here.state, way.state);
            left.push(Left { state: before, length: self.order.len(), ways });
            way.chain.into_iter().for_each(|class| self.take(Taken::OfClass(class)));
            self.take(Taken::Required(way.required));
        }
    }

    /// Takes what changes nothing, and lists the ways on; `None` at the goal.
    fn arrive(&mut self) -> Result<Option<Ways<M::State>>, OutOfSteps> {
        let mut ways = Ways {
            found: VecDeque::new(),
            frontier: u64::MAX,
            candidates: Vec::new(),
            chains: VecDeque::new(),
            leading_to: HashMap::new(),
        };
        let mut next = self.here.done.first_missing(0);
        while next < self.required.len() && self.required[next].interval.invoked <= ways.frontier {
            let Interval { call, answer, .. } = self.required[next].interval;
            self.steps_left = self.steps_left.checked_sub(1).ok_or(OutOfSteps)?;
            let state = self.model.step(&self.here.state, call, answer.as_ref());
            if state.as_ref() == Some(&self.here.state) {
                self.take(Taken::Required(next));
            } else {
                ways.frontier = ways.frontier.min(self.required[next].returned);
                ways.candidates.push(next);
                ways.found.extend(state.map(|state| Way { chain: Chain::new(), required: next, state }));
            }
            next = self.here.done.first_missing(next + 1);
        }
        if ways.candidates.is_empty() {
            return Ok(None);
        }
        if self.been_here(&ways)? {
            ways.found.clear();
        } else if !self.classes.is_empty() {
            ways.chains.push_back((Chain::new(), self.here.state.clone()));
            ways.leading_to.insert(self.here.state.clone(), vec![Chain::new()]);
        }
        Ok(Some(ways))
    }

    /// Whether this position, or one that dominates it, was entered before; if not, remembers it.
    fn been_here(&mut self, ways: &Ways<M::State>) -> Result<bool, OutOfSteps> {
        // With one way on, the memory of the next fork will do.
        if self.classes.is_empty() && ways.found.len() < 2 {
            return Ok(false);
        }
        let key = (self.here.done.key(), self.here.state.clone());
        let used = &self.here.used;
        let classes = &self.classes;
        let entries = self.been.entry(key).or_default();
        self.steps_left = self.steps_left.checked_sub(entries.len() as u64).ok_or(OutOfSteps)?;
        if entries.iter().any(|entry| dominates(classes, entry, used)) {
            return Ok(true);
        }
        entries.retain(|entry| !dominates(classes, used, entry));
        entries.push(used.clone());
        Ok(false)
    }

    fn next_way(&mut self, ways: &mut Ways<M::State>) -> Result<Option<Way<M::State>>, OutOfSteps> {
        loop {
            while let Some(way) = ways.found.pop_front() {
                if self.leaves_all_within_reach(&way.state, ways, Some(way.required)) {
                    return Ok(Some(way));
                }
            }
            let Some((chain, state)) = ways.chains.pop_front() else { return Ok(None) };
            if chain.len() >= self.longest_chain {
                self.left_some_chain = true;
                continue;
            }
            for class in 0..self.classes.len() {
                if self.has_unused(class, &chain, ways.frontier) {
                    self.lengthen(&chain, &state, class, ways)?;
                }
            }
        }
    }

    /// Whether an operation of a class may come after a chain.
    fn has_unused(&self, class: usize, chain: &[usize], frontier: u64) -> bool {
        let used = self.here.used[class] as usize + count(chain, class);
        self.classes[class].members.get(used).is_some_and(|(invoked, _)| *invoked <= frontier)
    }

    /// Finds the ways that begin with a chain and one more operation.
    fn lengthen(
        &mut self,
        chain: &[usize],
        before: &M::State,
        class: usize,
        ways: &mut Ways<M::State>,
    ) -> Result<(), OutOfSteps> {
        let Class { call, answer, .. } = self.classes[class];
        let Some(state) = self.step(before, call, answer)?.filter(|state| state != before) else {
            return Ok(());
        };
        let chain = [chain, &[class]].concat();
        let known = ways.leading_to.get(&state).map_or(0, Vec::len) as u64;
        self.steps_left = self.steps_left.checked_sub(known).ok_or(OutOfSteps)?;
        if !self.leaves_all_within_reach(&state, ways, None) || !is_shortest(&chain, &state, ways) {
            return Ok(());
        }
        for candidate in 0..ways.candidates.len() {
            let required = ways.candidates[candidate];
            let Interval { call, answer, .. } = self.required[required].interval;
            let after = self.step(&state, call, answer.as_ref())?;
            ways.found.extend(after.map(|state| Way { chain: chain.clone(), required, state }));
        }
        ways.chains.push_back((chain, state));
        Ok(())
    }

    fn leaves_all_within_reach(&self, state: &M::State, ways: &Ways<M::State>, taken: Option<usize>) -> bool {
        ways.candidates.iter().filter(|candidate| Some(**candidate) != taken).all(|candidate| {
            let interval = self.required[*candidate].interval;
            self.model.within_reach(state, &interval.call, interval.answer.as_ref())
        })
    }

    fn step(
        &mut self,
        state: &M::State,
        call: &Call,
        answer: Option<&Answer>,
    ) -> Result<Option<M::State>, OutOfSteps> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(OutOfSteps)?;
        Ok(self.model.step(state, call, answer))
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

/// Whether who has used `one` of the classes can still do all that who has used `other` can.
fn dominates(classes: &[Class<'_>], one: &[u32], other: &[u32]) -> bool {
    let mut spare: Vec<i64> =
        one.iter().zip(other).map(|(one, other)| i64::from(*other) - i64::from(*one)).collect();
    for class in 0..classes.len() {
        if spare[class] < 0 {
            // Both are at one position, so what one of them has used, the other may use too from here on.
            let Some(stand_in) = classes[class].covered_by else { return false };
            spare[stand_in] += spare[class];
            if spare[stand_in] < 0 {
                return false;
            }
        }
    }
    true
}

/// Whether no part of a chain leads to the same state; if so, remembers it.
fn is_shortest<S: Clone + Eq + Hash>(chain: &[usize], state: &S, ways: &mut Ways<S>) -> bool {
    let is_part = |known: &Chain| known.iter().all(|class| count(known, *class) <= count(chain, *class));
    let known = ways.leading_to.entry(state.clone()).or_default();
    let shortest = !known.iter().any(is_part);
    if shortest {
        known.push(chain.to_vec());
    }
    shortest
}

fn count(chain: &[usize], class: usize) -> usize {
    chain.iter().filter(|other| **other == class).count()
}

fn required(intervals: &[Interval]) -> Vec<Required<'_>> {
    let required =
        intervals.iter().filter_map(|interval| Some(Required { returned: interval.returned?, interval }));
    let mut required: Vec<Required<'_>> = required.collect();
    required.sort_by_key(|required| required.interval.invoked);
    required
}

fn classes<'a, M: Model>(model: &M, intervals: &'a [Interval]) -> Vec<Class<'a>> {
    // In the order of first appearance: a hash map's own order would make two runs differ.
    let mut places: HashMap<(&Call, Option<&Answer>), usize> = HashMap::new();
    let mut classes: Vec<Class<'_>> = Vec::new();
    for interval in intervals.iter().filter(|interval| interval.returned.is_none()) {
        let (call, answer) = (&interval.call, interval.answer.as_ref());
        let place = *places.entry((call, answer)).or_insert(classes.len());
        if place == classes.len() {
            classes.push(Class { call, answer, members: Vec::new(), covered_by: None });
        }
        classes[place].members.push((interval.invoked, interval.number));
    }
    let covers = |one: &Class<'_>, other: &Class<'_>| {
        one.answer.is_none() && other.answer.is_none() && model.covers(one.call, other.call)
    };
    // What stands in for others is tried after them, so that it is left for longer.
    let (mut classes, general): (Vec<_>, Vec<_>) =
        classes.iter().cloned().partition(|class| classes.iter().any(|other| covers(other, class)));
    classes.extend(general);
    for class in 0..classes.len() {
        classes[class].covered_by = classes.iter().position(|other| covers(other, &classes[class]));
        classes[class].members.sort_unstable();
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
