//! Looks at what an HTTP/1 client sends before the parser does, and says from which request on it can't be trusted.
//!
//! Two programs that read the same bytes as different requests are what request smuggling lives on. The parser behind this
//! is lenient where RFC 9112 lets it be: of Content-Length and Transfer-Encoding it takes the latter and forgets the
//! other, and a line may end with LF alone. Here there is one reading only; whatever could have another is refused, and so is
//! everything after it on that connection. Pure: bytes in, a verdict out.

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a line of the request's head ends without CR; end each with CR LF")]
    BareLineFeed,
    #[error("a header is folded over more than one line (RFC 9112 §5.2); write it in one")]
    Folded,
    #[error("a line of the request's head is no header; write `name: value`")]
    NoHeader,
    #[error("Content-Length is no number; send digits alone")]
    LengthInvalid,
    #[error("there is more than one Content-Length; send one")]
    LengthRepeated,
    #[error("there are Content-Length and Transfer-Encoding; send one of them (RFC 9112 §6.1)")]
    LengthAndEncoding,
    #[error("Transfer-Encoding is something else than `chunked`, once; no other is understood here")]
    Encoding,
    #[error("Transfer-Encoding is not for HTTP/1.0; send Content-Length")]
    EncodingInHttp10,
    #[error("the request's head is too long; send fewer or shorter headers")]
    TooLong,
    #[error("the chunks of the body are not well-formed (RFC 9112 §7.1)")]
    Chunk,
}

impl Fault {
    /// All of them, so that one can travel as a number.
    const ALL: [Fault; 10] = [
        Fault::BareLineFeed,
        Fault::Folded,
        Fault::NoHeader,
        Fault::LengthInvalid,
        Fault::LengthRepeated,
        Fault::LengthAndEncoding,
        Fault::Encoding,
        Fault::EncodingInHttp10,
        Fault::TooLong,
        Fault::Chunk,
    ];

    pub(crate) fn number(self) -> u8 {
        Fault::ALL.iter().position(|fault| *fault == self).unwrap_or(0) as u8
    }

    pub(crate) fn numbered(number: u8) -> Option<Fault> {
        Fault::ALL.get(usize::from(number)).copied()
    }
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    state: State,
    /// The request that the bytes belong to: 0 is the connection's first.
    request: u64,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    longest_head: usize,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Body(u64),
    Chunks(Chunks),
    /// The chunks are over; lines up to an empty one.
    Trailers(usize),
    Refused,
}

#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    lines: usize,
    http_10: bool,
    length: Option<u64>,
    chunked: bool,
}

/// Where in the framing of a chunk the next byte is.
#[derive(Clone, Copy, Debug)]
enum Chunks {
    Size { digits: u8, value: u64 },
    Extension { value: u64, bytes: usize },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataReturn,
    DataEnd,
}

/// Extensions mean nothing here, and none needs more.
const LONGEST_EXTENSION: usize = 1_024;
/// Empty lines before a request: RFC 9112 §2.2 asks to bear at least one.
const MOST_EMPTY_LINES: usize = 8;

impl Guard {
    pub(crate) fn new(longest_head: usize) -> Self {
        Guard { state: State::Head(Head::default()), request: 0, partial: Vec::new(), longest_head }
    }

