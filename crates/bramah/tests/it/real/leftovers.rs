//! What a killed run leaves behind carries its process id in the name; the next run removes it.

use std::path::Path;
use std::sync::Once;

use super::tool::tool;

/// Begins the names of folders and network namespaces: `bramah-real-PID-…`.
pub(crate) const PREFIX: &str = "bramah-real-";
/// Begins the names of network links, which have room for 15 characters: `bmrPID…`.
pub(crate) const LINK_PREFIX: &str = "bmr";

/// Removes, once in this process, everything whose process is gone.
pub(crate) fn remove() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        remove_namespaces();
        remove_links();
        remove_mounts();
        remove_folders();
    });
}

fn remove_namespaces() {
    let list = tool("ip", &["netns", "list"]).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| is_orphan(name, PREFIX)) {
        report(tool("ip", &["netns", "delete", name]));
    }
}

fn remove_links() {
    // The other ends went with the namespaces, unless the run was killed before it had moved them.
    let list = tool("ip", &["-oneline", "link", "show"]).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    for name in names.filter(|name| is_orphan(name, LINK_PREFIX)) {
        report(tool("ip", &["link", "delete", name]));
    }
}

fn remove_mounts() {
    let list = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = list.lines().filter_map(|line| line.split(' ').nth(1));
    let orphan =
        |point: &&str| Path::new(point).iter().any(|part| is_orphan(&part.to_string_lossy(), PREFIX));
    for point in points.filter(orphan) {
        report(tool("umount", &["--lazy", point]));
    }
}

fn remove_folders() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    let orphan = |entry: &std::fs::DirEntry| is_orphan(&entry.file_name().to_string_lossy(), PREFIX);
    for entry in entries.flatten().filter(orphan) {
        report(std::fs::remove_dir_all(entry.path()).map_err(|error| error.to_string()));
    }
}

/// Another run may remove the same at the same time, or own it if it is not this user's.
fn report<T>(removed: Result<T, String>) {
    if let Err(why) = removed {
        super::tool::say(&format!("a leftover of an earlier run stays: {why}"));
    }
}

/// Whether the name is of ours and the process that it names is no test any more.
fn is_orphan(name: &str, prefix: &str) -> bool {
    let Some(rest) = name.strip_prefix(prefix) else { return false };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse::<u32>().is_ok_and(|pid| !is_test(pid))
}

/// A process id may have been given again meanwhile, but hardly to a test like this one.
fn is_test(pid: u32) -> bool {
    let executable = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = |path: std::path::PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    let stem = |name: String| name.split('-').next().map(str::to_owned);
    let this = executable("self").and_then(name).and_then(stem);
    this.is_some() && executable(&pid.to_string()).and_then(name).and_then(stem) == this
}

/// A run that was killed leaves its folder and its namespace; they go, and those of living runs stay.
#[test]
fn leftovers_of_the_dead_are_recognised() {
    let own = std::process::id();
    assert!(!is_orphan(&format!("{PREFIX}{own}-1"), PREFIX), "this run lives");
    // Above the largest process id that Linux gives.
    for dead in ["4194305-1-2", "4194305", "4194305v3"] {
        assert!(is_orphan(&format!("{PREFIX}{dead}"), PREFIX));
    }
    for foreign in ["bramah-real-", "bramah-demo-77", "other-4194305", "bramah-real-x7"] {
        assert!(!is_orphan(foreign, PREFIX), "{foreign}");
    }
    let folder = std::env::temp_dir().join(format!("{PREFIX}4194305-test"));
    std::fs::create_dir_all(folder.join("data")).expect("a temporary folder");
    remove_folders();
    assert!(!folder.exists());
}
