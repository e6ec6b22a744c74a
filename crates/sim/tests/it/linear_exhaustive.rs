//! The search against plain trying of all orders, on every history up to a size and on random larger ones.
//!
//! The plain trying has a model of its own, and none of the search's savings: no memory, no classes, nothing taken at once.

use bramah_sim::check::linear::{STEPS, Verdict, check_key, explain_key};
use bramah_sim::history::{Answer, Call, Operation, Outcome, Refusal};
use proptest::prelude::*;

use crate::story::*;

/// What a key holds: contents and generation, or a value and 0.
type State = Option<(String, u64)>;

/// What a key without replicas does and says, but for revisions.
fn done(state: &State, call: &Call) -> (State, Answer) {
    let generation = state.as_ref().map_or(0, |(_, generation)| *generation);
    let refused = |refusal| (state.clone(), Answer::Refused(refusal));
    let differs = || refused(Refusal::GenerationDiffers { current: Some(generation) });
    match (call, state) {
        (Call::Get | Call::Read | Call::Delete { .. }, None) => refused(Refusal::NotFound),
        (Call::Get, Some((held, _))) => {
            let answer = Answer::Contents { contents: held.as_str().into(), generation, revision: 0 };
            (state.clone(), answer)
        }
        (Call::Set { if_generation: Some(wanted), .. } | Call::Delete { if_generation: Some(wanted) }, _)
            if *wanted != generation =>
        {
            differs()
        }
        (Call::Set { contents, .. }, _) => {
            let generation = generation + 1;
            let answer = Answer::Written { generation, revision: 0, created: generation == 1 };
            (Some((contents.to_string().trim_matches('"').to_owned(), generation)), answer)
        }
        (Call::Delete { .. }, Some(_)) => (None, Answer::Deleted { revision: 0 }),
        (Call::Add { delta }, _) => {
            let value = number(state) + delta;
            (Some((value.to_string(), 0)), Answer::Value { value })
        }
        (Call::Read, Some(_)) => (state.clone(), Answer::Value { value: number(state) }),
    }
}

fn number(state: &State) -> i64 {
    state.as_ref().map_or(0, |(value, _)| value.parse().unwrap())
}

/// Whether any order of the operations that are not in `order` goes on from there.
fn some_order(operations: &[&Operation], order: &mut Vec<usize>) -> bool {
    if is_order(operations, order) {
        return true;
    }
    (0..operations.len()).any(|next| {
        if order.contains(&next) {
            return false;
        }
        order.push(next);
        let goes_on = begins_order(operations, order) && some_order(operations, order);
        order.pop();
        goes_on
    })
}

/// Whether nothing is wrong, and nothing that was answered is missing.
fn is_order(operations: &[&Operation], order: &[usize]) -> bool {
    let answered = |place: &usize| matches!(operations[*place].outcome, Outcome::Answered(_));
    begins_order(operations, order)
        && (0..operations.len()).filter(answered).all(|place| order.contains(&place))
        && revisions_fit(operations, order)
}

/// Whether each answer is as the state gives it, nothing comes twice, and nothing before what returned earlier.
fn begins_order(operations: &[&Operation], order: &[usize]) -> bool {
    let mut state = None;
    order.iter().enumerate().all(|(place, number)| {
        let operation = operations[*number];
        let (after, right) = done(&state, &operation.call);
        state = after;
        let fits = match &operation.outcome {
            Outcome::Answered(answer) => without_revision(answer) == right,
            Outcome::NotDone { .. } => false,
            Outcome::Unknown { .. } => true,
        };
        let waited_for = |other: usize| {
            matches!(operations[other].outcome, Outcome::Answered(_))
                && operations[other].returned < Some(operation.invoked)
        };
        let skipped = |other| waited_for(other) && !order[..place].contains(&other);
        fits && !order[..place].contains(number) && !(0..operations.len()).any(skipped)
    })
}

fn without_revision(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    if let Some(revision) = revision(&mut answer) {
        *revision = 0;
    }
    answer
}

fn revision(answer: &mut Answer) -> Option<&mut u64> {
    match answer {
        Answer::Contents { revision, .. }
        | Answer::Written { revision, .. }
        | Answer::Deleted { revision } => Some(revision),
        Answer::Value { .. } | Answer::Refused(_) => None,
    }
}

