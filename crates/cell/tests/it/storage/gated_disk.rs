//! The real disk behind a gate: while it is shut, syncs wait.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bramah_cell::disk::{Access, Disk, DiskFile, Lock, RealDisk, Wake, Worker};

/// The disk; clones share the gate.
#[derive(Clone, Default)]
pub(super) struct GatedDisk {
    pub(super) gate: Arc<Gate>,
}

#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct GateState {
    pub(super) shut: bool,
    /// Syncs that may pass although the gate is shut.
    pub(super) permits: u64,
    /// Syncs that wait, and those that have passed.
    pub(super) waiting: u64,
    pub(super) passed: u64,
    /// Syncs fail.
    pub(super) broken: bool,
    /// Reads wait, too.
    pub(super) reads_shut: bool,
    pub(super) reads_waiting: u64,
}

impl Gate {
    pub(super) fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    pub(super) fn wait_until(&self, condition: impl Fn(&GateState) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| !condition(state)));
    }

    pub(super) fn passed(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).passed
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
        self.file.fill_with_zeros(from, to)
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
        RealDisk.free_bytes(path)
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
