//! A simulated machine's disk: the imagined one, and the faults that strike it.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramah_cell::disk::Disk;
use bramah_cell::disk::imagined::{
    Fate, Faults, ImaginedDisk, Kind, Operation, Tasks, UnsyncedPiece, Verdict,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use twox_hash::XxHash3_64;

/// What each error says that a fault made: a replica that ends with another had no cause.
const INJECTED: &str = "a fault of the storm";
/// After a failed sync or write of what must last, a replica that runs has so long to end, in milliseconds.
const LONGEST_DENIAL_MS: u64 = 5_000;
/// Where a replica keeps its log, and how large its segments are.
const LOG_FOLDER: &str = "/data/log";
const SEGMENT_BYTES: u64 = 32 << 10;
/// How long a disk takes for what a worker does in one turn, in microseconds.
const USUAL_US: (u64, u64) = (60, 900);

/// What became of unsynced sectors when the power went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// As last synced.
    pub lost: u64,
    /// As last written.
    pub kept: u64,
    /// Partly the one and partly the other.
    pub torn: u64,
}

/// Why a replica may have ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// A bit was flipped, and it noticed.
    Damage,
    /// The disk failed, and may be well again.
    Passing,
    /// It was to be repaired, and nobody was there to ask: its operator tries again.
    Alone,
    /// It was to begin with an empty folder on a full disk: its operator makes room.
    NoRoom,
    /// Nothing that the storm did.
    None,
}

/// The disk of one simulated machine.
#[derive(Clone)]
pub struct HostDisk {
    disk: ImaginedDisk,
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    slowest_ms: AtomicU64,
    random: Mutex<StdRng>,
    trace: Mutex<XxHash3_64>,
}

#[derive(Default)]
struct State {
    /// How often each step was taken.
    steps: BTreeMap<String, u64>,
    aims: Vec<Aim>,
    cut: Option<String>,
    failures: Vec<Failure>,
    /// What failed that must last, and since when the process has had time to see it.
    failed: Option<(String, u64)>,
    damaged: bool,
    /// Which shortage of space lasts, and how many writes had been refused before it.
    full: Option<(u64, u64)>,
    shortages: u64,
}

/// A disk's error that is to come.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// After so many operations of its kind that don't fail.
    pub after: u64,
    /// What fails.
    pub what: Fails,
    /// How much of a write lands.
    pub landed: u64,
}

/// What a disk fails to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    /// Something that changes it: a write lands in part, and what a sync was to write may be lost for ever.
    Changing,
    /// Reading, with an error.
    Reading,
    /// Reading, silently: a bit is another one.
    ReadingTruly,
}

impl Failure {
    fn concerns(&self, operation: &Operation<'_>) -> bool {
        match self.what {
            Fails::Changing => operation.changes(),
            Fails::Reading | Fails::ReadingTruly => matches!(operation.kind, Kind::Read { .. }),
        }
    }

    fn verdict(&self) -> Verdict {
        let error = || io::Error::other(format!("the disk failed ({INJECTED})"));
        match self.what {
            Fails::Changing => Verdict::FailInPart { error: error(), landed: self.landed },
            Fails::Reading => Verdict::Fail(error()),
            Fails::ReadingTruly => Verdict::Flip { byte: self.landed / 8, bit: (self.landed % 8) as u8 },
        }
    }
}

struct Aim {
    step: String,
    times: u64,
    done: bool,
}

impl Faults for Inner {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        let mut state = self.state.lock();
        let name = operation.name();
        let verdict = state.verdict(operation, &name);
        self.note(operation, &name, &verdict);
        *state.steps.entry(name).or_default() += 1;
        verdict
    }
}

impl State {
    fn verdict(&mut self, operation: &Operation<'_>, name: &str) -> Verdict {
        if let Some(done) = self.aimed_at(name) {
            let when = if done { "after" } else { "before" };
            self.cut = Some(format!("{when} \"{name}\""));
            return Verdict::CutPower { done };
        }
        let Some(failure) = self.failure(operation) else { return Verdict::Proceed };
        match failure.what {
            Fails::Changing if must_last(operation) => self.failed = Some((name.to_owned(), 0)),
            Fails::ReadingTruly => self.damaged = true,
            _ => {}
        }
        failure.verdict()
    }

    /// Whether the power goes at this step, and if so, whether after it.
    fn aimed_at(&mut self, name: &str) -> Option<bool> {
        let hit = self.aims.iter().position(|aim| aim.step == name && aim.times == 0);
        self.aims
            .iter_mut()
            .filter(|aim| aim.step == name)
            .for_each(|aim| aim.times = aim.times.saturating_sub(1));
        hit.map(|at| self.aims.remove(at).done)
    }

