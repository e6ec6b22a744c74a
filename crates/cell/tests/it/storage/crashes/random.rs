//! Long random rows of operations, kills and power cuts, against the same model.

use std::sync::Arc;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::super::sim_disk::Random;
use super::replica::{Plan, Replica, Step};

#[derive(Clone, Debug)]
enum Transition {
    Take(Step),
    /// The power goes after so many more changes to the disk; the seed says what survives.
    CutPower {
        changes: u64,
        seed: u64,
    },
}

/// The rows themselves. What they must lead to is known only once it is known what a crash left, so the model is
/// beside the replica.
struct Rows;

impl ReferenceStateMachine for Rows {
    type State = ();
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<()> {
        Just(()).boxed()
    }

    fn transitions(_state: &()) -> BoxedStrategy<Transition> {
        let step = prop_oneof![
            10 => (1..6_usize, 0..2500_usize).prop_map(|(entries, bytes)| Step::Append { entries, bytes }),
            2 => (1..12_usize).prop_map(|entries| Step::Truncate { entries }),
            2 => (1..20_u64).prop_map(|entries| Step::Purge { entries }),
            1 => (1..20_u64).prop_map(|entries| Step::PurgeBeyond { entries }),
            1 => (0..9_u64, 1..5_usize).prop_map(|(ahead, pieces)| Step::Install { ahead, pieces }),
            1 => (0..9_u64).prop_map(|ahead| Step::Receive { ahead }),
            1 => Just(Step::Snapshot),
            1 => Just(Step::Commit),
            2 => Just(Step::Vote),
            1 => Just(Step::Pause),
            1 => Just(Step::Resume),
            1 => Just(Step::Tick),
            1 => Just(Step::Open),
            1 => Just(Step::Kill),
        ];
        let cut =
            (0..60_u64, any::<u64>()).prop_map(|(changes, seed)| Transition::CutPower { changes, seed });
        prop_oneof![10 => step.prop_map(Transition::Take), 1 => cut].boxed()
    }

    fn apply(_state: (), _transition: &Transition) {}
}

struct Running {
    replica: Replica,
    plan: Arc<Plan>,
    random: Random,
}

impl Running {
    fn take(&mut self, step: Step) {
        self.replica.take(step).expect("what was promised");
        if self.replica.power_is_cut() {
            let left = self.replica.disk().crash(&mut |limit| self.random.below(limit));
            self.plan = Plan::new(u64::MAX, None);
            self.replica = Replica::new(&left, Arc::clone(&self.plan), self.replica.model.clone());
            self.replica.take(Step::Restart).expect("it opens with all that was promised");
        }
    }
}

impl StateMachineTest for Running {
    type SystemUnderTest = Running;
    type Reference = Rows;

    fn init_test(_state: &()) -> Running {
        let plan = Plan::new(u64::MAX, None);
        let mut running =
            Running { replica: Replica::empty(Arc::clone(&plan)), plan, random: Random::new(1) };
        running.take(Step::Open);
        running
    }

    fn apply(mut running: Running, _state: &(), transition: Transition) -> Running {
        match transition {
            Transition::Take(step) => running.take(step),
            Transition::CutPower { changes, seed } => {
                running.random = Random::new(seed);
                running.plan.cut_after(changes);
            }
        }
        running
    }

    fn teardown(mut running: Running, _state: ()) {
        running.take(Step::Kill);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Spec G-1, G-4, G-5: the same for rows that nobody thought of.
    #[test]
    fn nothing_promised_is_lost(sequential 1..80 => Running);
}
