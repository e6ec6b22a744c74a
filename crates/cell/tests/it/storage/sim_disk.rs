//! The cell's imagined disk as these tests use it: in one thread, with turns on the waker's stack.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use bramah_cell::disk::imagined::{CutBefore, ImaginedDisk, Inline};

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

/// The disk; clones share it.
#[derive(Clone)]
pub(crate) struct SimDisk {
    disk: ImaginedDisk,
    turns: Arc<Inline>,
    cut: Arc<CutBefore>,
}

impl Default for SimDisk {
    fn default() -> Self {
        let (turns, cut) = (Arc::new(Inline::default()), Arc::new(CutBefore::default()));
        Self { disk: ImaginedDisk::new(cut.clone(), turns.clone()), turns, cut }
    }
}

impl Deref for SimDisk {
    type Target = ImaginedDisk;

    fn deref(&self) -> &ImaginedDisk {
        &self.disk
    }
}

impl SimDisk {
    /// After `changes` more changes to the disk the power is cut: nothing succeeds any more.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.cut.set(changes);
    }

    /// Gives every worker a turn, as if its time had come.
    pub(crate) fn tick(&self) {
        self.turns.tick();
    }

    /// A second disk with the same contents, the unsynced ones too: what a killed process leaves.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.disk.copy())
    }

    /// What is there after a power cut: all that was synced, and some of the rest.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        Self::of(self.disk.crash(&mut |limit| random.below(limit)))
    }

    /// Another disk, with power and workers of its own.
    fn of(disk: ImaginedDisk) -> Self {
        let (turns, cut) = (Arc::new(Inline::default()), Arc::new(CutBefore::default()));
        disk.set_capacity(None);
        Self { disk: disk.with_faults(cut.clone()).with_scheduler(turns.clone()), turns, cut }
    }

    pub(crate) fn set_contents(&self, path: &Path, contents: Vec<u8>) {
        assert!(self.disk.set_contents(path, &contents), "{} is not there", path.display());
    }
}
