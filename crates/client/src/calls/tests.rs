//! Tests of the calls: no connection, no clock, only what was sent and answered.

use rand::SeedableRng;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const ALLOWED: Duration = Duration::from_secs(10);

struct Bench {
    calls: Calls,
    now: Instant,
    budget: RetryBudget,
    random: StdRng,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let (budget, random) = (RetryBudget::new(now), StdRng::seed_from_u64(1));
        Self { calls: Calls::default(), now, budget, random }
    }

    fn submit(
        &mut self,
        operation: v1::operation::Operation,
        has_effect: bool,
        size: usize,
    ) -> Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let operation = v1::Operation { operation: Some(operation) };
        let deadline = self.now + ALLOWED;
        let (grip, session, lasting) = (None, None, Lasting::No);
        let reply = Reply::Caller(reply);
        let call =
            Call { operation, size, has_effect, deadline, allowed: ALLOWED, grip, session, lasting, reply };
        self.calls.submit(call);
        answer
    }

    fn write(&mut self) -> Receiver<Answer> {
        let increment = v1::Increment { path: "/c".into(), delta: 1, ..Default::default() };
        self.submit(v1::operation::Operation::Increment(increment), true, 100)
    }

    fn read(&mut self) -> Receiver<Answer> {
        self.submit(v1::operation::Operation::GetCounter(v1::GetCounter { path: "/c".into() }), false, 100)
    }

    fn sent(&mut self) -> Vec<u64> {
        self.calls.next_batch(self.now, 4096, 1 << 20).iter().map(|call| call.number).collect()
    }

    fn answer(&mut self, number: u64, outcome: v1::outcome::Outcome) {
        let answer = v1::Answer { number, outcome: Some(v1::Outcome { outcome: Some(outcome) }) };
        self.calls.answered(vec![answer], self.now, &mut self.budget, &mut self.random);
    }

    fn value(&mut self, number: u64, value: i64) {
        self.answer(number, v1::outcome::Outcome::Counter(v1::CounterValue { value, revision: 1 }));
    }

    fn refuse(&mut self, number: u64, code: Code, may_have_been_done: bool) {
        let message = "said the cell".into();
        let failure = v1::Failure { code: code.into(), message, may_have_been_done, ..Default::default() };
        self.answer(number, v1::outcome::Outcome::Failure(failure));
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.calls.tick(self.now, || "trouble".into());
    }
}

fn value_of(answer: &mut Receiver<Answer>) -> i64 {
    match answer.try_recv() {
        Ok(Ok(Answered { outcome: v1::outcome::Outcome::Counter(counter), .. })) => counter.value,
        other => panic!("no value: {other:?}"),
    }
}

fn error_of(answer: &mut Receiver<Answer>) -> Error {
    answer.try_recv().expect("answered").expect_err("an error")
}

fn is_waiting(answer: &mut Receiver<Answer>) -> bool {
    matches!(answer.try_recv(), Err(TryRecvError::Empty))
}

/// Spec S-6.
#[test]
fn numbers_count_up_and_confirmed_follows_the_first_gap() {
    let mut bench = Bench::new();
    let mut answers: Vec<_> = (0..4).map(|_| bench.write()).collect();
    assert_eq!(bench.sent(), [1, 2, 3, 4]);
    bench.value(3, 30);
    bench.value(1, 10);
    assert_eq!(bench.calls.confirmed(), 1, "the second is still open");
    assert_eq!(bench.calls.take_released(), 1, "a place is a number of the window");
    bench.value(2, 20);
    assert_eq!((bench.calls.confirmed(), bench.calls.take_released()), (3, 2));
    assert_eq!(value_of(&mut answers[0]), 10);
    assert_eq!(value_of(&mut answers[2]), 30);
    assert!(is_waiting(&mut answers[3]));
}

/// Spec S-6: after a lost connection what is unanswered goes again, in order and under its number, before what is new.
#[test]
fn a_lost_connection_sends_the_unanswered_again() {
    let mut bench = Bench::new();
    let _answers: Vec<_> = (0..4).map(|_| bench.write()).collect();
    assert_eq!(bench.sent(), [1, 2, 3, 4]);
    bench.value(2, 1);
    let _fifth = bench.write();
    bench.calls.connection_lost();
    assert!(!bench.calls.awaits_answers());
    assert_eq!(bench.sent(), [1, 3, 4, 5]);
}

/// Spec S-6: an answer that comes twice, or after its call was given up, changes nothing.
#[test]
fn an_answer_counts_once() {
    let mut bench = Bench::new();
    let mut answer = bench.write();
    let _other = bench.write();
    bench.sent();
    bench.value(1, 1);
    bench.value(1, 2);
    bench.value(77, 3);
    bench.value(0, 4);
    assert_eq!(value_of(&mut answer), 1);
    assert_eq!(bench.calls.confirmed(), 1);
}

