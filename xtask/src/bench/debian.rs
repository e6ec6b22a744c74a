//! Programs of Debian's packages that are measured beside, or with.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Installs the packages whose files are missing.
pub(super) fn install(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", missing.join(", "));
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&missing);
    let status = command.env("DEBIAN_FRONTEND", "noninteractive").status();
    if !status.context("cannot start apt-get")?.success() {
        bail!("apt-get could not install {} (see above): install them by hand", missing.join(", "));
    }
    Ok(())
}
