//! Sessions and their streams.

use std::io::{Read, Write};

use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::raw::{alone, call, counter, failure, get_counter, increment, nonce, set};

/// Spec S-3, G-3: many calls in one message, reads and writes alike; every one is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_come_in_lists() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    stream.send((1..=1_000).map(|number| call(number, increment("/hits", 1))).collect(), 0);
    let answers = stream.answers(1_000).await;
    let values: Vec<i64> = answers.iter().map(|(_, outcome)| counter(outcome)).collect();
    assert_eq!(values, (1..=1_000).collect::<Vec<i64>>(), "done in the order they were sent");
    stream.send(vec![call(1_001, get_counter("/hits"))], 1_000);
    assert_eq!(counter(&stream.answers(1).await[0].1), 1_000);
}

/// Spec S-6: a command sent again on another stream gets the first answer; one that was confirmed is
/// refused; opening again with the same nonce finds the same session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_on_another_stream_counts_once() {
    let alone = alone().await;
    let open = v1::OpenSession { nonce: vec![3; 16].into(), ..v1::OpenSession::default() };
    let (mut stream, head) = alone.stream(open.clone()).await;
    let session = head.opened.expect("it opens").session;
    stream.send(vec![call(1, increment("/hits", 5))], 0);
    assert_eq!(counter(&stream.answers(1).await[0].1), 5);
    drop(stream);
    let (_, head) = alone.stream(open).await;
    assert_eq!(head.opened.expect("it opens").session, session, "one nonce, one session");

    let resume = v1::OpenSession { session, nonce: vec![3; 16].into(), ..v1::OpenSession::default() };
    let (mut stream, _) = alone.stream(resume).await;
    stream.send(vec![call(1, increment("/hits", 5)), call(2, increment("/hits", 1))], 0);
    let answers = stream.answers(2).await;
    assert_eq!((counter(&answers[0].1), counter(&answers[1].1)), (5, 6));
    stream.send(vec![call(3, increment("/hits", 1))], 2);
    assert_eq!(counter(&stream.answers(1).await[0].1), 7);
    stream.send(vec![call(2, increment("/hits", 1))], 2);
    let answers = stream.answers(1).await;
    let (code, failure) = failure(&answers[0].1);
    assert_eq!(code, Code::StaleDuplicate);
    assert!(failure.may_have_been_done, "the first copy was done");
}

/// Spec S-1: a session ends when its client says so, and what comes after finds it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_as_asked() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    stream
        .requests
        .send(v1::SessionRequest { end: true, ..v1::SessionRequest::default() })
        .expect("it goes on");
    while stream.reply().await.ended.is_none() {}
    stream.is_over().await;
    let (_, head) = alone.stream(stream.open.clone()).await;
    let ended = head.ended.expect("there is no such session any more");
    assert_eq!(ended.code(), Code::SessionExpired);
    assert!(!ended.may_have_been_done);
}

/// Spec S-2: a KeepAlive is answered with the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keep_alive_extends_the_lease() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    stream
        .requests
        .send(v1::SessionRequest { keep_alive: true, ..v1::SessionRequest::default() })
        .expect("it goes on");
    loop {
        let reply = stream.reply().await;
        if reply.lease_ms != 0 {
            assert!(reply.lease_ms >= 12_000, "at least the default lease: {reply:?}");
            break;
        }
    }
}

/// Spec S-2: each session is told of its own lease at least, though others that are heard at the same time have
/// shorter ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_the_sessions_own() {
    let alone = alone().await;
    let open = |lease_ms| v1::OpenSession { nonce: nonce(), lease_ms, ..v1::OpenSession::default() };
    let (mut short, _) = alone.stream(open(2_000)).await;
    let (mut long, _) = alone.stream(open(50_000)).await;
    let ask = || v1::SessionRequest { keep_alive: true, ..v1::SessionRequest::default() };
    for _ in 0..50 {
        for _ in 0..5 {
            short.requests.send(ask()).expect("it goes on");
            long.requests.send(ask()).expect("it goes on");
        }
        for (stream, own_ms) in [(&mut short, 2_000), (&mut long, 50_000)] {
            for _ in 0..5 {
                let reply = stream.reply().await;
                assert!(reply.lease_ms >= own_ms, "{reply:?}");
            }
        }
    }
}

/// Spec S-2: as many KeepAlives as are asked for are answered, each by a reply of its own: the client counts
/// its lease from the ask that was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_keep_alive_is_answered_once() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    for _ in 0..20 {
        let ask = v1::SessionRequest { keep_alive: true, ..v1::SessionRequest::default() };
        stream.requests.send(ask).expect("it goes on");
    }
    let mut answered = 0;
    while answered < 20 {
        answered += usize::from(stream.reply().await.lease_ms != 0);
    }
    stream.send(vec![call(1, increment("/hits", 1))], 0);
    let reply = stream.reply().await;
    assert_eq!((reply.lease_ms, reply.answers.len()), (0, 1), "no answer nobody asked for");
}

