//! Where things are: the root, cargo, the target folder.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> Result<PathBuf> {
    // Cargo sets this for whatever it runs; it is not compiled in, so a moved checkout still works.
    let package = env::var_os("CARGO_MANIFEST_DIR").context("start me as `cargo xtask`")?;
    let root = Path::new(&package).parent().context("xtask has no folder above it")?;
    Ok(root.to_path_buf())
}

/// A cargo command that runs at the root.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(arguments);
    // What cargo told us of ourselves is nothing that others should see: build scripts that look at it would run again.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| OF_OURSELVES.iter().any(|ours| name.starts_with(ours))) {
            command.env_remove(name);
        }
    }
    command
}

/// How the variables begin that cargo sets for the program that it runs.
const OF_OURSELVES: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// What `cargo metadata` says, for the platforms named (all when none is).
pub(crate) fn metadata(root: &Path, platforms: &[String], dependencies: bool) -> Result<Value> {
    let mut command = cargo(root, &["metadata", "--format-version", "1"]);
    if dependencies {
        // What is checked must be what is built: a lock file that is behind is an error, not a reason to change it.
        command.args(["--locked", "--all-features"]);
    } else {
        command.arg("--no-deps");
    }
    for platform in platforms {
        command.args(["--filter-platform", platform]);
    }
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata printed")
}

/// The folder that cargo builds into, which also holds everything that xtask installs or writes.
pub(crate) fn target(root: &Path) -> Result<PathBuf> {
    let metadata = metadata(root, &[], false)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target))
}
