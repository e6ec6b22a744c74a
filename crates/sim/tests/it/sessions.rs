//! Sessions: neither early nor for ever.

use bramah_sim::check::Report;
use bramah_sim::check::sessions::{Event, Record, Rules, check};

const SECOND: u64 = 1_000_000_000;

/// Events of session 7, at seconds.
fn judge(events: &[(u64, Event)], observed_until: u64) -> Report {
    let record = |(at, event): &(u64, Event)| Record { session: 7, at: at * SECOND, event: *event };
    let records: Vec<Record> = events.iter().map(record).collect();
    let rules = Rules { drift_ppm: 100_000, bound: 20 * SECOND, observed_until: observed_until * SECOND };
    check(&records, rules)
}

fn granted(until: u64) -> Event {
    Event::Granted { until: until * SECOND }
}

#[track_caller]
fn finds(report: Report, says: &str) {
    assert_eq!(report.anomalies.len(), 1, "{report}");
    assert!(report.anomalies[0].contains(says), "{report}");
}

#[test]
fn sessions_that_end_in_time() {
    for events in [
        &[(0, granted(10)), (8, granted(18)), (18, Event::Expired)][..],
        &[(0, granted(10)), (8, granted(18)), (38, Event::Expired)],
        &[(0, granted(10)), (3, Event::Closed)],
        // A tenth of the lease is allowed for clocks that drift.
        &[(0, granted(10)), (9, Event::Expired)],
        // Nobody was promised anything.
        &[(5, Event::Expired)],
    ] {
        let report = judge(events, 1000);
        assert!(report.is_clean() && report.checked == events.len() as u64, "{report}");
    }
    assert!(judge(&[(0, granted(10))], 30).is_clean(), "it may still end");
}

/// Spec S-8: the session outlives every lease that a client was promised, whichever was promised last.
#[test]
fn a_session_that_expires_early() {
    finds(
        judge(&[(0, granted(10)), (8, granted(18)), (12, Event::Expired)], 30),
        "session 7 expired at 12.000000000 s, 6.000000000 s before the end of its lease until 18.000000000 s",
    );
    finds(judge(&[(0, granted(20)), (8, granted(18)), (12, Event::Expired)], 30), "until 20.0");
    finds(judge(&[(0, granted(10)), (12, Event::Expired), (13, granted(23))], 30), "promised at 13.0");
    finds(judge(&[(30, Event::Expired), (0, granted(10)), (5, Event::Expired)], 40), "expired at 5.0");
    finds(judge(&[(0, granted(10)), (8, Event::Expired)], 30), "2.000000000 s before the end");
}

#[test]
fn a_session_that_lives_for_ever() {
    finds(judge(&[(0, granted(10))], 31), "has not ended by 31.000000000 s");
    finds(judge(&[(0, granted(10)), (31, Event::Expired)], 40), "ended at 31.000000000 s only");
    finds(judge(&[(0, granted(10)), (31, Event::Closed)], 40), "ended at 31.000000000 s only");
}
