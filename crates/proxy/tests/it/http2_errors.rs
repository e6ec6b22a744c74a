//! What RFC 9113 and RFC 7541 call errors of HTTP/2, each told by the code that they name, and none of it reaching an instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bramah_proxy::Settings;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hostile::{GET, PREFACE, frame};
use crate::support::*;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

type Frames = Vec<Vec<u8>>;

/// What the proxy says to frames after the preface.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// The connection ends with this code, or the stream: RFC 9113 §5.4.2 lets the former stand for the latter.
    Error(u32),
    /// A request was refused by an answer with this status.
    Status(Vec<u8>),
    /// A PING that came after the frames was answered: they did no harm.
    Pong,
    /// The connection ended without a word.
    End,
}

async fn said(running: &Running, frames: &[Vec<u8>]) -> Said {
    let mut tcp = TcpStream::connect(running.address()).await.expect("a connection");
    let mut bytes = PREFACE.to_vec();
    frames.iter().for_each(|frame| bytes.extend(frame));
    bytes.extend(frame(PING, 0, 0, b"are you?"));
    tcp.write_all(&bytes).await.expect("sent");
    let mut pong = false;
    let reading = async {
        loop {
            let mut head = [0; 9];
            if tcp.read_exact(&mut head).await.is_err() {
                return Said::End;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if tcp.read_exact(&mut payload).await.is_err() {
                return Said::End;
            }
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            match (head[3], head[4]) {
                (RST_STREAM, _) => return Said::Error(number(0)),
                // A farewell without an error comes before another one.
                (GOAWAY, _) if number(4) != 0 => return Said::Error(number(4)),
                (HEADERS, _) => return Said::Status(payload),
                (PING, 1) if payload == b"are you?" => pong = true,
                _ => {}
            }
        }
    };
    // What is wrong with a stream may be said after the PING's answer.
    match tokio::time::timeout(SHORT, reading).await {
        Ok(said) => said,
        Err(_) if pong => Said::Pong,
        Err(_) => panic!("nothing is said"),
    }
}

/// `literal` without indexing: a name and a value.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.as_bytes());
    bytes
}