/// Spec S-6: giving up confirms, so a late copy is refused.
#[test]
fn a_deadline_gives_up_and_confirms() {
    let mut bench = Bench::new();
    let (mut write, mut read) = (bench.write(), bench.read());
    bench.sent();
    let mut unsent = bench.write();
    bench.advance(ALLOWED - Duration::from_millis(1));
    assert!(is_waiting(&mut write));
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.calls.confirmed(), 2);
    assert_eq!(bench.calls.take_released(), 3);
    assert!(bench.calls.is_empty());
    let error = error_of(&mut write);
    assert!(error.may_have_been_done());
    assert_eq!(error.to_string(), "no answer to increment /c within its 10 s; trouble");
    assert!(!error_of(&mut read).may_have_been_done(), "a read does nothing");
    let error = error_of(&mut unsent);
    assert!(!error.may_have_been_done(), "never sent");
    assert_eq!(error.to_string(), "increment /c was not sent within its 10 s; trouble");
}

#[test]
fn a_refused_call_rests_and_goes_again_under_its_number() {
    let mut bench = Bench::new();
    let mut answer = bench.write();
    assert_eq!(bench.sent(), [1]);
    bench.refuse(1, Code::Unavailable, false);
    assert_eq!(bench.sent(), [0; 0], "it rests");
    assert!(!bench.calls.awaits_answers());
    bench.advance(RETRY_REST.1);
    assert_eq!(bench.sent(), [1]);
    bench.refuse(1, Code::Overloaded, false);
    bench.advance(ALLOWED);
    let error = error_of(&mut answer);
    assert!(!error.may_have_been_done(), "each copy was refused for certain");
    assert!(error.to_string().contains("sent 2 times; the last answer was: said the cell"), "{error}");
}

#[test]
fn a_new_leader_ends_all_rests() {
    let mut bench = Bench::new();
    let _answers = [bench.write(), bench.write()];
    bench.sent();
    bench.refuse(2, Code::Unavailable, false);
    bench.refuse(1, Code::Unavailable, false);
    assert_eq!(bench.sent(), [0; 0]);
    bench.calls.wake_all();
    let mut sent = bench.sent();
    sent.sort_unstable();
    assert_eq!(sent, [1, 2]);
    bench.advance(ALLOWED / 2);
    assert_eq!(bench.sent(), [0; 0], "once each");
}

#[test]
fn one_unknown_copy_makes_a_call_uncertain_whatever_later_copies_are_told() {
    let mut bench = Bench::new();
    let mut answer = bench.write();
    bench.sent();
    bench.calls.connection_lost();
    bench.sent();
    bench.refuse(1, Code::Unavailable, false);
    bench.advance(ALLOWED);
    assert!(error_of(&mut answer).may_have_been_done());
}

#[test]
fn retries_end_with_their_budget() {
    let mut bench = Bench::new();
    while bench.budget.take(bench.now) {}
    let mut answer = bench.write();
    bench.sent();
    bench.refuse(1, Code::Overloaded, false);
    let error = error_of(&mut answer);
    assert!(matches!(error, Error::Overloaded { may_have_been_done: false, .. }), "{error:?}");
    assert_eq!(bench.calls.confirmed(), 1);
}

#[test]
fn a_batch_keeps_to_its_bytes_and_number() {
    let mut bench = Bench::new();
    let _answers: Vec<_> = (0..5).map(|_| bench.write()).collect();
    let mut batch = |most, bytes| bench.calls.next_batch(bench.now, most, bytes).len();
    assert_eq!(batch(4096, 250), 2);
    assert_eq!(batch(4096, 10), 1, "the first one always goes, or nothing ever would");
    assert_eq!(batch(1, 1000), 1);
    assert_eq!(batch(4096, 1000), 1);
}

#[test]
fn a_call_whose_caller_left_is_never_sent() {
    let mut bench = Bench::new();
    drop(bench.write());
    let _stays = bench.write();
    assert_eq!(bench.calls.next_batch(bench.now, 10, 1000).len(), 1);
    assert_eq!(bench.calls.take_released(), 1);
}

#[test]
fn the_cell_hears_of_a_little_less_time_than_is_left() {
    assert_eq!(cell_deadline(Duration::from_secs(10)), 9750);
    assert_eq!(cell_deadline(Duration::from_millis(100)), 90);
    assert_eq!(cell_deadline(Duration::ZERO), 1, "0 would be the default");
}

/// Spec S-4, S-6: what becomes of calls when the session is over.
#[test]
fn an_expired_session_fails_only_what_is_uncertain() {
    let mut bench = Bench::new();
    let mut refused = bench.write();
    let mut uncertain = bench.write();
    let mut read = bench.read();
    let mut answered = bench.write();
    assert_eq!(bench.sent(), [1, 2, 3, 4]);
    let mut unsent = bench.write();
    bench.value(4, 44);
    bench.refuse(1, Code::SessionExpired, false);
    assert!(bench.calls.session_refused());

    bench.calls.session_lost("session 7 is over");
    assert_eq!(value_of(&mut answered), 44);
    let error = error_of(&mut uncertain);
    assert!(matches!(error, Error::SessionExpired { may_have_been_done: true, .. }), "{error:?}");
    assert!(error.to_string().starts_with("session 7 is over; increment /c was sent"), "{error}");
    assert_eq!(bench.calls.take_released(), 2, "of the answered and the failed one");
    assert_eq!(bench.sent(), [1, 2, 3], "numbers begin anew");
    for (number, answer) in [(1, &mut refused), (2, &mut read), (3, &mut unsent)] {
        bench.value(number, number.cast_signed());
        assert_eq!(value_of(answer), number.cast_signed());
    }
}