    /// The client sent these bytes. The first request that can't be trusted, and why.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), (u64, Fault)> {
        while !bytes.is_empty() {
            match self.step(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(fault) => {
                    // What a bad body is followed by is no request.
                    let inside = matches!(self.state, State::Head(_));
                    self.state = State::Refused;
                    self.partial = Vec::new();
                    return Err((if inside { self.request } else { self.request + 1 }, fault));
                }
            }
        }
        Ok(())
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn is_within_head(&self) -> bool {
        matches!(&self.state, State::Head(head) if head.bytes > 0 || !self.partial.is_empty())
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match &mut self.state {
            State::Head(_) | State::Trailers(_) => self.line(bytes),
            State::Body(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    self.next_request();
                }
                Ok(taken)
            }
            State::Chunks(chunks) => {
                let (taken, next) = chunks.step(bytes)?;
                self.state = match next {
                    Some(chunks) => State::Chunks(chunks),
                    None => State::Trailers(0),
                };
                Ok(taken)
            }
            State::Refused => Ok(bytes.len()),
        }
    }

    fn next_request(&mut self) {
        self.request += 1;
        self.state = State::Head(Head::default());
    }

    fn line(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.partial.len() + bytes.len() > self.longest_head {
                return Err(Fault::TooLong);
            }
            self.partial.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let taken = end + 1;
        if self.partial.is_empty() {
            self.whole_line(&bytes[..taken])?;
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..taken]);
            self.whole_line(&line)?;
        }
        Ok(taken)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let longest = self.longest_head;
        match &mut self.state {
            State::Head(head) => {
                head.bytes += line.len();
                if head.bytes > longest {
                    return Err(Fault::TooLong);
                }
                let text = line.strip_suffix(b"\r\n").ok_or(Fault::BareLineFeed)?;
                if head.take(text)? {
                    match (head.length, head.chunked) {
                        (_, true) => self.state = State::Chunks(Chunks::START),
                        (Some(length @ 1..), false) => self.state = State::Body(length),
                        (_, false) => self.next_request(),
                    }
                }
            }
            State::Trailers(length) => {
                *length += line.len();
                let text = line.strip_suffix(b"\r\n").ok_or(Fault::Chunk)?;
                if *length > longest {
                    return Err(Fault::TooLong);
                }
                if text.is_empty() {
                    self.next_request();
                }
            }
            State::Body(_) | State::Chunks(_) | State::Refused => {}
        }
        Ok(())
    }
}

impl Head {
    /// Takes a line; whether it was the last.
    fn take(&mut self, line: &[u8]) -> Result<bool, Fault> {
        if line.is_empty() {
            if self.lines > 0 {
                return Ok(true);
            }
            // Before the request line; they count as bytes alone.
            return if self.bytes > 2 * MOST_EMPTY_LINES { Err(Fault::NoHeader) } else { Ok(false) };
        }
        self.lines += 1;
        if self.lines == 1 {
            self.http_10 = line.ends_with(b"HTTP/1.0");
            return Ok(false);
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Fault::Folded);
        }
        let colon = memchr::memchr(b':', line).ok_or(Fault::NoHeader)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(Fault::NoHeader);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            self.take_length(value)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.take_encoding(value)?;
        }
        Ok(false)
    }

    fn take_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked {
            return Err(Fault::LengthAndEncoding);
        }
        if self.length.is_some() {
            return Err(Fault::LengthRepeated);
        }
        // 18 digits always fit; RFC 9110 §8.6 has digits alone, so neither `+5` nor `5, 5`.
        if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
            return Err(Fault::LengthInvalid);
        }
        self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    fn take_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(Fault::LengthAndEncoding);
        }
        if self.http_10 {
            return Err(Fault::EncodingInHttp10);
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Encoding);
        }
        self.chunked = true;
        Ok(())
    }
}

impl Chunks {
    const START: Chunks = Chunks::Size { digits: 0, value: 0 };

