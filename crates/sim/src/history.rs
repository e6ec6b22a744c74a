//! The record of what clients asked of a cell and what they were told: the only thing that the judges in `check` see.
//!
//! A [`Recorder`] takes it down while the clients work, in a simulation as among real processes:
//!
//! ```
//! use bramah_sim::history::{Answer, Call, History, Outcome, Recorder};
//!
//! let recorder = Recorder::monotonic();
//! let call = recorder.begin(7, "/visits", Call::Add { delta: 1 });
//! // … here the client asks the cell; what it returns becomes an outcome by `Outcome::from(result)` …
//! recorder.end(call, Outcome::Answered(Answer::Value { value: 1 }));
//! recorder.begin(8, "/visits", Call::Read); // and client 8 dies before an answer comes
//!
//! let history = recorder.history();
//! assert_eq!((history.counts().answered, history.counts().unknown), (1, 1));
//!
//! let mut lines = Vec::new();
//! history.write(&mut lines)?;
//! assert_eq!(History::read(lines.as_slice())?, history);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod shown;
mod told;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub(crate) use shown::Seconds;

/// The most bytes of one line of a history, so that a file which is none can't fill the memory.
const LONGEST_LINE: u64 = 1 << 20;

/// How far back [`Recorder::first`] looks.
const LATELY: usize = 4_096;

/// Contents longer than this are recorded by their length and checksum.
const LONGEST_CONTENTS: usize = 48;

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// The path of the file or counter. A key is the one or the other for the whole history.
    pub key: Arc<str>,
    /// When it was asked, in nanoseconds. All operations of a history have one clock.
    pub invoked: u64,
    /// When the client knew the outcome or gave up, by the same clock. `None`: neither was seen, because the
    /// client died or the history ended first.
    pub returned: Option<u64>,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Read a file.
    Get,
    /// Write a file, making it if it is missing.
    Set {
        /// What is written.
        contents: Contents,
        /// Compare and swap: the generation the file must have; 0: there must be none (so it is created).
        if_generation: Option<u64>,
    },
    /// Delete a file.
    Delete {
        /// The generation the file must have.
        if_generation: Option<u64>,
    },
    /// Add to a counter, making it, at zero, if it is missing.
    Add {
        /// What is added.
        delta: i64,
    },
    /// Read a counter.
    Read,
}

impl Call {
    /// Write a file whatever is there.
    pub fn set(contents: impl Into<Contents>) -> Self {
        Self::Set { contents: contents.into(), if_generation: None }
    }

    /// Write a file if it has this generation.
    pub fn set_if(contents: impl Into<Contents>, generation: u64) -> Self {
        Self::Set { contents: contents.into(), if_generation: Some(generation) }
    }

    /// Write a file if there is none: what the cell calls generation 0.
    pub fn create(contents: impl Into<Contents>) -> Self {
        Self::set_if(contents, 0)
    }

    /// Whether it changes nothing, whatever the state.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        matches!(self, Self::Get | Self::Read)
    }

    /// Whether it is about a counter; else it is about a file.
    #[must_use]
    pub fn of_counter(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Read)
    }
}

/// The contents of a file: short text as it is, anything else as `<bytes>B:<XXH3-64>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Contents(Arc<str>);

impl Contents {
    /// What stands for these bytes in a history. Different bytes give different contents, but for collisions of XXH3-64.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= LONGEST_CONTENTS && text.chars().all(|c| c.is_ascii_graphic()) => {
                Self(text.into())
            }
            _ => Self(format!("{}B:{:016x}", bytes.len(), twox_hash::XxHash3_64::oneshot(bytes)).into()),
        }
    }
}

impl Contents {
    /// Stands for contents that nobody read. [`Contents::of`] gives nothing with spaces, so it is never this.
    pub(crate) fn never_read() -> Self {
        static NEVER_READ: LazyLock<Contents> = LazyLock::new(|| Contents("never read by anyone".into()));
        NEVER_READ.clone()
    }
}

impl From<&str> for Contents {
    fn from(text: &str) -> Self {
        Self::of(text.as_bytes())
    }
}

/// What came of a call, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The cell answered. A refusal is an answer too: it says something of the state.
    Answered(Answer),
    /// It had no effect and will have none: the server never proposed it.
    NotDone {
        /// The error.
        why: String,
    },
    /// It may have its effect at any time after it was invoked, also long after the client gave up, or never.
    Unknown {
        /// The error, or why there is not even that.
        why: String,
    },
}

/// What a cell answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Call::Get`].
    Contents {
        /// The whole file.
        contents: Contents,
        /// Its content generation: 1 when it was made, one more with each write.
        generation: u64,
        /// The cell's revision that last changed it.
        revision: u64,
    },
    /// To [`Call::Set`].
    Written {
        /// The content generation now.
        generation: u64,
        /// The cell's revision of this change.
        revision: u64,
        /// Whether there was no such file before.
        created: bool,
    },
    /// To [`Call::Delete`].
    Deleted {
        /// The cell's revision of this change.
        revision: u64,
    },
    /// To [`Call::Add`] and [`Call::Read`].
    Value {
        /// The counter's value, after the addition.
        value: i64,
    },
    /// It was not done, for a reason that lies in the state.
    Refused(Refusal),
}

