//! The real disk behind a gate: while it is shut, syncs wait.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bramah_cell::disk::{Access, Disk, DiskFile, Lock, RealDisk, Wake, Worker};

/// The disk; clones share the gate.
#[derive(Clone, Default)]
pub(crate) struct GatedDisk {
    pub(crate) gate: Arc<Gate>,
}

#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct GateState {
    pub(crate) shut: bool,
    /// Syncs that may pass although the gate is shut.
    pub(crate) permits: u64,
    /// Syncs that wait, and those that have passed.
    pub(crate) waiting: u64,
    pub(crate) passed: u64,
    /// Syncs fail.
    pub(crate) broken: bool,
    /// Reads wait, too.
    pub(crate) reads_shut: bool,
    pub(crate) reads_waiting: u64,
    /// Nothing more can be laid out.
    pub(crate) full: bool,
}

impl Gate {
    pub(crate) fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    pub(crate) fn wait_until(&self, condition: impl Fn(&GateState) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| !condition(state)));
    }

    pub(crate) fn passed(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).passed
    }

    fn is_full(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).full
    }

    fn pass(&self) -> io::Result<()> {
        self.change(|state| state.waiting += 1);
        self.wait_until(|state| !state.shut || state.permits > 0);
        let mut broken = false;
        self.change(|state| {
            state.permits = state.permits.saturating_sub(1);
            state.waiting -= 1;
            state.passed += 1;
            broken = state.broken;
        });
        if broken { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl DiskFile for GatedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.gate.change(|state| state.reads_waiting += 1);
        self.gate.wait_until(|state| !state.reads_shut);
        self.gate.change(|state| state.reads_waiting -= 1);
        self.file.read_exact_at(buffer, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }
    fn fill_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        match self.gate.is_full() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.file.fill_with_zeros(from, to),
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, access)?;
        Ok(Arc::new(GatedFile { file, gate: Arc::clone(&self.gate) }))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_directory(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        if self.gate.is_full() { Ok(0) } else { RealDisk.free_bytes(path) }
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        RealDisk.lock(path)
    }
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        RealDisk.start(name, worker)
    }
    fn blocks(&self) -> bool {
        true
    }
}
