//! CPU time of this process and of servers on this machine.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process so far.
pub(crate) fn own() -> Duration {
    since_zero(ClockId::ProcessCPUTime)
}

/// The monotonic clock of the machine, in microseconds: the same for all its processes.
pub(crate) fn monotonic_us() -> u64 {
    since_zero(ClockId::Monotonic).as_micros() as u64
}

fn since_zero(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// CPU time so far of all these processes together.
pub(crate) fn of_processes(pids: &[u32]) -> Result<Duration, String> {
    pids.iter().map(|pid| of_process(*pid)).sum()
}

fn of_process(pid: u32) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    ticks(&stat)
        .map(|ticks| Duration::from_millis(ticks * 10))
        .ok_or_else(|| format!("{path} has an unknown form"))
}

/// User and system time in ticks, of which Linux shows 100 a second to all programs (proc(5), USER_HZ).
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets, and may contain anything.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_confuse_the_fields() {
        let stat = "7 (a) 1 2 (b) S 1 7 7 0 -1 4194560 9 9 9 9 120 34 5 6 20 0 1 0 99";
        assert_eq!(ticks(stat), Some(154));
    }

    #[test]
    fn this_process_uses_time_and_a_missing_one_is_an_error() {
        let before = own();
        let mut sum = 0_u64;
        while own() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(of_processes(&[std::process::id()]).is_ok());
        assert!(of_processes(&[u32::MAX]).expect_err("no such process").contains("/proc/4294967295/stat"));
    }
}