    /// How many bytes were taken, and what comes then; `None`: trailers.
    fn step(self, bytes: &[u8]) -> Result<(usize, Option<Chunks>), Fault> {
        let next = match (self, bytes[0]) {
            (Chunks::Data { left }, _) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - taken as u64;
                return Ok((taken, Some(if left == 0 { Chunks::DataReturn } else { Chunks::Data { left } })));
            }
            (Chunks::Size { digits: 1.., value }, b'\r') => Chunks::SizeEnd { value },
            (Chunks::Size { digits: 1.., value }, b';' | b' ' | b'\t') => {
                Chunks::Extension { value, bytes: 0 }
            }
            (Chunks::Size { digits, value }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
                // 15 digits of four bits each leave room.
                if digits == 15 {
                    return Err(Fault::Chunk);
                }
                Chunks::Size { digits: digits + 1, value: value * 16 + u64::from(digit) }
            }
            (Chunks::Extension { value, .. }, b'\r') => Chunks::SizeEnd { value },
            (Chunks::Extension { value, bytes }, byte) => {
                if byte == b'\n' || bytes == LONGEST_EXTENSION {
                    return Err(Fault::Chunk);
                }
                Chunks::Extension { value, bytes: bytes + 1 }
            }
            (Chunks::SizeEnd { value: 0 }, b'\n') => return Ok((1, None)),
            (Chunks::SizeEnd { value }, b'\n') => Chunks::Data { left: value },
            (Chunks::DataReturn, b'\r') => Chunks::DataEnd,
            (Chunks::DataEnd, b'\n') => Chunks::START,
            _ => return Err(Fault::Chunk),
        };
        Ok((1, Some(next)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(text: &str) -> Result<(), (u64, Fault)> {
        Guard::new(1_000).feed(text.as_bytes())
    }

    fn refused(headers: &str) -> Option<Fault> {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        verdict(&text).err().map(|(request, fault)| {
            assert_eq!(request, 0);
            fault
        })
    }

    /// Spec F-2: each of the shapes of request smuggling has one reading, or none.
    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (headers, fault) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Fault::LengthAndEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Fault::LengthAndEncoding),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Fault::LengthRepeated),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Fault::LengthRepeated),
            ("Content-Length: 5, 5\r\n", Fault::LengthInvalid),
            ("Content-Length: +5\r\n", Fault::LengthInvalid),
            ("Content-Length: -1\r\n", Fault::LengthInvalid),
            ("Content-Length: 0x5\r\n", Fault::LengthInvalid),
            ("Content-Length:\r\n", Fault::LengthInvalid),
            ("Content-Length: 99999999999999999999\r\n", Fault::LengthInvalid),
            ("Content-Length : 5\r\n", Fault::NoHeader),
            ("Transfer-Encoding : chunked\r\n", Fault::NoHeader),
            ("Transfer-Encoding: identity\r\n", Fault::Encoding),
            ("Transfer-Encoding: chunked, identity\r\n", Fault::Encoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Fault::Encoding),
            ("Transfer-Encoding: xchunked\r\n", Fault::Encoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Fault::Encoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::Encoding),
            ("Transfer-Encoding:\x0bchunked\r\n", Fault::Encoding),
            ("Transfer-Encoding:\r\n chunked\r\n", Fault::Encoding),
            ("X: a\r\n Transfer-Encoding: chunked\r\n", Fault::Folded),
            ("X: a\r\n\tb\r\n", Fault::Folded),
            ("X: a\nContent-Length: 5\r\n", Fault::BareLineFeed),
            ("X: a\n", Fault::BareLineFeed),
            ("nothing\r\n", Fault::NoHeader),
            (": nothing\r\n", Fault::NoHeader),
        ] {
            assert_eq!(refused(headers), Some(fault), "{headers:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(verdict(old), Err((0, Fault::EncodingInHttp10)));
    }

    #[test]
    fn what_has_one_reading_is_fine() {
        for headers in ["", "Content-Length: 5\r\n", "transfer-encoding:  CHUNKED \r\n", "X:\r\nY: a: b\r\n"]
        {
            assert_eq!(refused(headers), None, "{headers:?}");
        }
        assert_eq!(verdict("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Ok(()));
        assert_eq!(verdict(&"\r\n".repeat(9)), Err((0, Fault::NoHeader)));
    }

    /// Spec F-2: what follows a body is found where the body ends, however it is framed.
    #[test]
    fn the_bad_one_of_many_requests_is_named() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let length = "PUT / HTTP/1.1\r\nContent-Length: 14\r\n\r\nX: a\n\nGET / \r\n";
        let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\n\n\r\nA;x=y\r\n0\r\n\r\nGET /\r\n0\r\nT: x\r\n\r\n";
        let bad = "GET / HTTP/1.1\nHost: a\r\n\r\n";
        assert_eq!(verdict(&format!("{good}{length}{chunked}{good}")), Ok(()));
        assert_eq!(
            verdict(&format!("{good}{length}{chunked}{good}{bad}{good}")),
            Err((4, Fault::BareLineFeed))
        );
    }

    #[test]
    fn chunks_have_one_reading_too() {
        let after =
            |chunks: &str| verdict(&format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
        let long = format!("1;{}\r\n", "x".repeat(2_000));
        for chunks in [
            "\r\n",
            "x\r\n",
            "1\n",
            "1\r\nab",
            "1\r\na\n",
            "-1\r\n",
            "0x1\r\n",
            "1;a\n",
            "0\r\na: b\n",
            &long,
        ] {
            assert_eq!(after(chunks), Err((1, Fault::Chunk)), "{chunks:?}");
        }
        assert_eq!(after("1000000000000000\r\n"), Err((1, Fault::Chunk)));
    }

    #[test]
    fn heads_have_an_end() {
        assert_eq!(verdict(&"a".repeat(1_001)), Err((0, Fault::TooLong)));
        assert_eq!(
            verdict(&format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(200))),
            Err((0, Fault::TooLong))
        );
    }

    #[test]
    fn a_head_that_has_begun_is_seen() {
        let mut guard = Guard::new(1_000);
        assert!(!guard.is_within_head());
        for (text, within) in [
            ("G", true),
            ("ET / HTTP/1.1\r\n", true),
            ("Content-Length: 2\r\n\r", true),
            ("\n", false),
            ("ab", false),
            ("GET", true),
        ] {
            guard.feed(text.as_bytes()).unwrap();
            assert_eq!(guard.is_within_head(), within, "{text:?}");
        }
    }

    #[test]
    fn faults_travel_as_numbers() {
        for fault in Fault::ALL {
            assert_eq!(Fault::numbered(fault.number()), Some(fault));
        }
        assert_eq!(Fault::numbered(99), None);
    }

    const PIECES: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "abc",
        "3\r\n",
        "0\r\n\r\n",
        "\n",
        "\r",
        " ",
        ":",
    ];

    /// So many requests come whole, as hyper's parser reads them. None: it refuses some.
    fn by_the_parser(mut bytes: &[u8]) -> Option<u64> {
        let mut whole = 0;
        while !bytes.is_empty() {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut request = httparse::Request::new(&mut headers);
            let httparse::Status::Complete(head) = request.parse(bytes).ok()? else { break };
            let value = |name: &str| {
                let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                found.map(|header| header.value)
            };
            let chunked = value("transfer-encoding").is_some();
            let length = value("content-length").map(|length| str::from_utf8(length).ok()?.parse().ok());
            bytes = &bytes[head..];
            let body = if chunked { chunks(bytes)? } else { Some(length.unwrap_or(Some(0))?) };
            let Some(after) = body.and_then(|body| bytes.get(body..)) else { break };
            bytes = after;
            whole += 1;
        }
        Some(whole)
    }

    /// How long a body of chunks is; the inner `None`: it has not ended yet.
    fn chunks(bytes: &[u8]) -> Option<Option<usize>> {
        let mut at = 0;
        loop {
            let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(&bytes[at..]).ok()?
            else {
                return Some(None);
            };
            at += line;
            if size == 0 {
                let mut trailers = [httparse::EMPTY_HEADER; 128];
                return match httparse::parse_headers(&bytes[at..], &mut trailers).ok()? {
                    httparse::Status::Complete((length, _)) => Some(Some(at + length)),
                    httparse::Status::Partial => Some(None),
                };
            }
            let end = usize::try_from(size).ok()?.checked_add(at)?;
            match bytes.get(end..end + 2) {
                Some(b"\r\n") => at = end + 2,
                Some(_) => return None,
                None => return Some(None),
            }
        }
    }

    /// Spec F-2: any bytes at all. How they are cut changes nothing, no more is kept of them than a head may be long, and
    /// whatever is trusted the parser reads as the same requests.
    #[test]
    fn any_bytes() {
        bramah_fuzz::fuzz!("http1", |bytes| {
            let mut guard = Guard::new(1_000);
            let verdict = bramah_fuzz::within_bytes(4_096, || guard.feed(bytes));
            let mut careful = Guard::new(1_000);
            assert_eq!(bytes.iter().try_for_each(|byte| careful.feed(&[*byte])), verdict);
            if let (Ok(()), Some(whole)) = (verdict, by_the_parser(bytes)) {
                assert_eq!(guard.request, whole);
            }
        });
    }

    proptest! {
        /// Spec F-2: how the bytes are cut into packets changes nothing.
        #[test]
        fn packets_dont_matter(pieces in prop::collection::vec(0..PIECES.len(), 0..30), cuts in prop::collection::vec(1..9_usize, 1..20)) {
            let text: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
            let whole = verdict(&text);
            let mut guard = Guard::new(1_000);
            let mut rest = text.as_bytes();
            let mut parts = Ok(());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || parts.is_err() {
                    break;
                }
                let (part, after) = rest.split_at(rest.len().min(*cut));
                parts = guard.feed(part);
                rest = after;
            }
            prop_assert_eq!(whole, parts);
        }
    }
}