fn request(more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = GET.to_vec();
    more.iter().for_each(|(name, value)| block.extend(literal(name, value)));
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

/// A request whose body is to come.
fn open(more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = b"\x83\x86\x84\x41\x01a".to_vec();
    more.iter().for_each(|(name, value)| block.extend(literal(name, value)));
    frame(HEADERS, END_HEADERS, 1, &block)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Spec F-2: RFC 9113 §4 to §6 and RFC 7541.
#[tokio::test]
async fn f_2_errors_of_frames_are_named() {
    let server = Server::start(false, |_| async {
        tokio::time::sleep(std::time::Duration::from_secs(100)).await;
        text("a")
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let half = frame(HEADERS, END_STREAM, 1, GET);
    let cases: Vec<(&str, Frames, &[u32])> = vec![
        (
            "4.2: a frame over the size that was allowed",
            vec![frame(DATA, 0, 1, &[0; 16_385])],
            &[FRAME_SIZE_ERROR],
        ),
        (
            "4.3: a header block that can't be decoded",
            vec![frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff")],
            &[COMPRESSION_ERROR],
        ),
        ("7541 2.3.3: an index beyond the tables", vec![frame(HEADERS, 5, 1, b"\xc6")], &[COMPRESSION_ERROR]),
        (
            "7541 6.3: a table larger than allowed",
            vec![frame(HEADERS, 5, 1, b"\x3f\xff\xff\x03")],
            &[COMPRESSION_ERROR],
        ),
        ("5.1: DATA on an idle stream", vec![frame(DATA, 0, 1, b"x")], &[PROTOCOL_ERROR]),
        ("5.1: RST_STREAM on an idle stream", vec![frame(RST_STREAM, 0, 1, &[0; 4])], &[PROTOCOL_ERROR]),
        ("5.1: WINDOW_UPDATE on an idle stream", vec![window(1, 1)], &[PROTOCOL_ERROR]),
        ("5.1: DATA after the stream's end", vec![get(1), frame(DATA, 0, 1, b"x")], &[STREAM_CLOSED]),
        ("5.1.1: a stream with an even number", vec![get(2)], &[PROTOCOL_ERROR]),
        ("5.1.1: a stream with a lower number", vec![get(5), get(3)], &[PROTOCOL_ERROR, STREAM_CLOSED]),
        ("6.1: DATA on stream 0", vec![frame(DATA, 0, 0, b"x")], &[PROTOCOL_ERROR]),
        (
            "6.1: more padding than there is",
            vec![open(&[]), frame(DATA, PADDED, 1, b"\x05x")],
            &[PROTOCOL_ERROR],
        ),
        ("6.2: HEADERS on stream 0", vec![frame(HEADERS, 5, 0, GET)], &[PROTOCOL_ERROR]),
        ("6.4: RST_STREAM on stream 0", vec![frame(RST_STREAM, 0, 0, &[0; 4])], &[PROTOCOL_ERROR]),
        (
            "6.4: RST_STREAM of another length",
            vec![get(1), frame(RST_STREAM, 0, 1, &[0; 3])],
            &[FRAME_SIZE_ERROR],
        ),
        ("6.5: SETTINGS with ACK and more", vec![frame(SETTINGS, 1, 0, &[0; 6])], &[FRAME_SIZE_ERROR]),
        ("6.5: SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], &[PROTOCOL_ERROR]),
        ("6.5: SETTINGS of another length", vec![frame(SETTINGS, 0, 0, &[0; 5])], &[FRAME_SIZE_ERROR]),
        ("6.5.2: ENABLE_PUSH of 2", vec![setting(2, 2)], &[PROTOCOL_ERROR]),
        ("6.5.2: a window of 2^31", vec![setting(4, 1 << 31)], &[FLOW_CONTROL_ERROR]),
        ("6.5.2: frames too small", vec![setting(5, 16_383)], &[PROTOCOL_ERROR]),
        ("6.5.2: frames too large", vec![setting(5, 1 << 24)], &[PROTOCOL_ERROR]),
        (
            "6.6: PUSH_PROMISE by a client",
            vec![get(1), frame(PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82")],
            &[PROTOCOL_ERROR],
        ),
        ("6.7: PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], &[PROTOCOL_ERROR]),
        ("6.7: PING of another length", vec![frame(PING, 0, 0, &[0; 7])], &[FRAME_SIZE_ERROR]),
        ("6.8: GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], &[PROTOCOL_ERROR]),
        ("6.9: a window that grows by 0", vec![window(0, 0)], &[PROTOCOL_ERROR]),
        (
            "6.9: WINDOW_UPDATE of another length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            &[FRAME_SIZE_ERROR],
        ),
        ("6.9.1: a connection's window over 2^31", vec![window(0, (1 << 31) - 1)], &[FLOW_CONTROL_ERROR]),
        (
            "6.9.1: a stream's window over 2^31",
            vec![open(&[]), window(1, (1 << 31) - 1)],
            &[FLOW_CONTROL_ERROR],
        ),
        ("6.10: CONTINUATION of nothing", vec![frame(CONTINUATION, 4, 1, b"\x82")], &[PROTOCOL_ERROR]),
        (
            "6.10: another frame within a header block",
            vec![half.clone(), frame(PING, 0, 0, &[0; 8])],
            &[PROTOCOL_ERROR],
        ),
        (
            "6.10: CONTINUATION of another stream",
            vec![half, frame(CONTINUATION, 4, 3, b"")],
            &[PROTOCOL_ERROR],
        ),
    ];
    let mut wrong = Vec::new();
    for (what, frames, codes) in cases {
        let said = said(&running, &frames).await;
        // The library says PROTOCOL_ERROR of most that it can't read.
        if !matches!(said, Said::Error(code) if code == PROTOCOL_ERROR || codes.contains(&code)) {
            wrong.push(format!("{what}: {said:?}, not an error of {codes:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Spec F-2: RFC 9113 §8: requests that are malformed, or that can't be passed on as they are.
#[tokio::test]
async fn f_2_malformed_requests_reach_nobody() {
    let whole = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&whole);
    let server = Server::start(false, move |request| {
        let count = Arc::clone(&count);
        async move {
            // The head of a request goes on before its body has come.
            if request.into_body().collect().await.is_ok() {
                count.fetch_add(1, SeqCst);
            }
            text("a")
        }
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let pseudo = |block: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, block);
    let with = |before: &[u8], name: &str, value: &str| {
        let mut block = before.to_vec();
        block.extend(literal(name, value));
        pseudo(&block)
    };
    let regular_first = [literal("a", "b"), GET.to_vec()].concat();
    let cases: Vec<(&str, Frames)> = vec![
        ("8.2.1: upper case", vec![request(&[("X-Up", "a")])]),
        ("8.2.1: a line feed in a value", vec![request(&[("x", "a\nb")])]),
        ("8.2.2: Connection", vec![request(&[("connection", "close")])]),
        ("8.2.2: Transfer-Encoding", vec![request(&[("transfer-encoding", "chunked")])]),
        ("8.2.2: Upgrade", vec![request(&[("upgrade", "websocket")])]),
        ("8.2.2: TE that is not trailers", vec![request(&[("te", "gzip")])]),
        ("8.3: a pseudo-header after others", vec![pseudo(&regular_first)]),
        ("8.3: an unknown pseudo-header", vec![with(GET, ":x", "a")]),
        ("8.3: one of answers", vec![with(GET, ":status", "200")]),
        ("8.3.1: no path", vec![pseudo(b"\x82\x86\x41\x01a")]),
        ("8.3.1: an empty path", vec![with(b"\x82\x86\x41\x01a", ":path", "")]),
        ("8.3.1: no method", vec![pseudo(b"\x86\x84\x41\x01a")]),
        ("8.3.1: no scheme", vec![pseudo(b"\x82\x84\x41\x01a")]),
        ("8.3.1: two methods", vec![with(GET, ":method", "GET")]),
        ("8.3.1: two paths", vec![with(GET, ":path", "/")]),
        ("8.3.1: another host", vec![request(&[("host", "b")])]),
        (
            "8.1.1: a body longer than it says",
            vec![open(&[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"xy")],
        ),
        (
            "8.1.1: a body shorter than it says",
            vec![open(&[("content-length", "3")]), frame(DATA, END_STREAM, 1, b"xy")],
        ),
        (
            "8.1: trailers that don't end it",
            vec![open(&[]), frame(HEADERS, END_HEADERS, 1, &literal("a", "b"))],
        ),
    ];
    let mut wrong = Vec::new();
    for (what, frames) in cases {
        match said(&running, &frames).await {
            Said::Error(PROTOCOL_ERROR) => {}
            // Status 400, of HPACK's static table.
            Said::Status(block) if block.starts_with(b"\x8c") => {}
            other => wrong.push(format!("{what}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(whole.load(SeqCst), 0, "an instance took one for a whole request");
}

/// Spec F-2: what RFC 9113 wants to be passed over.
#[tokio::test]
async fn f_2_what_may_be_ignored_is() {
    let running = Running::start(Settings::default(), &[]).await;
    for (what, frames) in [
        ("5.5: an unknown frame", vec![frame(0x50, 0xff, 0, b"abc")]),
        ("6.5.2: an unknown setting", vec![setting(0x99, 7)]),
        ("6.7: a PING's answer that nobody asked for", vec![frame(PING, 1, 0, b"nobody's")]),
        ("4.1: flags that mean nothing", vec![frame(SETTINGS, 0x40, 0, &[])]),
        ("6.3: PRIORITY", vec![frame(2, 0, 1, &[0, 0, 0, 0, 9])]),
    ] {
        assert_eq!(said(&running, &frames).await, Said::Pong, "{what}");
    }
}
