//! Panics of simulated tasks: the runtime swallows them, the task is gone and everything else goes on. A storm with one is
//! no clean storm.

use std::panic;

use parking_lot::Mutex;

/// Panics beyond so many are counted, not described.
const MOST_DESCRIBED: usize = 8;

static SEEN: Mutex<Seen> = Mutex::new(Seen { told: Vec::new(), more: 0 });

struct Seen {
    told: Vec<String>,
    more: u64,
}

/// From now on every panic of this process is noted, whoever catches it, and still told on standard error.
pub(super) fn watch() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let mut seen = SEEN.lock();
        if seen.told.len() < MOST_DESCRIBED {
            seen.told.push(info.to_string());
        } else {
            seen.more += 1;
        }
        drop(seen);
        usual(info);
    }));
}

/// The panics since the last time this was asked: "panicked at …", each with its place.
pub(super) fn take() -> Vec<String> {
    let mut seen = SEEN.lock();
    let mut told = std::mem::take(&mut seen.told);
    let more = std::mem::take(&mut seen.more);
    if more > 0 {
        told.push(format!("panicked {more} times more"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task whose handle nobody asks: without the hook its panic leaves no trace in the report.
    #[test]
    fn a_panic_in_a_task_that_nobody_waits_for_is_noted() {
        watch();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            drop(tokio::spawn(async { panic!("no such entry") }));
            tokio::task::yield_now().await;
        });
        let told = take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("panicked at ") && told[0].contains("no such entry"), "{told:?}");
        assert!(take().is_empty());
    }
}
