//! What the process costs, as Linux accounts for it.

use std::time::Duration;

/// Kernel ticks a second in `/proc`, fixed by Linux's interface to programs (`USER_HZ`).
const TICKS_A_SECOND: u64 = 100;

/// Bytes a page; what every machine that this runs on has.
const PAGE_BYTES: u64 = 4_096;

/// CPU time of this process so far, of all its threads; zero where there is no `/proc`.
pub(crate) fn cpu_time() -> Duration {
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        // The name, in parentheses, may hold spaces: count the fields after it (proc(5): 14 and 15).
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    });
    Duration::from_millis(ticks.unwrap_or(0) * 1_000 / TICKS_A_SECOND)
}

/// Memory that the process holds; zero where there is no `/proc`.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_has_used_memory() {
        assert!(super::resident_bytes() > 100_000, "a Rust process takes more than this");
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = super::cpu_time();
        let mut sum = 0_u64;
        while super::cpu_time() <= before {
            sum = (0..1_000_000_u64).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i));
        }
        assert!(super::cpu_time() > before, "{sum}");
    }
}
