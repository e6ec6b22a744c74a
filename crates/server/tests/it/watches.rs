//! What a session watches, told on its own stream.

use std::time::Duration;

use bramah_wire::limits::MAX_WATCHES_PER_SESSION;
use bramah_wire::v1;
use bramah_wire::v1::event::Kind;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::raw::{
    LIMIT, acquire, alone, call, counter, delete, get_counter, increment, nonce, open_file, place, set,
    three, watch,
};

/// Spec E-1, S-3: events come on the session's own stream, each once, with all its watches, in the order of their
/// revisions; only the kinds that were asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_with_the_numbers_of_their_watches() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    alone.single("", set("/f", 1)).await;
    let exact = v1::Watch { subtree: false, ..watch(2, "/f", 0) };
    let locks = v1::Watch { kinds: vec![Kind::LockAcquired.into()], ..watch(3, "/f", 0) };
    stream.watch(vec![watch(1, "/", 0), exact, locks]);
    stream.until(|told| told.watches.len() == 3).await;
    assert!(
        stream.told.watches.iter().all(|state| state.failure.is_none() && !state.gap && state.revision == 1)
    );
    alone.single("", set("/f", 2)).await;
    alone.single("", increment("/n", 5)).await;
    let handle = stream.open(1, "/f").await;
    stream.done(2, acquire(handle, false)).await;
    alone.single("", delete("/n")).await;
    stream.until(|told| told.events.len() == 4 && told.revision == 5).await;
    let told: Vec<_> = (stream.told.events.iter())
        .map(|event| (event.revision, event.kind(), event.path.as_str(), &event.watches[..]))
        .collect();
    let expected: [(u64, Kind, &str, &[u64]); 4] = [
        (2, Kind::ContentsModified, "/f", &[1, 2]),
        (3, Kind::Created, "/n", &[1]),
        (4, Kind::LockAcquired, "/f", &[3]),
        (5, Kind::Deleted, "/n", &[1]),
    ];
    assert_eq!(told, expected);
    assert_eq!((stream.told.events[0].generation, stream.told.events[2].handle), (2, handle));

    stream
        .requests
        .send(v1::SessionRequest { unwatches: vec![1, 77], ..Default::default() })
        .expect("it goes on");
    alone.single("", set("/f", 3)).await;
    stream.until(|told| told.events.len() == 5).await;
    assert_eq!(stream.told.events[4].watches, [2], "the other was ended");
}

/// Spec E-2: whoever has been told reads that change or a later one, at the replica that told it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_after_an_event_sees_its_change() {
    let replicas = three().await;
    let (mut writer, _) = replicas[0].new_session().await;
    let mut readers = Vec::new();
    for replica in &replicas {
        let (mut reader, _) = replica.new_session().await;
        reader.watch(vec![watch(1, "/n", 0)]);
        reader.until(|told| told.watches.len() == 1).await;
        readers.push(reader);
    }
    for number in 1..=50 {
        writer.send(vec![call(number, increment("/n", 1))], number - 1);
        for reader in &mut readers {
            let seen = number as usize;
            reader.until(|told| told.events.len() >= seen).await;
            let event = reader.told.events.last().expect("it was told").clone();
            let value = if event.kind() == Kind::Created { 1 } else { event.value };
            let read = reader.done(number, get_counter("/n")).await;
            assert!(counter(&read) >= value, "{event:?}, and then {read:?}");
        }
        writer.answers(1).await;
    }
}

/// Spec E-3: a watch goes on at another replica where it stopped, and misses nothing and tells nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_another_replica() {
    let replicas = three().await;
    let (mut writer, _) = replicas[0].new_session().await;
    writer.done(1, set("/f", 1)).await;
    let (mut reader, _) = replicas[1].new_session().await;
    reader.watch(vec![watch(1, "/", 0)]);
    reader.until(|told| told.watches.len() == 1).await;
    let mut told = Vec::new();
    for round in 0_u64..6 {
        for i in 0..20 {
            writer.done(2 + round * 20 + i, set("/f", 1)).await;
        }
        let upto = round as usize * 20 + 7;
        reader.until(|news| told.len() + news.events.len() >= upto).await;
        told.append(&mut reader.told.events);
        let after = told.last().map_or(0, |event: &v1::Event| event.revision);
        let first = v1::SessionRequest {
            open: Some(reader.open.clone()),
            watches: vec![watch(1, "/", after)],
            ..v1::SessionRequest::default()
        };
        (reader, _) = replicas[(round as usize + 2) % 3].stream_with("", first).await;
        reader.until(|told| !told.watches.is_empty()).await;
        let state = &reader.told.watches[0];
        assert_eq!((state.revision, state.gap), (after, false), "{state:?}");
    }
    reader.until(|news| told.len() + news.events.len() >= 120).await;
    told.append(&mut reader.told.events);
    let revisions: Vec<_> = told.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, (2..=121).collect::<Vec<_>>());
}

/// Spec E-3: what is not kept any more is an explicit gap, and a KeepAlive's answer tells how far nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_is_a_gap() {
    let alone = crate::raw::alone_with(|config| config.tuning.events_kept = 10).await;
    for _ in 0..100 {
        alone.single("", increment("/n", 1)).await;
    }
    let (mut stream, _) = alone.new_session().await;
    stream.watch(vec![watch(1, "/", 50), watch(2, "/", 95), watch(3, "/", 0)]);
    stream.until(|told| told.watches.len() == 3).await;
    let states: Vec<_> = stream.told.watches.iter().map(|state| (state.revision, state.gap)).collect();
    assert_eq!(states, [(100, true), (95, false), (100, false)]);
    stream.until(|told| told.events.len() == 5).await;
    assert!(stream.told.events.iter().all(|event| event.watches == [2]));
    stream.told.revision = 0;
    stream.keep_alive();
    stream.until(|told| told.revision > 0).await;
    assert_eq!(stream.told.revision, 100);
}

