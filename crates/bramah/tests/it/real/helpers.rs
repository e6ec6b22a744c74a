//! Two small programs in C for what Rust without `unsafe` can't do: an ioctl, and functions that a replica calls instead
//! of the C library's. Whoever builds this has a C compiler, because it links.

use std::path::{Path, PathBuf};

use super::tool::tool;

/// A library that a replica is started with: `BRAMAH_FAULTS_CLOCK` and `BRAMAH_FAULTS_DISK` name the files that it obeys.
pub(crate) fn faults() -> Result<PathBuf, String> {
    compile("faults", include_str!("helpers/faults.c"), &["-shared", "-fPIC"])
}

/// A program that shuts a file system down.
pub(crate) fn power_cut() -> Result<PathBuf, String> {
    compile("power_cut", include_str!("helpers/power_cut.c"), &[])
}

fn compile(name: &str, source: &str, options: &[&str]) -> Result<PathBuf, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (from, made) = (folder.path().join("source.c"), folder.path().join(name));
    std::fs::write(&from, source).map_err(|error| error.to_string())?;
    let (from, made) = (from.to_string_lossy(), made.to_string_lossy());
    tool("cc", &[options, &["-O1", "-Wall", "-Werror", "-o", &made, &from]].concat())?;
    // Beside it first, because another test may use it or be making it now.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let beside = place.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    let moved = std::fs::copy(made.as_ref(), &beside).and_then(|_| std::fs::rename(&beside, &place));
    moved.map(|()| place).map_err(|error| error.to_string())
}
