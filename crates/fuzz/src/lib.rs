//! What the fuzz tests of all decoders share: a kept corpus, damage done to it, and a bound on memory.
//!
//! A decoder's test is one [`fuzz!`] with a function from bytes. Each run replays the corpus, the files of
//! `<crate>/__fuzz__/<name>/corpus`, then tries random bytes, then corpus files that were damaged. bolero's
//! engine does the work under plain `cargo test`; `docs/adding.md` says how to let it run longer.

mod damage;

use std::panic::RefUnwindSafe;
use std::time::Duration;

pub use bolero;
use bolero::TargetLocation;

use self::damage::Damage;

/// How long each of the two parts of a test tries new inputs, unless `BOLERO_RANDOM_TEST_TIME_MS` says else.
const TEST_TIME: Duration = Duration::from_millis(700);
/// How many it tries at most, unless `BOLERO_RANDOM_ITERATIONS` says else.
const ITERATIONS: usize = 20_000;
/// The longest random input in bytes.
const MAX_RANDOM_BYTES: usize = 2048;

/// Fuzzes a function from `&[u8]` that panics if it finds something wrong. The name is that of the corpus.
#[macro_export]
macro_rules! fuzz {
    ($name:literal, $target:expr) => {
        $crate::run(
            $crate::bolero::TargetLocation {
                package_name: env!("CARGO_PKG_NAME"),
                manifest_dir: env!("CARGO_MANIFEST_DIR"),
                module_path: module_path!(),
                // The corpus stands beside this file, and not between the sources.
                file: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
                line: line!(),
                item_path: $crate::bolero::__item_path__!(),
                test_name: Some($name.to_owned()),
            },
            $target,
        )
    };
}

/// What [`fuzz!`] calls. Panics if there is no corpus: then the name is wrong, or the files were not added.
pub fn run(location: TargetLocation, target: impl Fn(&[u8]) + RefUnwindSafe) {
    if !location.should_run() {
        return;
    }
    let damage = Damage::to_corpus_of(&location);
    bolero::test(location.clone())
        .with_test_time(TEST_TIME)
        .with_iterations(ITERATIONS + damage.corpus_files())
        .with_max_len(MAX_RANDOM_BYTES)
        .for_each(|bytes: &[u8]| target(bytes));
    // A folder that is not there, so that no file is taken for the choices of what to damage.
    let test_name = location.test_name.as_ref().map(|name| format!("{name}.damaged"));
    bolero::test(TargetLocation { test_name, ..location })
        .with_test_time(TEST_TIME)
        .with_iterations(ITERATIONS)
        .with_generator(damage)
        .for_each(|input: &damage::Input| target(&input.0));
}

/// Runs `decode` and panics if this thread ever held more than `most` bytes more than before.
pub fn within_bytes<T>(most: usize, decode: impl FnOnce() -> T) -> T {
    let mut decoded = None;
    let held = allocation_counter::measure(|| decoded = Some(decode())).bytes_max;
    assert!(held <= most as u64, "{held} bytes were asked for, where {most} would be in proportion");
    decoded.expect("it has run")
}
