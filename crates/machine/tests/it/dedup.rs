//! Exactly once, whatever the network does to the commands.

use std::collections::BTreeMap;

use bramah_machine::{
    Answer, Command, Identity, Increment, OpenSession, Outcome, Path, Refusal, Request, SessionId, State,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::generate::{NOW, open_session};

/// The commands of a session: its `n`th adds 2 to the power of `n` to the counter that all share, so the sum
/// says which were done.
const COMMANDS: u64 = 20;
const SESSIONS: usize = 3;

fn counter(session: usize) -> Path {
    Path::parse(&format!("/counters/{session}")).unwrap()
}

fn request(identity: Identity, session: usize, number: u64) -> Request {
    let increment =
        Increment { path: counter(session), delta: 1 << number, create: true, floor: None, ceiling: None };
    Request { identity, command: Command::Increment(increment) }
}

/// A client as the contract asks it to be: it confirms only what it has.
#[derive(Default)]
struct Client {
    answers: BTreeMap<u64, Outcome>,
}

impl Client {
    fn confirmed(&self) -> u64 {
        (1..).take_while(|number| self.answers.contains_key(number)).last().unwrap_or(0)
    }

    /// Takes an answer off the network; whatever it had before must be the same.
    fn take(&mut self, number: u64, outcome: Outcome) {
        if let Some(before) = self.answers.get(&number)
            && !matches!(outcome, Err(Refusal::StaleDuplicate { .. }))
        {
            assert_eq!(&outcome, before, "command {number} got two answers");
        }
        self.answers.entry(number).or_insert(outcome);
    }
}

/// Takes the state through a snapshot, as a restart or a replica that lags does.
fn restarted(state: &State) -> State {
    let mut bytes = Vec::new();
    state.write_snapshot(&mut bytes).unwrap();
    State::read_snapshot(&mut bytes.as_slice()).unwrap()
}

#[derive(Clone, Debug)]
struct Delivery {
    session: usize,
    number: u64,
    answer_lost: bool,
    late_copy_of: Option<Index>,
    restart: bool,
}

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    let delivery = (
        0..SESSIONS,
        1..=COMMANDS,
        prop::bool::weighted(0.3),
        prop::option::weighted(0.3, any::<Index>()),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(session, number, answer_lost, late_copy_of, restart)| Delivery {
            session,
            number,
            answer_lost,
            late_copy_of,
            restart,
        });
    vec(delivery, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Spec S-6, K-2: commands arrive in any order, several times, long after they were confirmed, with
    /// their answers lost, across snapshots. Each one that arrived counts exactly once, and nothing else.
    #[test]
    fn each_numbered_command_counts_once(deliveries in deliveries()) {
        let mut state = State::new();
        let ids: Vec<SessionId> = (0..SESSIONS).map(|_| open_session(&mut state)).collect();
        let mut clients: Vec<Client> = (0..SESSIONS).map(|_| Client::default()).collect();
        let mut arrived = [0_i64; SESSIONS];
        let mut sent: Vec<(usize, u64, Request)> = Vec::new();
        for delivery in deliveries {
            let Delivery { session, number, .. } = delivery;
            let confirmed = clients[session].confirmed();
            let identity = Identity::Session { session: ids[session], number, confirmed };
            let fresh = (session, number, request(identity, session, number));
            let late = delivery.late_copy_of.filter(|_| !sent.is_empty()).map(|index| index.get(&sent).clone());
            let is_late = late.is_some();
            let (session, number, request) = late.unwrap_or(fresh);
            // A client does not send again what it has an answer to; the network may.
            if !is_late && clients[session].answers.contains_key(&number) {
                continue;
            }
            sent.push((session, number, request.clone()));
            arrived[session] |= 1 << number;
            let outcome = state.apply(request, NOW, &mut Vec::new());
            if !delivery.answer_lost {
                clients[session].take(number, outcome);
            }
            if delivery.restart {
                state = restarted(&state);
            }
            prop_assert_eq!(state.check_invariants(), Ok(()));
        }
        for (session, arrived) in arrived.into_iter().enumerate() {
            let value = state.get_counter(&counter(session)).map_or(0, |(value, _)| value);
            prop_assert_eq!(value, arrived, "session {}", session);
            for (number, answer) in &clients[session].answers {
                prop_assert!(matches!(answer, Ok(Answer::Counter { .. })), "{}: {:?}", number, answer);
            }
        }
    }

    /// Spec S-6: the same for callers with keys.
    #[test]
    fn each_keyed_command_counts_once(arrivals in vec((0..COMMANDS, prop::bool::weighted(0.1)), 1..100)) {
        let (mut state, mut arrived) = (State::new(), 0_i64);
        let mut answers: BTreeMap<u64, Outcome> = BTreeMap::new();
        for (number, restart) in arrivals {
            let identity = Identity::Key(format!("key {number}").into_bytes());
            arrived |= 1 << number;
            let outcome = state.apply(request(identity, 0, number), NOW, &mut Vec::new());
            prop_assert_eq!(answers.entry(number).or_insert_with(|| outcome.clone()), &outcome);
            if restart {
                state = restarted(&state);
            }
        }
        prop_assert_eq!(state.get_counter(&counter(0)).unwrap().0, arrived);
    }

    /// Spec S-6: the same for sessions that are opened, beside commands with the same keys.
    #[test]
    fn each_opening_makes_one_session(
        arrivals in vec((0..COMMANDS, any::<bool>(), prop::bool::weighted(0.1)), 1..100),
    ) {
        let mut state = State::new();
        let (mut opened, mut arrived) = (BTreeMap::<u64, Outcome>::new(), 0_i64);
        for (number, opens, restart) in arrivals {
            let identity = Identity::Key(format!("key {number}").into_bytes());
            let mut request = request(identity, 0, number);
            if opens {
                let open = OpenSession { lease_ms: 12_000, client: "test".to_owned(), secret: [7; 16] };
                request.command = Command::OpenSession(open);
            } else {
                arrived |= 1 << number;
            }
            let outcome = state.apply(request, NOW, &mut Vec::new());
            prop_assert_eq!(matches!(outcome, Ok(Answer::SessionOpened { .. })), opens);
            if opens {
                prop_assert_eq!(opened.entry(number).or_insert_with(|| outcome.clone()), &outcome);
            }
            if restart {
                state = restarted(&state);
            }
            prop_assert_eq!(state.check_invariants(), Ok(()));
        }
        prop_assert_eq!(state.session_count(), opened.len());
        prop_assert_eq!(state.get_counter(&counter(0)).map_or(0, |(value, _)| value), arrived);
    }
}