/// Why a cell refused a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such node.
    NotFound,
    /// There is such a node already.
    Exists,
    /// The file has another generation than the call demands.
    GenerationDiffers {
        /// The one it has; 0: there is no such file. `None`: the cell didn't say.
        current: Option<u64>,
    },
    /// The counter would leave the range of 64 bits.
    OutOfRange {
        /// Its value. `None`: the cell didn't say.
        current: Option<i64>,
    },
    /// A refusal that no state of a file or counter accounts for, such as a wrong kind of node: the judges never accept it.
    Unexpected {
        /// The error.
        error: String,
    },
}

/// All operations of a run, in the order in which they began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Them.
    pub operations: Vec<Operation>,
}

/// How many operations ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Were done and answered.
    pub answered: u64,
    /// Were refused by the state.
    pub refused: u64,
    /// Were certainly not done.
    pub not_done: u64,
    /// May have been done.
    pub unknown: u64,
}

impl Counts {
    /// All operations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.answered + self.refused + self.not_done + self.unknown
    }
}

/// Why a history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes don't come.
    #[error("line {line} of the history can't be read: {source}; check the file")]
    Io {
        /// From 1.
        line: usize,
        /// Why.
        source: io::Error,
    },
    /// A line is no operation.
    #[error("line {line} of the history is no operation: {source}; cut it off, or record the history again")]
    Malformed {
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

impl History {
    /// Writes one JSON object a line. Give it a buffered writer.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut to, operation)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }

    /// Reads what [`History::write`] wrote. Empty lines are skipped.
    ///
    /// # Errors
    /// [`ReadError`] with the number of the first line that is no operation, or is longer than 1 MiB.
    pub fn read(mut from: impl BufRead) -> Result<Self, ReadError> {
        let mut operations = Vec::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
            if read.map_err(|source| ReadError::Io { line: number, source })? == 0 {
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let operation = serde_json::from_slice(&line);
            operations.push(operation.map_err(|source| ReadError::Malformed { line: number, source })?);
        }
        Ok(Self { operations })
    }

    /// How many operations ended in which way.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for operation in &self.operations {
            *match &operation.outcome {
                Outcome::Answered(Answer::Refused(_)) => &mut counts.refused,
                Outcome::Answered(_) => &mut counts.answered,
                Outcome::NotDone { .. } => &mut counts.not_done,
                Outcome::Unknown { .. } => &mut counts.unknown,
            } += 1;
        }
        counts
    }

    /// Copies of commands begun before this time may have come again until then: nobody knows any more that they were
    /// not done.
    pub fn doubt_until(&mut self, at: u64) {
        for operation in self.operations.iter_mut().filter(|it| it.invoked < at && !it.call.only_reads()) {
            if let Outcome::NotDone { why } = &operation.outcome {
                operation.outcome = Outcome::Unknown { why: format!("a copy came later; {why}") };
            }
        }
    }

    /// The operations of each key, in the history's order.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<&str, Vec<&Operation>> {
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(&operation.key).or_default().push(operation);
        }
        keys
    }
}

/// Takes a history down. Its clones write into the same history, from any thread.
///
/// Each beginning and end gets a time of its own: that of the clock, or one nanosecond after the one before if the clock
/// stands still, as it does within a tick of a simulation. So the order in which things were seen is never lost, and an
/// answer that came before a question was asked counts as before it.
#[derive(Clone)]
pub struct Recorder {
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    last: u64,
    operations: Vec<Operation>,
}

/// A call that a [`Recorder`] has seen begin. Dropping it says that its outcome will never be known.
#[derive(Debug)]
#[must_use = "the outcome counts as unknown until the recorder is told of it"]
pub struct Begun(usize);

impl Recorder {
    /// By a clock in nanoseconds, for example that of a simulation. It is asked under a lock: it must be quick.
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), seen: Arc::default() }
    }

    /// By this machine's monotonic clock, from now.
    #[must_use]
    pub fn monotonic() -> Self {
        let start = Instant::now();
        Self::new(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// To be called before the client sends anything.
    pub fn begin(&self, client: u32, key: impl Into<Arc<str>>, call: Call) -> Begun {
        let key = key.into();
        let outcome = Outcome::Unknown { why: "no end was seen".to_owned() };
        let mut seen = self.seen.lock();
        let invoked = self.time(&mut seen);
        seen.operations.push(Operation { client, key, invoked, returned: None, call, outcome });
        Begun(seen.operations.len() - 1)
    }

    /// To be called when the client knows what came of the call, or gives up.
    pub fn end(&self, begun: Begun, outcome: impl Into<Outcome>) {
        let outcome = outcome.into();
        let mut seen = self.seen.lock();
        let returned = self.time(&mut seen);
        let operation = &mut seen.operations[begun.0];
        operation.returned = Some(returned);
        operation.outcome = outcome;
    }

    /// When the first of the newest few thousand operations that `wanted` is true of returned.
    #[must_use]
    pub fn first(&self, wanted: impl Fn(&Operation) -> bool) -> Option<u64> {
        let seen = self.seen.lock();
        let newest = seen.operations.iter().rev().take(LATELY).filter(|operation| wanted(operation));
        newest.filter_map(|operation| operation.returned).min()
    }

    /// What was seen until now. Calls without an end are unknown.
    #[must_use]
    pub fn history(&self) -> History {
        History { operations: self.seen.lock().operations.clone() }
    }

    fn time(&self, seen: &mut Seen) -> u64 {
        seen.last = (self.clock)().max(seen.last + 1);
        seen.last
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Recorder").field("operations", &self.seen.lock().operations.len()).finish()
    }
}