    fn failure(&mut self, operation: &Operation<'_>) -> Option<Failure> {
        let hit = self.failures.iter().position(|it| it.concerns(operation) && it.after == 0);
        let others = self.failures.iter_mut().filter(|it| it.concerns(operation));
        others.for_each(|it| it.after = it.after.saturating_sub(1));
        hit.map(|at| self.failures.remove(at))
    }
}

impl HostDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self::traced(seed, XxHash3_64::with_seed(0))
    }

    fn traced(seed: u64, trace: XxHash3_64) -> Self {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            slowest_ms: AtomicU64::new(0),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            trace: Mutex::new(trace),
        });
        let slow = Arc::clone(&inner);
        let tasks = Tasks::new(Arc::new(move |_| slow.delay()));
        Self { disk: ImaginedDisk::new(Arc::clone(&inner) as Arc<dyn Faults>, Arc::new(tasks)), inner }
    }

    /// As a process finds it.
    pub(super) fn begin(&self) -> Arc<dyn Disk> {
        self.disk.shared()
    }

    /// The process was killed; the machine was not.
    pub(super) fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.inner.state.lock().failed = None;
    }

    /// The process ended by itself.
    pub(super) fn died(&mut self) {
        self.kill();
    }

    /// The machine lost power: each thing that was not synced meets its fate.
    pub(super) fn lose_power(&mut self, random: &mut StdRng) -> Losses {
        let wreck = self.disk.wreck();
        let names_kept = random.random_range(0..=wreck.unsynced_names());
        let mut losses = Losses::default();
        let style = random.random_range(0..4);
        self.disk = self.disk.found(&wreck, names_kept, &mut |piece| {
            let fate = fate(piece, style, random);
            match fate {
                Fate::Keep => losses.kept += 1,
                Fate::Lose => losses.lost += 1,
                Fate::Torn(_) | Fate::Version(_) => losses.torn += 1,
            }
            fate
        });
        let mut state = self.inner.state.lock();
        (state.cut, state.failed) = (None, None);
        losses
    }

    /// Where a fault cut the power, if it did and nobody has seen to it yet.
    pub(super) fn power_cut_at(&self) -> Option<String> {
        self.inner.state.lock().cut.take()
    }

    /// What failed long ago, though it must last, and the process runs on. `runs`: it is given time.
    pub(super) fn ignored_failure(&self, now_ms: u64, runs: bool) -> Option<String> {
        let mut state = self.inner.state.lock();
        let (_, since) = state.failed.as_mut()?;
        if *since == 0 || !runs {
            *since = now_ms;
        }
        let over = now_ms - *since > LONGEST_DENIAL_MS;
        state.failed.take_if(|_| over).map(|(what, _)| what)
    }

    /// Everything works again from now on.
    pub(super) fn heal(&mut self) {
        self.inner.slowest_ms.store(0, Ordering::Relaxed);
        self.disk.set_capacity(None);
        let mut state = self.inner.state.lock();
        state.full = None;
        state.aims.clear();
        state.failures.clear();
    }

    /// A number that two runs have in common only if the same was done to the disk in the same order.
    pub(super) fn fingerprint(&self) -> u64 {
        self.inner.trace.lock().finish()
    }

    /// An empty disk in the place of this one.
    pub(super) fn wipe(&mut self) {
        let seed = self.inner.random.lock().random();
        let trace = self.inner.trace.lock().clone();
        *self = Self::traced(seed, trace);
    }

    /// Whether it says whose it is. A replica whose first start failed may have left something else.
    pub(super) fn holds_a_replica(&self) -> bool {
        self.disk.files().iter().any(|path| path.ends_with("identity"))
    }

    /// What the storm did that explains why a replica ended with this error.
    pub(super) fn explains_end(&self, why: &str) -> Explanation {
        let state = self.inner.state.lock();
        if why.contains("the state of replica") {
            // Its digest differs from the others' (spec G-9), which no fault of the storm explains.
            return Explanation::None;
        }
        if why.contains("no replica of the cell answers") {
            return Explanation::Alone;
        }
        // Whatever else it stumbles over, it has not recognised the damage (spec G-4).
        if state.damaged && why.contains("damaged") {
            return Explanation::Damage;
        }
        // A full disk must not end a replica that has a log (spec G-8); without room for one it can't begin.
        if state.full.is_some() && why.contains("no storage space") && !self.has_a_log() {
            return Explanation::NoRoom;
        }
        if why.contains(INJECTED) { Explanation::Passing } else { Explanation::None }
    }

    fn has_a_log(&self) -> bool {
        let of_entries = |path: &PathBuf| path.to_string_lossy().contains("/segment-");
        self.disk.files().iter().any(|path| of_entries(path) && !self.disk.contents(path).is_empty())
    }

    /// The names of all steps that storage operations have taken so far.
    pub fn step_names(&self) -> Vec<String> {
        self.inner.state.lock().steps.keys().cloned().collect()
    }

    /// Cuts the power at the so many-th next step of this name, before it or right after.
    pub fn cut_power_at(&self, step: &str, times: u64, done: bool) {
        self.inner.state.lock().aims.push(Aim { step: step.to_owned(), times, done });
    }

    /// One operation fails, besides those that are to fail already.
    pub fn fail(&self, failure: Failure) {
        self.inner.state.lock().failures.push(failure);
    }

    /// Each turn takes up to so many milliseconds more.
    pub fn slow_down(&self, slowest_ms: u64) {
        self.inner.slowest_ms.store(slowest_ms, Ordering::Relaxed);
    }

    /// Ends [`HostDisk::slow_down`], unless another has begun since.
    pub fn speed_up(&self, slowest_ms: u64) {
        let _ = self.inner.slowest_ms.compare_exchange(slowest_ms, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Only so many more bytes fit; a number to end it by.
    pub fn leave_only(&self, bytes: u64) -> u64 {
        self.disk.set_capacity(Some(self.disk.used() + bytes));
        let mut state = self.inner.state.lock();
        state.shortages += 1;
        state.full = Some((state.shortages, self.disk.refused()));
        state.shortages
    }

    /// There is space again, unless another shortage has begun since. Whether a write was refused,
    /// or the log was told that there is no space.
    pub fn give_space(&self, shortage: u64) -> bool {
        let mut state = self.inner.state.lock();
        let Some((_, before)) = state.full.take_if(|(current, _)| *current == shortage) else { return false };
        // A log asks before it makes a segment, and takes no more writes when there is no space for it.
        let told_short = self.disk.least_told(Path::new(LOG_FOLDER)).is_some_and(|free| free < SEGMENT_BYTES);
        self.disk.set_capacity(None);
        told_short || self.disk.refused() > before
    }

    /// Makes one bit of one of the replica's files another one; what was flipped, in words.
    pub fn flip_a_bit(&self, random: &mut StdRng) -> Option<String> {
        let files: Vec<PathBuf> =
            self.disk.files().into_iter().filter(|path| !self.disk.contents(path).is_empty()).collect();
        let of_entries = |path: &&PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("segment-") || name.starts_with("snapshot-")
        };
        let entries: Vec<&PathBuf> = files.iter().filter(of_entries).collect();
        let path = match entries.is_empty() || random.random_ratio(1, 4) {
            true if files.is_empty() => return None,
            true => &files[random.random_range(0..files.len())],
            false => entries[random.random_range(0..entries.len())],
        };
        let contents = self.disk.contents(path);
        // Mostly where something is written; zeros that wait to be written over are no data.
        let written: Vec<usize> = (0..contents.len()).filter(|at| contents[*at] != 0).collect();
        let at = match written.is_empty() {
            true => random.random_range(0..contents.len()),
            false => written[random.random_range(0..written.len())],
        };
        let bit = random.random_range(0..8);
        self.disk.flip(path, at as u64, bit);
        self.inner.state.lock().damaged = true;
        Some(format!("bit {bit} of byte {at} of {} is flipped", path.display()))
    }

    /// Whether a bit was flipped since the disk was new, found or not, or is going to be.
    pub(super) fn is_damaged(&self) -> bool {
        let state = self.inner.state.lock();
        state.damaged || state.failures.iter().any(|it| it.what == Fails::ReadingTruly)
    }
}