/// Spec E-4: a session has so many watches and no more; what is no watch is refused, and disturbs no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_bounded_and_bad_ones_refused() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let bad = vec![
        watch(0, "/", 0),
        watch(1, "/a//b", 0),
        watch(2, "/ls/elsewhere/x", 0),
        v1::Watch { kinds: vec![77], ..watch(3, "/", 0) },
    ];
    stream.watch(bad);
    stream.until(|told| told.watches.len() == 4).await;
    for state in std::mem::take(&mut stream.told.watches) {
        assert_eq!(state.failure.expect("refused").code(), Code::InvalidArgument);
    }
    let most = MAX_WATCHES_PER_SESSION as u64;
    stream.watch((1..=most + 1).map(|number| watch(number, &format!("/{number}"), 0)).collect());
    stream.until(|told| told.watches.len() as u64 == most + 1).await;
    let refused: Vec<_> = stream.told.watches.iter().filter(|state| state.failure.is_some()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].failure.as_ref().map(v1::Failure::code), Some(Code::TooMany));
    alone.single("", increment(&format!("/{most}"), 1)).await;
    stream.until(|told| told.events.len() == 1).await;
    assert_eq!(stream.told.events[0].watches, [most]);
    stream.watch((1..=2 * most + 1).map(|number| watch(number, "/x", 0)).collect());
    let ended = loop {
        if let Some(ended) = stream.reply().await.ended {
            break ended;
        }
    };
    assert!(ended.message.contains("watches come faster"), "{ended:?}");
    assert_eq!(ended.code(), Code::Overloaded, "the client loses its stream, not its session");
}

/// Spec E-4, L-2: a watcher that stops reading costs bounded memory and slows nobody; when it reads again it is told
/// that it lagged, where to go on, and what its own handles are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_stops_reading_lags_alone() {
    const CHANGES: u64 = 100_000;
    let alone = alone().await;
    // So that each event would take much memory if it were made for the client before that reads.
    let parents = (0..15).map(|i| format!("/{i:0>250}")).collect::<String>();
    let path = format!("{parents}/counter");
    alone.single("", increment(&path, 0)).await;

    let open = v1::OpenSession { nonce: nonce(), lease_ms: 60_000, ..v1::OpenSession::default() };
    let (mut lazy, _) = alone.stream(open).await;
    let (locked, waits) = (lazy.open(1, "/lock").await, lazy.open(2, "/wait").await);
    lazy.watch(vec![watch(1, "/", 0), watch(2, &path, 0)]);
    lazy.until(|told| told.watches.len() == 2).await;
    let open = v1::OpenSession { nonce: nonce(), lease_ms: 60_000, ..v1::OpenSession::default() };
    let (mut writer, _) = alone.stream(open).await;
    let wait = writer.open(1, "/wait").await;
    writer.done(2, acquire(wait, false)).await;
    lazy.done(3, acquire(locked, false)).await;
    assert_eq!(place(&lazy.done(4, acquire(waits, true)).await), v1::handle_state::Place::Waiting);

    let open = v1::OpenNode {
        path: path.clone(),
        mode: Some(v1::Mode { read: true, write: true, change_acl: false }),
        ..v1::OpenNode::default()
    };
    let handle = crate::raw::handle(&writer.done(3, Operation::OpenNode(open)).await);
    let add = v1::Increment { delta: 1, ..v1::Increment::default() };
    let add = Operation::OnHandle(v1::OnHandle { handle, verb: Some(v1::on_handle::Verb::Increment(add)) });
    let before = memory(&alone).await;
    let mut number = 3;
    for _ in 0..CHANGES / 1_000 {
        writer.send((number + 1..=number + 1_000).map(|number| call(number, add.clone())).collect(), number);
        number += 1_000;
        writer.answers(1_000).await;
    }
    writer.done(number + 1, crate::raw::release(wait)).await;
    let grown = memory(&alone).await.saturating_sub(before);
    // Encoded, the events would take 400 MB.
    assert!(grown < 150 << 20, "{} MiB more", grown >> 20);

    let read = tokio::time::timeout(LIMIT, lazy.until(|told| told.revision > CHANGES));
    read.await.expect("it catches up");
    let told = &lazy.told;
    let gaps: Vec<_> = told.watches.iter().skip(2).collect();
    assert!(!gaps.is_empty() && gaps.iter().all(|state| state.gap && state.failure.is_none()), "{gaps:?}");
    assert!((told.events.len() as u64) < CHANGES, "{} events", told.events.len());
    assert!(told.events.is_sorted_by_key(|event| event.revision));
    let holds =
        |state: &v1::HandleState| state.handle == waits && state.place() == v1::handle_state::Place::Holding;
    assert!(told.handles.iter().any(holds), "{:?}", told.handles);
    // Of its own handles something may have been left out, too, so it was told of all that are open.
    assert_eq!(told.all_handles, [vec![locked, waits]]);
    lazy.told.events.clear();
    alone.single("", set("/f", 1)).await;
    lazy.until(|told| told.events.iter().any(|event| event.path == "/f")).await;
    assert!(matches!(lazy.done(5, open_file("/f")).await, Outcome::NodeOpened(_)));
}

async fn memory(alone: &crate::raw::Alone) -> u64 {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = alone.client().await.status(v1::StatusRequest { digest: false }).await;
    status.expect("it answers").into_inner().memory_bytes
}
