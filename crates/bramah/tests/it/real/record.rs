//! What the clients of a scenario were told, completed by a last look through each replica, and the judgement.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bramah_client::Client;
use bramah_sim::check::{Report, digests, exactly_once, linear};
use bramah_sim::history::{Answer, Call, History, Operation, Outcome, Recorder};

use super::load::{COUNTERS, FILES, counter, file};
use super::tool::say;

/// Who takes the last look.
const LAST_READER: u32 = 1_000;
/// Fewer answers than this show nothing.
const LEAST_LOAD: u64 = 400;

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

    /// Fails if the cell has broken what it promises. The digests are those that its replicas had.
    pub(crate) fn judge(self, digests: &[digests::Record]) {
        let history = self.recorder.history();
        let counts = history.counts();
        say(&format!("{counts:?}"));
        assert!(counts.answered > LEAST_LOAD, "{counts:?} is no load");
        let reports = [
            linear::check(&history, linear::STEPS),
            exactly_once::check(&history, &last_values(&history)),
            digests::check(digests),
        ];
        // A replica that is alone has nobody to differ from.
        let alone = digests.iter().all(|digest| digest.replica == 1);
        for report in &reports[..if alone { 2 } else { 3 }] {
            assert!(report.checked > 0, "nothing to judge: {report}");
        }
        if !reports.iter().all(Report::is_clean) {
            let findings: Vec<String> = reports.iter().map(Report::to_string).collect();
            panic!("{}\nthe history is in {}", findings.join("\n"), keep(&history).display());
        }
    }
}

/// What each counter was in the end.
fn last_values(history: &History) -> BTreeMap<Arc<str>, i64> {
    let last = |operation: &&Operation| operation.client == LAST_READER;
    let value = |operation: &Operation| match operation.outcome {
        Outcome::Answered(Answer::Value { value }) => Some((Arc::clone(&operation.key), value)),
        _ => None,
    };
    history.operations.iter().filter(last).filter_map(value).collect()
}

/// Writes a history where it can be looked at afterwards.
fn keep(history: &History) -> PathBuf {
    let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.history.jsonl"));
    let written = File::create(&path).and_then(|file| history.write(BufWriter::new(file)));
    written.unwrap_or_else(|error| say(&format!("{} can't be written: {error}", path.display())));
    path
}