/// Whether a replica must end if this fails: it can't know any more what it has promised.
fn must_last(operation: &Operation<'_>) -> bool {
    let is_record = matches!(operation.thing(), "log segment" | "control");
    is_record && matches!(operation.kind, Kind::Write { .. } | Kind::SyncData)
}

impl Inner {
    fn note(&self, operation: &Operation<'_>, name: &str, verdict: &Verdict) {
        let mut trace = self.trace.lock();
        trace.write_u64(operation.serial);
        trace.write(name.as_bytes());
        // The lock file names the real process.
        if let (Kind::Write { bytes, .. }, false) = (operation.kind, operation.thing() == "lock file") {
            trace.write(bytes);
        }
        trace.write_u8(u8::from(matches!(verdict, Verdict::Proceed)));
    }

    fn delay(&self) -> Duration {
        let mut random = self.random.lock();
        let usual = Duration::from_micros(random.random_range(USUAL_US.0..=USUAL_US.1));
        let slowest = self.slowest_ms.load(Ordering::Relaxed);
        if slowest == 0 { usual } else { usual + Duration::from_millis(random.random_range(0..=slowest)) }
    }
}

/// By style: all is lost, all is kept, or each piece meets a fate of its own.
fn fate(piece: &UnsyncedPiece, style: u32, random: &mut StdRng) -> Fate {
    match style {
        0 => Fate::Lose,
        1 => Fate::Keep,
        _ => match random.random_range(0..8) {
            0..3 => Fate::Keep,
            3..6 => Fate::Lose,
            6 => Fate::Torn(random.random_range(0..512)),
            _ => Fate::Version(random.random_range(0..=piece.versions)),
        },
    }
}