/// Spec G-11: of many long reads in one message each is answered: they take turns, and are not refused for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_reads_of_one_stream_take_turns() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let long = |number| match number % 2 {
        0 => Operation::ListLocks(v1::ListLocks { below: "/".to_owned(), ..v1::ListLocks::default() }),
        _ => Operation::GetQuota(v1::GetQuota { path: "/".to_owned() }),
    };
    let mut calls: Vec<_> = (1..=200).map(|number| call(number, long(number))).collect();
    calls.push(call(201, increment("/hits", 1)));
    stream.send(calls, 0);
    let answers = stream.answers(201).await;
    let failed: Vec<_> =
        answers.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failure(_))).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// A client that breaks the protocol is told so, and only its own stream ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocol_errors_end_one_stream() {
    let alone = alone().await;
    let (mut good, _) = alone.new_session().await;

    let (mut not_begun, head) =
        alone.stream(v1::OpenSession { nonce: vec![1; 3].into(), ..v1::OpenSession::default() }).await;
    assert!(head.ended.expect("refused").message.contains("16 random bytes"));
    not_begun.is_over().await;

    let (mut bad, _) = alone.new_session().await;
    let twice =
        v1::SessionRequest { open: Some(v1::OpenSession::default()), ..v1::SessionRequest::default() };
    bad.requests.send(twice).expect("it goes on");
    assert!(bad.reply().await.ended.expect("it ends").message.contains("twice"));
    bad.is_over().await;

    let (mut bad, _) = alone.new_session().await;
    bad.send((1..=4_097).map(|number| call(number, get_counter("/hits"))).collect(), 0);
    assert!(bad.reply().await.ended.expect("it ends").message.contains("4,096"));

    good.send(vec![call(1, increment("/hits", 1))], 0);
    assert_eq!(counter(&good.answers(1).await[0].1), 1);
}

/// Bad calls are refused one by one, certainly not done; their neighbours in the message go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_calls_disturb_no_others() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let max = i64::MAX;
    stream.send(
        vec![
            call(1, increment("/hits", max)),
            call(2, increment("/hits", 1)),
            call(3, increment("/a//b", 1)),
            call(4, increment("/ls/elsewhere/x", 1)),
            call(5, set("/file", 256 * 1024)),
            call(6, set("/file", 256 * 1024 + 1)),
            call(7, set("/hits", 1)),
            call(8, get_counter("/nowhere")),
            v1::SessionCall { number: 9, deadline_ms: 0, operation: None },
            call(10, increment("/ls/test/hits", -1)),
        ],
        0,
    );
    let answers = stream.answers(10).await;
    let code = |number: usize| failure(&answers[number - 1].1).0;
    assert_eq!(counter(&answers[0].1), max);
    assert_eq!(code(2), Code::OutOfRange, "spec K-1");
    assert_eq!(failure(&answers[1].1).1.current_value, Some(max));
    assert_eq!(code(3), Code::InvalidArgument, "spec N-1");
    assert_eq!(code(4), Code::InvalidArgument, "spec N-1");
    assert!(matches!(answers[4].1, v1::outcome::Outcome::Written(_)), "spec N-6: 256 KiB fit");
    assert_eq!(code(6), Code::TooLarge, "spec N-6");
    assert_eq!(code(7), Code::WrongKind);
    assert_eq!(code(8), Code::NotFound);
    assert_eq!(code(9), Code::InvalidArgument);
    assert_eq!(counter(&answers[9].1), max - 1, "by its full name");
    for (number, outcome) in &answers {
        if let v1::outcome::Outcome::Failure(failure) = outcome {
            assert!(!failure.may_have_been_done, "call {number}: {failure:?}");
        }
    }
}

/// Garbage on the port ends that connection; everybody else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_clients_port_disturbs_nobody() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let frame = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 100_000], frame] {
        let mut socket =
            std::net::TcpStream::connect(alone.server.client_address()).expect("the port is open");
        socket.set_read_timeout(Some(crate::raw::LIMIT)).expect("a time limit");
        // It may hang up while this is still being written; what counts is that it does.
        let _ = socket.write_all(&garbage);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
    }
    stream.send(vec![call(1, increment("/hits", 1))], 0);
    assert_eq!(counter(&stream.answers(1).await[0].1), 1);
}

/// Spec G-11: many large answers asked for in one message come in replies of bounded size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_are_spread_over_replies() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    stream.send((1..=1_000).map(|number| call(number, set(&format!("/{number:0>200}"), 1))).collect(), 0);
    stream.answers(1_000).await;
    let list = || Operation::ReadDirectory(v1::ReadDirectory { path: "/".to_owned(), ..Default::default() });
    stream.send((1_001..=1_100).map(|number| call(number, list())).collect(), 1_000);
    let (mut answered, mut replies) = (0, 0);
    while answered < 100 {
        let answers = stream.reply().await.answers;
        assert!(answers.len() <= 20, "{} pages of 1,000 entries in one reply", answers.len());
        (answered, replies) = (answered + answers.len(), replies + 1);
    }
    assert!(replies >= 5, "{replies} replies");
}
