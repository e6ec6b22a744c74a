//! What the replicas' data lies on: a folder, a small file system in memory, or an image whose power can be cut.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::helpers;
use super::tool::{must, tool};

/// What the rest of a disk is filled up with.
const PAGE_BYTES: usize = 4096;

/// Contents of a file that nobody syncs.
const ONLY_IN_MEMORY: &[u8] = b"only in memory";

/// Which kind of disk the replicas of a cell get.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Kind {
    /// A folder where the machine keeps its temporary files.
    #[default]
    Folder,
    /// A tmpfs of so many MiB: it gets full.
    Memory(u32),
    /// An ext4 image of so many MiB on a loop device: its power can be cut.
    Image(u32),
}

/// One replica's disk. Dropping it unmounts it.
pub(crate) struct Disk {
    path: PathBuf,
    image: Option<PathBuf>,
    mounted: bool,
}

impl Disk {
    /// Makes it at `path`, or says why this machine doesn't let us.
    pub(crate) fn make(kind: Kind, path: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        let mut disk = Self { path, image: None, mounted: false };
        match kind {
            Kind::Folder => {}
            Kind::Memory(mebibytes) => {
                let size = format!("size={mebibytes}m");
                tool("mount", &["-t", "tmpfs", "-o", &size, "bramah-real", &text(&disk.path)])?;
                disk.mounted = true;
            }
            Kind::Image(mebibytes) => {
                let image = disk.path.with_extension("image");
                let file = File::create(&image).and_then(|file| file.set_len(u64::from(mebibytes) << 20));
                file.map_err(|error| format!("{}: {error}", image.display()))?;
                tool("mkfs.ext4", &["-q", "-F", &text(&image)])?;
                disk.image = Some(image);
                disk.mount_image()?;
            }
        }
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn mount_image(&mut self) -> Result<(), String> {
        let image = self.image.as_deref().expect("only an image's power can be cut");
        tool("mount", &["-o", "loop", &text(image), &text(&self.path)])?;
        self.mounted = true;
        Ok(())
    }

    /// Nothing that is not on the disk by now gets there any more. What runs on it gets errors from now on.
    pub(crate) fn cut_power(&self) {
        let helper = helpers::power_cut().expect("it was made when the cell started");
        // That it is lost shows that this was a power cut.
        std::fs::write(self.unsynced(), ONLY_IN_MEMORY).expect("the disk works");
        must(&text(&helper), &[&text(&self.path)]);
        assert!(std::fs::File::create(self.path.join("too-late")).is_err(), "it still works");
    }

    /// The power comes back. Nobody may use the disk now.
    pub(crate) fn restore_power(&mut self) {
        must("umount", &[&text(&self.path)]);
        self.mounted = false;
        self.mount_image().unwrap_or_else(|why| panic!("{why}"));
        // Its name may have been put on the disk along with a replica's files, but nothing asked for its contents.
        let survived = std::fs::read(self.unsynced()).is_ok_and(|contents| contents == ONLY_IN_MEMORY);
        assert!(!survived, "what was not synced has survived: the power was not cut");
    }

    fn unsynced(&self) -> PathBuf {
        self.path.join("unsynced")
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) {
        let ballast = OpenOptions::new().create(true).append(true).open(self.ballast());
        let mut ballast: File = ballast.expect("a file on a disk that is not full yet");
        for piece in [1 << 20, PAGE_BYTES] {
            let full = loop {
                if let Err(error) = ballast.write_all(&vec![1; piece]) {
                    break error;
                }
            };
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives the space back.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("the file that fills the disk");
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        let gone = tool("umount", &["--lazy", &text(&self.path)]);
        // A second panic would leave the other disks mounted.
        assert!(gone.is_ok() || std::thread::panicking(), "{gone:?}");
    }
}

/// A path as an argument: ours are plain.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