/// Whether the changes of an order can have growing revisions such as were told: the n-th from now is greater by n or more.
fn revisions_fit(operations: &[&Operation], order: &[usize]) -> bool {
    let mut state = None;
    // Which change was told to have which revision; 0 stands for the beginning.
    let mut told = vec![(0, 0)];
    let mut changes = 0;
    for number in order {
        let (after, right) = done(&state, &operations[*number].call);
        state = after;
        changes += u64::from(matches!(right, Answer::Written { .. } | Answer::Deleted { .. }));
        if let Outcome::Answered(answer) = &operations[*number].outcome {
            told.extend(revision(&mut answer.clone()).map(|revision| (changes, *revision)));
        }
    }
    told.iter().all(|(change, revision)| {
        told.iter().all(|(later, greater)| match later.checked_sub(*change) {
            Some(0) => revision == greater,
            Some(between) => *greater >= revision + between,
            None => true,
        })
    })
}

#[track_caller]
fn compare(operations: &[&Operation]) -> bool {
    let verdict = check_key(operations, STEPS);
    let right = some_order(operations, &mut Vec::new());
    let agrees = match &verdict {
        Verdict::Linearizable(order) => right && is_order(operations, order),
        Verdict::Violation => !right,
        Verdict::Undecided => false,
    };
    assert!(agrees, "all orders say {right}, the search {verdict:?} of {operations:#?}");
    right
}

/// All ways in which operations, given in the order of their calls, can overlap: the times of call and return.
fn overlaps(count: usize, unknown: u32) -> Vec<Vec<(u64, Option<u64>)>> {
    let mut all = Vec::new();
    overlaps_from(&mut vec![], 0, count, unknown, &mut all);
    all
}

fn overlaps_from(
    sofar: &mut Vec<(u64, Option<u64>)>,
    time: u64,
    count: usize,
    unknown: u32,
    all: &mut Vec<Vec<(u64, Option<u64>)>>,
) {
    // The return of an unknown operation says nothing, so it has none.
    let open: Vec<usize> =
        (0..sofar.len()).filter(|place| sofar[*place].1.is_none() && unknown & (1 << place) == 0).collect();
    if sofar.len() == count && open.is_empty() {
        return all.push(sofar.clone());
    }
    if sofar.len() < count {
        sofar.push((time, None));
        overlaps_from(sofar, time + 1, count, unknown, all);
        sofar.pop();
    }
    for place in open {
        sofar[place].1 = Some(time);
        overlaps_from(sofar, time + 1, count, unknown, all);
        sofar[place].1 = None;
    }
}

/// How many words of an alphabet are compared between two explanations, which take far longer than verdicts.
const BETWEEN_EXPLANATIONS: u64 = 97;

/// Compares every history of `count` of these operations, with repetition, and says how many there are and how many are right.
fn compare_all(alphabet: &[(Call, Outcome)], count: usize) -> (u64, u64) {
    let is_unknown = |letter: usize| matches!(alphabet[letter].1, Outcome::Unknown { .. });
    let times: Vec<_> = (0..1 << count).map(|unknown| overlaps(count, unknown)).collect();
    let (mut compared, mut right) = (0, 0);
    let mut word = vec![0; count];
    loop {
        let unknown =
            (0..count).filter(|place| is_unknown(word[*place])).fold(0, |set, place| set | 1 << place);
        let mut operations: Vec<Operation> =
            word.iter().map(|letter| operation(alphabet[*letter].clone())).collect();
        for times in &times[unknown] {
            for (operation, (invoked, returned)) in operations.iter_mut().zip(times) {
                (operation.invoked, operation.returned) = (*invoked, *returned);
            }
            let operations: Vec<&Operation> = operations.iter().collect();
            let is_right = compare(&operations);
            right += u64::from(is_right);
            compared += 1;
            if !is_right && compared % BETWEEN_EXPLANATIONS == 0 {
                assert!(explain_key(&operations, STEPS).contains(" was told:\n"));
            }
        }
        let Some(place) = word.iter().position(|letter| letter + 1 < alphabet.len()) else { break };
        word[..place].fill(0);
        word[place] += 1;
    }
    (compared, right)
}

fn operation((call, outcome): (Call, Outcome)) -> Operation {
    Operation { client: 0, key: "/k".into(), invoked: 0, returned: None, call, outcome }
}

fn file_alphabet() -> Vec<(Call, Outcome)> {
    let delete = |if_generation| Call::Delete { if_generation };
    let set_b = || Call::set("b");
    vec![
        (Call::Get, refused(Refusal::NotFound)),
        (Call::Get, contents("a", 1)),
        (Call::Get, at(3, contents("a", 1))),
        (Call::Get, contents("b", 2)),
        (Call::set("a"), written(1)),
        (Call::set("a"), at(3, written(1))),
        (Call::set_if("b", 1), written(2)),
        (Call::set_if("b", 1), differs(0)),
        (delete(None), deleted(2)),
        (Call::set("a"), unknown()),
        (set_b(), unknown()),
        (delete(None), unknown()),
        (set_b(), at(4, written(2))),
        (Call::Get, at(4, contents("b", 2))),
        // The rest for shorter histories only.
        (Call::Get, at(2, contents("b", 1))),
        (Call::Get, contents("a", 2)),
        (Call::Get, contents("a", 3)),
        (Call::set("a"), written(2)),
        (set_b(), written(1)),
        (set_b(), written(3)),
        (Call::create("a"), written(1)),
        (Call::create("a"), differs(1)),
        (Call::set_if("b", 1), differs(2)),
        (delete(Some(1)), deleted(2)),
        (delete(Some(1)), deleted(3)),
        (delete(Some(1)), differs(2)),
        (delete(None), refused(Refusal::NotFound)),
        (Call::set_if("b", 1), unknown()),
        (Call::create("b"), unknown()),
        (delete(Some(2)), unknown()),
    ]
}

