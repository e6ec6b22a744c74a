//! A simulated machine's disk: the imagined one, and the faults that strike it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramah_cell::disk::Disk;
use bramah_cell::disk::imagined::{Fate, Faults, ImaginedDisk, Operation, Tasks, UnsyncedPiece, Verdict};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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
    /// The disk failed or was full, and may be well again.
    Passing,
    /// It was to be repaired, and nobody was there to ask: its operator tries again.
    Alone,
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
}

#[derive(Default)]
struct State {
    /// How often each step was taken.
    steps: BTreeMap<String, u64>,
    aim: Option<Aim>,
    cut: Option<String>,
    fails_after: Option<u64>,
    failed: bool,
    damaged: bool,
    full: bool,
    refused: u64,
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
        *state.steps.entry(name).or_default() += 1;
        verdict
    }
}

impl State {
    fn verdict(&mut self, operation: &Operation<'_>, name: &str) -> Verdict {
        if let Some(aim) = self.aim.as_mut().filter(|aim| aim.step == name) {
            if aim.times == 0 {
                let when = if aim.done { "after" } else { "before" };
                let done = aim.done;
                self.cut = Some(format!("{when} \"{name}\""));
                self.aim = None;
                return Verdict::CutPower { done };
            }
            aim.times -= 1;
        }
        if let Some(left) = self.fails_after.as_mut().filter(|_| operation.changes()) {
            if *left == 0 {
                (self.fails_after, self.failed) = (None, true);
                return Verdict::Fail(io::Error::other("the disk failed (a fault of the storm)"));
            }
            *left -= 1;
        }
        Verdict::Proceed
    }
}

impl HostDisk {
    pub(super) fn new(seed: u64) -> Self {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            slowest_ms: AtomicU64::new(0),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
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
        self.inner.state.lock().cut = None;
        losses
    }

    /// Where a fault cut the power, if it did and nobody has seen to it yet.
    pub(super) fn power_cut_at(&self) -> Option<String> {
        self.inner.state.lock().cut.take()
    }

    /// Everything works again from now on.
    pub(super) fn heal(&mut self) {
        self.slow_down(0);
        self.give_space();
        let mut state = self.inner.state.lock();
        (state.aim, state.fails_after) = (None, None);
    }

    /// An empty disk in the place of this one.
    pub(super) fn wipe(&mut self) {
        let seed = self.inner.random.lock().random();
        *self = Self::new(seed);
    }

    /// Whether there is nothing on it.
    pub(super) fn is_empty(&self) -> bool {
        self.disk.files().is_empty()
    }

    /// What the storm did that explains why a replica ended with this error.
    pub(super) fn explains_end(&self, why: &str) -> Explanation {
        let mut state = self.inner.state.lock();
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
        if std::mem::take(&mut state.failed) || state.full || state.refused > 0 {
            state.refused = 0;
            return Explanation::Passing;
        }
        Explanation::None
    }

    /// The names of all steps that storage operations have taken so far.
    pub fn step_names(&self) -> Vec<String> {
        self.inner.state.lock().steps.keys().cloned().collect()
    }

    /// Cuts the power at the so many-th next step of this name, before it or right after.
    pub fn cut_power_at(&self, step: &str, times: u64, done: bool) {
        self.inner.state.lock().aim = Some(Aim { step: step.to_owned(), times, done });
    }

    /// One operation that changes the disk fails, after so many that don't.
    pub fn fail_after(&self, operations: u64) {
        self.inner.state.lock().fails_after = Some(operations);
    }

    /// Each turn takes up to so many milliseconds more.
    pub fn slow_down(&self, slowest_ms: u64) {
        self.inner.slowest_ms.store(slowest_ms, Ordering::Relaxed);
    }

    /// Only so many more bytes fit.
    pub fn leave_only(&self, bytes: u64) {
        self.disk.set_capacity(Some(self.disk.used() + bytes));
        self.inner.state.lock().full = true;
    }

    /// There is space again; whether any was missed can be seen by how much is left.
    pub fn give_space(&self) -> bool {
        let mut state = self.inner.state.lock();
        let was = std::mem::take(&mut state.full);
        let left = self.disk.free_bytes(&PathBuf::from("/")).unwrap_or(0);
        self.disk.set_capacity(None);
        let hit = was && left < 32 << 10;
        state.refused += u64::from(hit);
        hit
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

    /// Whether a bit was flipped since the disk was new, found or not.
    pub(super) fn is_damaged(&self) -> bool {
        self.inner.state.lock().damaged
    }
}

impl Inner {
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
