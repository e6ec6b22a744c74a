//! What the clients of a scenario were told, completed by a last look through each replica, and the judgement.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use bramah_client::Client;
use bramah_sim::check::linear;
use bramah_sim::history::{Answer, Call, History, Operation, Outcome, Recorder};

use super::load::{COUNTERS, FILES, counter, file};
use super::tool::say;

/// Who takes the last look.
const LAST_READER: u32 = 1_000;

/// A history that has ended, but for the last look.
pub(crate) struct Record {
    recorder: Recorder,
}

impl Record {
    pub(super) fn of(recorder: Recorder) -> Self {
        Self { recorder }
    }

    /// What the counters and files are in the end, as a session sees it. Everything acknowledged before must be in it.
    pub(crate) async fn read_all_through(&self, client: Client) {
        for key in (0..COUNTERS).map(counter) {
            let begun = self.recorder.begin(LAST_READER, key.as_str(), Call::Read);
            let value = client.counter(&key).get().await;
            assert!(value.is_ok(), "{key} can't be read: {value:?}");
            self.recorder.end(begun, value);
        }
        for key in (0..FILES).map(file) {
            let begun = self.recorder.begin(LAST_READER, key.as_str(), Call::Get);
            self.recorder.end(begun, client.get(&key).await);
        }
        client.close().await;
    }

    /// Fails if the cell has broken what it promises.
    pub(crate) fn judge(self) {
        let history = self.recorder.history();
        let counts = history.counts();
        say(&format!("{counts:?}"));
        let findings = findings(&history);
        if findings.is_empty() {
            assert!(counts.answered > 500, "{counts:?} is no load");
            return;
        }
        panic!("{}\nthe history is in {}", findings.join("\n"), keep(&history).display());
    }
}

/// Everything that is wrong with a history, and whatever no judge could decide.
fn findings(history: &History) -> Vec<String> {
    let linear = linear::check(history, linear::STEPS);
    say(&linear.to_string());
    let miscounts = (0..COUNTERS).filter_map(|number| miscount(history, &counter(number)));
    miscounts.chain(linear.anomalies).chain(linear.undecided).collect()
}

/// Spec S-6, G-1: a counter's last value is the number of acknowledged increments, and at most of those whose outcome is
/// not known.
fn miscount(history: &History, key: &str) -> Option<String> {
    let of_key = |operation: &&Operation| &*operation.key == key;
    let adds = |wanted: fn(&Outcome) -> bool| {
        let add =
            |operation: &&Operation| matches!(operation.call, Call::Add { .. }) && wanted(&operation.outcome);
        history.operations.iter().filter(of_key).filter(add).count() as i64
    };
    let acknowledged = adds(|outcome| matches!(outcome, Outcome::Answered(Answer::Value { .. })));
    let unknown = adds(|outcome| matches!(outcome, Outcome::Unknown { .. }));
    let last = |operation: &&Operation| operation.client == LAST_READER;
    let mut values = history.operations.iter().filter(of_key).filter(last).map(|read| match read.outcome {
        Outcome::Answered(Answer::Value { value }) => value,
        _ => -1,
    });
    let wrong = values.find(|value| !(acknowledged..=acknowledged + unknown).contains(value))?;
    Some(format!("{key} is {wrong} after {acknowledged} acknowledged and {unknown} unknown increments"))
}

/// Writes a history where it can be looked at afterwards.
fn keep(history: &History) -> PathBuf {
    let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.history.jsonl"));
    let written = File::create(&path).and_then(|file| history.write(BufWriter::new(file)));
    written.unwrap_or_else(|error| say(&format!("{} can't be written: {error}", path.display())));
    path
}