fn counter_alphabet() -> Vec<(Call, Outcome)> {
    let add = |delta| Call::Add { delta };
    vec![
        (Call::Read, refused(Refusal::NotFound)),
        (Call::Read, value(1)),
        (Call::Read, value(2)),
        (add(1), value(1)),
        (add(1), value(2)),
        (add(2), value(3)),
        (add(1), unknown()),
        (add(2), unknown()),
        // The rest for shorter histories only.
        (Call::Read, value(0)),
        (Call::Read, value(3)),
        (add(1), value(0)),
        (add(2), value(2)),
        (add(-1), value(0)),
        (add(-1), value(1)),
        (add(0), value(1)),
        (add(-1), unknown()),
    ]
}

/// All histories of up to three operations of 30 kinds on a file, and of four of 14.
#[test]
fn every_small_history_of_a_file() {
    let alphabet = file_alphabet();
    let short: Vec<_> = (1..=3).map(|count| compare_all(&alphabet, count)).collect();
    let long = compare_all(&alphabet[..14], 4);
    println!("files: (compared, linearizable) of 1, 2, 3 operations {short:?}, of 4 {long:?}");
    assert!(short[2].0 > 200_000 && long.0 > 1_000_000 && long.1 > 50_000);
}

/// All histories of up to three operations of 16 kinds on a counter, of four of 12, and of five of 5.
#[test]
fn every_small_history_of_a_counter() {
    let alphabet = counter_alphabet();
    let short: Vec<_> = (1..=3).map(|count| compare_all(&alphabet, count)).collect();
    let long = [compare_all(&alphabet[..12], 4), compare_all(&alphabet[3..8], 5)];
    println!("counters: (compared, linearizable) of 1, 2, 3 operations {short:?}, of 4 and 5 {long:?}");
    assert!(short[2].0 > 40_000 && long[0].0 > 1_000_000 && long[1].0 > 200_000 && long[1].1 > 3_000);
}

/// Larger ones, on a clock so coarse that many times are the same. Most answers come from a real order, so that about half of
/// the histories are right; some are then bent.
fn random_history(alphabet: Vec<(Call, Outcome)>) -> impl Strategy<Value = Vec<Operation>> {
    let one = (0..alphabet.len(), 0..24_u64, 0..6_u64, 0..24_u64, 0..12_u8);
    prop::collection::vec(one, 1..9).prop_map(move |drawn| {
        let (mut state, mut now) = (None, 0);
        let mut operations: Vec<(u64, Operation)> = drawn
            .into_iter()
            .map(|(letter, start, length, moment, bend)| {
                let (call, outcome) = alphabet[letter].clone();
                let moment = start + moment % (length + 1);
                let mut operation = operation((call, if bend == 0 { outcome } else { unknown() }));
                (operation.invoked, operation.returned) = (start, Some(start + length));
                // How a client of a real cell would have been told; decided below, in the order of the moments.
                operation.client = bend.into();
                (moment, operation)
            })
            .collect();
        operations.sort_by_key(|(moment, _)| *moment);
        for (_, operation) in &mut operations {
            // 0 says something at random, 10 is lost, 11 is not done, and the rest are done; but 9 isn't heard of.
            match operation.client {
                1..=9 => {
                    let (after, mut answer) = done(&state, &operation.call);
                    state = after;
                    now += u64::from(matches!(answer, Answer::Written { .. } | Answer::Deleted { .. }));
                    revision(&mut answer).into_iter().for_each(|revision| *revision = now);
                    if operation.client < 9 {
                        operation.outcome = Outcome::Answered(answer);
                    }
                }
                11 => operation.outcome = not_done(),
                _ => {}
            }
        }
        operations.into_iter().map(|(_, operation)| operation).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_of_a_file(operations in random_history(file_alphabet())) {
        compare(&operations.iter().collect::<Vec<_>>());
    }

    #[test]
    fn random_histories_of_a_counter(operations in random_history(counter_alphabet())) {
        compare(&operations.iter().collect::<Vec<_>>());
    }
}