/// Spec S-4, S-6: refused in the end, but an earlier copy is unaccounted for.
#[test]
fn a_call_sent_twice_is_uncertain_even_if_the_second_copy_was_refused() {
    let mut bench = Bench::new();
    let mut answer = bench.write();
    bench.sent();
    bench.calls.connection_lost();
    bench.sent();
    bench.refuse(1, Code::SessionExpired, false);
    bench.calls.session_lost("over");
    assert!(error_of(&mut answer).may_have_been_done());
}

/// Spec S-6: a disk that has no room for the second copy says nothing of the first.
#[test]
fn a_full_disk_does_not_tell_that_an_earlier_copy_was_not_done() {
    let mut bench = Bench::new();
    let mut answer = bench.write();
    bench.sent();
    bench.calls.connection_lost();
    bench.sent();
    bench.refuse(1, Code::NoSpace, false);
    let error = error_of(&mut answer);
    assert!(error.may_have_been_done(), "{error}");
    let mut answer = bench.write();
    bench.sent();
    bench.refuse(2, Code::NoSpace, false);
    assert!(!error_of(&mut answer).may_have_been_done());
}

/// Spec S-6: what is to be taken back is tried for as long as it takes, and holds nothing up meanwhile.
#[test]
fn a_lasting_call_that_was_not_done_leaves_the_window() {
    let mut bench = Bench::new();
    let release = v1::operation::Operation::Release(v1::Release { handle: 1 });
    let operation = v1::Operation { operation: Some(release) };
    let (deadline, lasting) = (bench.now + FAR, Lasting::Always);
    let (size, has_effect, grip, session, reply) = (9, true, None, None, Reply::Nobody);
    let allowed = ALLOWED;
    bench.calls.submit(Call {
        operation,
        size,
        has_effect,
        deadline,
        allowed,
        grip,
        session,
        lasting,
        reply,
    });
    let _write = bench.write();
    assert_eq!(bench.sent(), [1, 2]);
    bench.refuse(1, Code::NoSpace, false);
    bench.value(2, 1);
    assert_eq!((bench.calls.confirmed(), bench.calls.take_released()), (2, 2));
    assert!(!bench.calls.is_empty() && !bench.calls.awaits_answers());
    assert!(bench.calls.take_rested(bench.now).is_empty(), "it rests");
    bench.advance(LASTING_REST);
    let rested = bench.calls.take_rested(bench.now);
    rested.into_iter().for_each(|call| bench.calls.submit(call));
    assert_eq!(bench.sent(), [3]);
    bench.refuse(3, Code::NoSpace, true);
    bench.advance(LASTING_REST);
    assert_eq!(bench.sent(), [3], "perhaps done: it keeps its number");
    bench.answer(3, v1::outcome::Outcome::Done(v1::Done {}));
    assert!(bench.calls.is_empty());
}

/// Whatever happens in whatever order: each caller gets one answer, and each place comes back once.
#[test]
fn no_call_and_no_place_is_lost() {
    for seed in 0..200 {
        let mut bench = Bench::new();
        let mut random = StdRng::seed_from_u64(seed);
        let (mut answers, mut out) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            match random.random_range(0..12) {
                0..=3 => answers.push(bench.write()),
                4 => answers.push(bench.read()),
                5..=6 => out.extend(bench.sent()),
                7..=8 if !out.is_empty() => {
                    let number = out.swap_remove(random.random_range(0..out.len()));
                    bench.value(number, 1);
                }
                9 if !out.is_empty() => {
                    let number = out.swap_remove(random.random_range(0..out.len()));
                    let code =
                        [Code::Overloaded, Code::NotFound, Code::SessionExpired][random.random_range(0..3)];
                    bench.refuse(number, code, random.random());
                }
                10 => {
                    bench.calls.connection_lost();
                    out.clear();
                }
                11 if bench.calls.session_refused() || random.random_bool(0.1) => {
                    bench.calls.session_lost("over");
                    out.clear();
                }
                _ => bench.advance(Duration::from_millis(random.random_range(0..1500))),
            }
        }
        bench.advance(2 * ALLOWED);
        assert!(bench.calls.is_empty() && !bench.calls.awaits_answers(), "seed {seed}");
        assert_eq!(bench.calls.take_released(), answers.len(), "seed {seed}");
        assert!(answers.iter_mut().all(|answer| answer.try_recv().is_ok()), "seed {seed}");
    }
}
