//! An imagined disk that forgets what was not synced, and stops at any step.
//!
//! Workers take their turns inside the call that wakes them, so a test runs in one thread and the same steps
//! always happen in the same order.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bramah_cell::disk::{Access, Disk, DiskFile, Lock, Turn, Wake, Worker};

/// What a crash keeps or loses as a whole.
const SECTOR: usize = 512;

/// Decides what survives a power cut.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit` (xorshift64*).
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit.max(1)
    }
}

#[derive(Clone, Default)]
struct File {
    now: Vec<u8>,
    /// As of the last sync.
    durable: Vec<u8>,
    /// Written since, a sector at a time.
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    /// Steps that still succeed; then the power is cut.
    steps_left: Option<u64>,
    steps: u64,
    capacity: Option<u64>,
}

impl State {
    /// Counts a step that changes the disk; true if it still succeeds.
    fn step(&mut self) -> bool {
        self.steps += 1;
        match &mut self.steps_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    fn check(&mut self) -> io::Result<()> {
        if self.step() { Ok(()) } else { Err(power_cut()) }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].now.len() as u64).sum()
    }

    fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
        match change {
            NameChange::Set(path, file) => {
                names.retain(|_, other| other != file);
                names.insert(path.clone(), *file);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        Self::apply(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn write(&mut self, file: usize, bytes: &[u8], offset: usize) -> io::Result<()> {
        let longer = (offset + bytes.len()).saturating_sub(self.files[file].now.len()) as u64;
        if longer > 0 && self.capacity.is_some_and(|capacity| self.used() + longer > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let succeeds = self.step();
        let file = &mut self.files[file];
        let mut at = offset;
        for sector in split_at_sectors(offset, bytes) {
            put(&mut file.now, at, sector);
            file.unsynced.push((at, sector.to_vec()));
            at += sector.len();
        }
        if succeeds { Ok(()) } else { Err(power_cut()) }
    }
}

fn power_cut() -> io::Error {
    io::Error::other("the power was cut")
}

fn put(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(bytes);
}

fn split_at_sectors(offset: usize, bytes: &[u8]) -> Vec<&[u8]> {
    let first = (SECTOR - offset % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    std::iter::once(head).chain(rest.chunks(SECTOR)).collect()
}

/// The disk; clones share it.
#[derive(Clone, Default)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
    workers: Arc<Mutex<Vec<Arc<InlineWorker>>>>,
    paused: Arc<AtomicBool>,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the trait that the log wants.
    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// After `steps` more changes to the disk the power is cut: nothing succeeds any more.
    pub(crate) fn cut_power_after(&self, steps: u64) {
        self.state().steps_left = Some(steps);
    }

    pub(crate) fn power_is_cut(&self) -> bool {
        self.state().steps_left == Some(0)
    }

    /// Changes made so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    pub(crate) fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets work pile up until [`SimDisk::resume`].
    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        self.tick();
    }

    /// Gives every worker a turn, as if its time had come.
    pub(crate) fn tick(&self) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for worker in workers {
            worker.rested.store(true, Ordering::Relaxed);
            worker.wake();
        }
    }

    /// A second disk with the same contents, the unsynced ones too: what a killed process leaves.
    pub(crate) fn copy(&self) -> Self {
        let mut state = self.state().clone();
        (state.steps_left, state.capacity) = (None, None);
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }

    /// What is there after a power cut: all that was synced, and some of the rest.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        let before = self.state().clone();
        let mut state = State::default();
        for file in &before.files {
            let mut contents = file.durable.clone();
            let survives = random.below(4);
            for (offset, bytes) in &file.unsynced {
                // All, none, or every other sector.
                if survives == 3 || (survives > 0 && random.below(2) == 0) {
                    put(&mut contents, *offset, bytes);
                }
            }
            state.files.push(File { now: contents.clone(), durable: contents, unsynced: Vec::new() });
        }
        // File systems keep the order of changes to names.
        let kept = random.below(before.unsynced_names.len() as u64 + 1) as usize;
        state.names = before.durable_names.clone();
        before.unsynced_names[..kept].iter().for_each(|change| State::apply(&mut state.names, change));
        state.durable_names = state.names.clone();
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }

    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[path]].now.clone()
    }

    pub(crate) fn set_contents(&self, path: &Path, contents: Vec<u8>) {
        let mut state = self.state();
        let file = state.names[path];
        state.files[file] = File { now: contents.clone(), durable: contents, unsynced: Vec::new() };
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.state().names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        if access == Access::Create {
            let mut state = self.state();
            state.check()?;
            state.files.push(File::default());
            let file = state.files.len() - 1;
            state.change_name(NameChange::Set(path.to_owned(), file));
        }
        Ok(Arc::new(SimFile { disk: self.clone(), file: self.find(path)? }))
    }

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter_map(|name| name.strip_prefix(path).ok());
        let mut names: Vec<String> = inside
            .filter_map(|name| Some(name.components().next()?.as_os_str().to_str()?.to_owned()))
            .collect();
        names.dedup();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.find(from)?;
        let mut state = self.state();
        let succeeds = state.step();
        state.change_name(NameChange::Set(to.to_owned(), file));
        if succeeds { Ok(()) } else { Err(power_cut()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        let mut state = self.state();
        state.check()?;
        state.change_name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(NoLock))
    }

    fn start(&self, _name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        let worker = Arc::new(InlineWorker {
            worker: Mutex::new(Some(worker)),
            again: AtomicBool::new(false),
            rested: AtomicBool::new(false),
            paused: Arc::clone(&self.paused),
        });
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&worker));
        Ok(worker)
    }

    fn blocks(&self) -> bool {
        false
    }
}

struct NoLock;

impl Lock for NoLock {
    fn note(&self, _text: &str) -> io::Result<()> {
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.state().write(self.file, bytes, offset as usize)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let contents = &state.files[self.file].now;
        let range = offset as usize..offset as usize + buffer.len();
        buffer.copy_from_slice(contents.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].now.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check()?;
        let file = &mut state.files[self.file];
        file.now.resize(length as usize, 0);
        // Only shortening is imagined to last at once, which is the worse case for what comes later.
        file.durable.truncate(length as usize);
        file.unsynced.retain(|(offset, bytes)| offset + bytes.len() <= length as usize);
        Ok(())
    }

    fn fill_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        self.disk.state().write(self.file, &vec![0; (to - from) as usize], from as usize)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check()?;
        let file = &mut state.files[self.file];
        file.durable.clone_from(&file.now);
        file.unsynced.clear();
        Ok(())
    }
}

/// Takes its turns on the thread of whoever wakes it.
struct InlineWorker {
    worker: Mutex<Option<Box<dyn Worker>>>,
    again: AtomicBool,
    /// The next turn comes because time has passed.
    rested: AtomicBool,
    paused: Arc<AtomicBool>,
}

impl Wake for InlineWorker {
    fn wake(&self) {
        self.again.store(true, Ordering::Relaxed);
        if self.paused.load(Ordering::Relaxed) {
            return;
        }
        // Someone else, or this very worker further up the stack, will see the flag.
        while let Ok(mut worker) = self.worker.try_lock() {
            if !self.again.swap(false, Ordering::Relaxed) {
                return;
            }
            let rested = self.rested.swap(false, Ordering::Relaxed);
            let turn = worker.as_mut().map_or(Turn::Done, |worker| worker.turn(rested));
            match turn {
                Turn::Again => self.again.store(true, Ordering::Relaxed),
                Turn::Done => *worker = None,
                Turn::Wait | Turn::WaitAtMost(_) => {}
            }
        }
    }
}
