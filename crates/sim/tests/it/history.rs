//! The record: nothing of the order is lost, and what is written is read again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bramah_sim::history::{Answer, Call, Contents, Counts, History, Outcome, Recorder, Refusal};

fn value(value: i64) -> Outcome {
    Outcome::Answered(Answer::Value { value })
}

#[test]
fn a_clock_that_stands_still_loses_no_order() {
    let recorder = Recorder::new(|| 40);
    for n in 1..=3 {
        let begun = recorder.begin(0, "/n", Call::Add { delta: 1 });
        recorder.end(begun, value(n));
    }
    let times: Vec<u64> = recorder
        .history()
        .operations
        .iter()
        .flat_map(|operation| [operation.invoked, operation.returned.unwrap()])
        .collect();
    assert_eq!(times, [40, 41, 42, 43, 44, 45]);
}

#[test]
fn threads_write_into_one_history() {
    let recorder = Recorder::monotonic();
    let next = AtomicU64::new(1);
    thread::scope(|scope| {
        for client in 0..8 {
            let (recorder, next) = (recorder.clone(), &next);
            scope.spawn(move || {
                for _ in 0..500 {
                    let begun = recorder.begin(client, "/n", Call::Add { delta: 1 });
                    let counted = next.fetch_add(1, Ordering::SeqCst);
                    recorder.end(begun, value(counted.try_into().unwrap()));
                }
            });
        }
    });
    let history = recorder.history();
    assert_eq!(history.counts(), Counts { answered: 4000, ..Default::default() });
    assert!(history.operations.is_sorted_by_key(|operation| operation.invoked));
    assert!(history.operations.iter().all(|operation| operation.returned > Some(operation.invoked)));
}

#[test]
fn a_call_without_an_end_is_unknown() {
    let recorder = Recorder::monotonic();
    drop(recorder.begin(1, "/f", Call::Get));
    let history = recorder.history();
    assert_eq!(history.counts().unknown, 1);
    assert_eq!(history.operations[0].returned, None);
}

#[test]
fn what_is_written_is_read_again() {
    let recorder = Recorder::monotonic();
    let outcomes = [
        Outcome::Answered(Answer::Written { generation: 1, revision: 9, created: true }),
        Outcome::Answered(Answer::Contents { contents: "x".into(), generation: 1, revision: 9 }),
        Outcome::Answered(Answer::Deleted { revision: 10 }),
        Outcome::Answered(Answer::Refused(Refusal::GenerationDiffers { current: Some(0) })),
        Outcome::NotDone { why: "no leader".to_owned() },
        Outcome::Unknown { why: "a line\nof two".to_owned() },
        value(i64::MIN),
    ];
    for outcome in outcomes {
        let begun = recorder.begin(3, "/f", Call::create("x"));
        recorder.end(begun, outcome);
    }
    drop(recorder.begin(3, "/f", Call::Delete { if_generation: Some(2) }));
    let history = recorder.history();
    let mut lines = Vec::new();
    history.write(&mut lines).unwrap();
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 8, "one line an operation");
    assert_eq!(History::read(lines.as_slice()).unwrap(), history);
}

#[test]
fn a_line_that_is_no_operation_is_named() {
    let recorder = Recorder::monotonic();
    drop(recorder.begin(1, "/f", Call::Get));
    let mut lines = Vec::new();
    recorder.history().write(&mut lines).unwrap();
    lines.extend_from_slice(b"\n{\"client\":1}\n");
    let error = History::read(lines.as_slice()).unwrap_err().to_string();
    assert!(error.starts_with("line 3 of the history is no operation: missing field"), "{error}");
    let endless = vec![b'['; 3 << 20];
    assert!(History::read(endless.as_slice()).is_err());
}

#[test]
fn contents_stay_short_and_different() {
    assert_eq!(Contents::of(b"a-7").to_string(), "\"a-7\"");
    let (long, other) = (vec![b'a'; 300], vec![b'a'; 301]);
    assert!(Contents::of(&long).to_string().starts_with("\"300B:"));
    assert_ne!(Contents::of(&long), Contents::of(&other));
    assert_ne!(Contents::of(b"\xff"), Contents::of(b"\xfe"));
}
