//! The disk of this machine.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Instant;

use super::{Access, Disk, DiskFile, Lock, Turn, Wake, Worker};

/// How much is written at once when a file is filled with zeros.
const ZEROS: &[u8] = &[0; 256 << 10];

/// The disk of this machine; each worker gets a thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        options.create(access == Access::Create).truncate(access == Access::Create);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let statistics = rustix::fs::statvfs(path)?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || take_turns(worker))?;
        Ok(Arc::new(RealWake(handle.thread().clone())))
    }

    fn blocks(&self) -> bool {
        true
    }
}

fn take_turns(mut worker: Box<dyn Worker>) {
    let mut rested = false;
    loop {
        match worker.turn(std::mem::take(&mut rested)) {
            Turn::Again => {}
            Turn::Wait => thread::park(),
            Turn::WaitAtMost(time) => {
                let begin = Instant::now();
                thread::park_timeout(time);
                rested = begin.elapsed() >= time;
            }
            Turn::Done => return,
        }
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn fill_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        // Blocks are asked for in one go, so that they lie together, but as *unwritten* ones: only the
        // zeros make them ordinary. File systems without fallocate do with the zeros alone.
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), from, to - from) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let mut offset = from;
        while offset < to {
            let length = (to - offset).min(ZEROS.len() as u64);
            self.0.write_all_at(&ZEROS[..length as usize], offset)?;
            offset += length;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

struct RealLock(File);

impl Lock for RealLock {
    fn note(&self, text: &str) -> io::Result<()> {
        // Over the old note: a full disk, which has no block for a new one, must not keep a replica from starting.
        self.0.write_all_at(text.as_bytes(), 0)?;
        self.0.set_len(text.len() as u64)
    }
}

struct RealWake(Thread);

impl Wake for RealWake {
    fn wake(&self) {
        self.0.unpark();
    }
}
