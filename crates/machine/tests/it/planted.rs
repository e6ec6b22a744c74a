//! The models find the errors that are planted for the storm: a test of these tests.

#[cfg(feature = "planted")]
use bramah_machine::planted::{self, Bug};

/// What names the error to plant in a process that runs one test.
#[cfg(feature = "planted")]
const VARIABLE: &str = "BRAMAH_PLANTED";

/// Plants what the test that started this process wants to be found.
#[cfg_attr(
    feature = "planted",
    expect(clippy::disallowed_methods, reason = "the test's process, not a state, is told")
)]
pub(crate) fn plant_as_told() {
    #[cfg(feature = "planted")]
    if let Ok(told) = std::env::var(VARIABLE) {
        let found = planted::ALL.iter().find(|(_, name)| *name == told);
        planted::plant(found.expect("there is such an error").0);
    }
}

/// An error is planted in a whole process, so each gets one of its own.
#[cfg(feature = "planted")]
#[test]
fn the_models_find_what_is_planted() {
    let locks = "locks::locks_behave_as_the_model";
    let tree = "model::behaves_as_the_model";
    for (bug, test) in [
        (Bug::LockPastQueue, locks),
        (Bug::ExclusiveBesideShared, locks),
        (Bug::LockGenerationStays, locks),
        (Bug::LockDelayIgnored, locks),
        (Bug::EphemeralStays, locks),
        (Bug::SequencerGenerationIgnored, locks),
        (Bug::WaitersLostInSnapshot, locks),
        (Bug::TxnHalfDone, tree),
        (Bug::GenerationIgnored, tree),
    ] {
        let (_, name) = planted::ALL.iter().find(|(known, _)| *known == bug).unwrap();
        let ran = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(VARIABLE, name)
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(said.contains("running 1 test"), "{test} is no test: {said}");
        assert!(!ran.status.success(), "{name} was not found by {test}");
    }
}
