//! What a log entry carries: requests packed together, with the leader's time (docs/formats.md).
//!
//! ```text
//! version  u8      2
//! time     u64 LE  milliseconds since the Unix epoch
//! count    u32 LE  requests that follow
//! count ×  u32 LE  length of the request in bytes
//!          ...     the request, postcard
//! ```

use bytes::Bytes;
use thiserror::Error;

use crate::{MAX_CONTENTS_BYTES, Outcome, Request};

/// The most bytes a batch has.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// The most requests a batch has.
pub const MAX_BATCH_REQUESTS: usize = 4096;
/// The most bytes an encoded request has: the largest contents, the longest path and their company.
pub const MAX_REQUEST_BYTES: usize = MAX_CONTENTS_BYTES + 16 * 1024;

const VERSION: u8 = 2;
const HEADER_BYTES: usize = 1 + 8 + 4;
const LENGTH_BYTES: usize = 4;

/// Requests that are applied together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The leader's time, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// In the order in which they are applied.
    pub requests: Vec<Request>,
}

/// Why bytes are not a batch, a request or a list of outcomes, or why they can't become one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The version is not one that this program knows.
    #[error(
        "the batch has format version {found}, and this program reads version {VERSION}; run the newer program"
    )]
    UnknownVersion {
        /// The version found.
        found: u8,
    },
    /// The bytes end too early.
    #[error("the batch ends in the middle of request {index}; it was cut short")]
    Truncated {
        /// Which request, counted from 0.
        index: usize,
    },
    /// There are bytes after the last request.
    #[error("{bytes} bytes follow the last request of the batch; it was damaged or encoded wrongly")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// There are too many bytes or requests for a batch.
    #[error(
        "{requests} requests of {bytes} bytes are too much for a batch of at most {MAX_BATCH_REQUESTS} requests and {MAX_BATCH_BYTES} bytes; start another batch"
    )]
    Full {
        /// How many bytes there would be.
        bytes: usize,
        /// How many requests there would be.
        requests: usize,
    },
    /// A request is too large for any batch.
    #[error("the request has {bytes} bytes; at most {MAX_REQUEST_BYTES} are allowed, so send less at once")]
    RequestTooLarge {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A request can't be decoded.
    #[error("request {index} can't be decoded ({why}); it was damaged, or written by a newer program")]
    BadRequest {
        /// Which request, counted from 0.
        index: usize,
        /// The decoder's reason.
        why: String,
    },
    /// A list of outcomes can't be decoded.
    #[error("a list of outcomes can't be decoded ({why}); it was damaged, or written by a newer program")]
    BadOutcomes {
        /// The decoder's reason.
        why: String,
    },
    /// A value can't be encoded.
    #[error("a request or outcome can't be encoded ({why}); this is a fault of the program")]
    Encoding {
        /// The encoder's reason.
        why: String,
    },
}

impl Request {
    /// Encodes the request for [`BatchBuilder::push_encoded`].
    pub fn encode(&self) -> Result<Vec<u8>, BatchError> {
        let encoded = postcard::to_stdvec(self).map_err(encoding)?;
        check_request_length(encoded.len())?;
        Ok(encoded)
    }

    /// Decodes a request. Its contents are copied, so they don't keep `encoded` in memory.
    pub fn decode(encoded: &[u8]) -> Result<Request, BatchError> {
        check_request_length(encoded.len())?;
        decode_request(encoded, 0)
    }
}

impl Batch {
    /// Decodes a batch whole, or not at all.
    pub fn decode(encoded: &[u8]) -> Result<Batch, BatchError> {
        let truncated = || BatchError::Truncated { index: 0 };
        let (&version, rest) = encoded.split_first().ok_or_else(truncated)?;
        if version != VERSION {
            return Err(BatchError::UnknownVersion { found: version });
        }
        let (time, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
        let (count, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > MAX_BATCH_REQUESTS || encoded.len() > MAX_BATCH_BYTES {
            return Err(BatchError::Full { bytes: encoded.len(), requests: count });
        }
        let framed = run(count, rest)?;
        let requests = framed
            .iter()
            .enumerate()
            .map(|(index, framed)| decode_request(framed, index))
            .collect::<Result<_, _>>()?;
        Ok(Batch { time_ms: u64::from_le_bytes(*time), requests })
    }
}

/// Packs encoded requests into a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    /// The header, to be filled in last, and the requests so far.
    buffer: Vec<u8>,
    count: usize,
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> BatchBuilder {
        BatchBuilder { buffer: vec![0; HEADER_BYTES], count: 0 }
    }

    /// Adds a request that [`Request::encode`] encoded. [`BatchError::Full`] says that it needs another
    /// batch; this one stays as it was.
    ///
    /// The bytes are not looked into, and a batch with a damaged request stops every replica that applies
    /// it. Bytes from outside the process go through [`check_requests`] first.
    pub fn push_encoded(&mut self, request: &[u8]) -> Result<(), BatchError> {
        check_request_length(request.len())?;
        self.check_room(1, LENGTH_BYTES + request.len())?;
        self.buffer.extend_from_slice(&(request.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(request);
        self.count += 1;
        Ok(())
    }

    /// Adds `count` encoded requests that stand one after the other, each after its length (u32 LE), all or
    /// none of them.
    pub fn push_all_encoded(&mut self, count: usize, requests: &[u8]) -> Result<(), BatchError> {
        self.check_room(count, requests.len())?;
        run(count, requests)?;
        self.buffer.extend_from_slice(requests);
        self.count += count;
        Ok(())
    }

    fn check_room(&self, requests: usize, bytes: usize) -> Result<(), BatchError> {
        let bytes = self.buffer.len().saturating_add(bytes);
        let requests = self.count.saturating_add(requests);
        if bytes > MAX_BATCH_BYTES || requests > MAX_BATCH_REQUESTS {
            return Err(BatchError::Full { bytes, requests });
        }
        Ok(())
    }

    /// How many bytes the batch has so far, header included.
    pub fn len_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// How many requests the batch has so far.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no requests yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch, stamped with the leader's time in milliseconds since the Unix epoch.
    pub fn finish(mut self, time_ms: u64) -> Bytes {
        self.buffer[0] = VERSION;
        self.buffer[1..9].copy_from_slice(&time_ms.to_le_bytes());
        // At most MAX_BATCH_REQUESTS, which fits.
        self.buffer[9..HEADER_BYTES].copy_from_slice(&(self.count as u32).to_le_bytes());
        Bytes::from(self.buffer)
    }
}

/// Appends an encoded request to a run for [`BatchBuilder::push_all_encoded`].
pub fn append_to_run(run: &mut Vec<u8>, request: &[u8]) -> Result<(), BatchError> {
    check_request_length(request.len())?;
    run.extend_from_slice(&(request.len() as u32).to_le_bytes());
    run.extend_from_slice(request);
    Ok(())
}

/// Checks that a run, as [`BatchBuilder::push_all_encoded`] takes it, holds `count` requests that every
/// replica can decode.
pub fn check_requests(count: usize, requests: &[u8]) -> Result<(), BatchError> {
    for (index, framed) in run(count, requests)?.into_iter().enumerate() {
        decode_request(framed, index)?;
    }
    Ok(())
}

/// Encodes outcomes to pass them between replicas.
pub fn encode_outcomes(outcomes: &[Outcome]) -> Result<Vec<u8>, BatchError> {
    postcard::to_stdvec(outcomes).map_err(encoding)
}

/// Decodes what [`encode_outcomes`] encoded.
pub fn decode_outcomes(encoded: &[u8]) -> Result<Vec<Outcome>, BatchError> {
    let bad = |why: String| BatchError::BadOutcomes { why };
    match postcard::take_from_bytes(encoded) {
        Ok((outcomes, [])) => Ok(outcomes),
        Ok((_, rest)) => Err(bad(format!("{} bytes follow the last", rest.len()))),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Takes a run of `count` requests apart; there must be nothing behind them.
fn run(count: usize, mut rest: &[u8]) -> Result<Vec<&[u8]>, BatchError> {
    // No more than there can be: a count that lies must not ask for memory.
    let mut requests = Vec::with_capacity(count.min(rest.len() / LENGTH_BYTES));
    for index in 0..count {
        let truncated = BatchError::Truncated { index };
        let Some((length, after)) = rest.split_first_chunk() else {
            return Err(truncated);
        };
        let length = u32::from_le_bytes(*length) as usize;
        check_request_length(length)?;
        let Some((request, after)) = after.split_at_checked(length) else {
            return Err(truncated);
        };
        requests.push(request);
        rest = after;
    }
    match rest.len() {
        0 => Ok(requests),
        bytes => Err(BatchError::TrailingBytes { bytes }),
    }
}

fn decode_request(encoded: &[u8], index: usize) -> Result<Request, BatchError> {
    match postcard::take_from_bytes(encoded) {
        Ok((request, [])) => Ok(request),
        Ok((_, rest)) => {
            Err(BatchError::BadRequest { index, why: format!("{} bytes follow it", rest.len()) })
        }
        Err(error) => Err(BatchError::BadRequest { index, why: error.to_string() }),
    }
}

fn check_request_length(bytes: usize) -> Result<(), BatchError> {
    if bytes > MAX_REQUEST_BYTES { Err(BatchError::RequestTooLarge { bytes }) } else { Ok(()) }
}

fn encoding(error: postcard::Error) -> BatchError {
    BatchError::Encoding { why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Command, Identity, Path, SetContents};

    fn request(command: Command) -> Request {
        Request { identity: Identity::Anonymous, command }
    }

    fn file_of(bytes: usize, path: Path) -> Request {
        let contents = Bytes::from(vec![7; bytes]);
        request(Command::SetContents(SetContents { path, contents, if_generation: None, parents: true }))
    }

    #[test]
    fn packs_and_unpacks() {
        let requests = vec![request(increment("/n", -1)), file_of(300, path("/a")), request(delete("/a"))];
        let mut run = Vec::new();
        for request in &requests[1..] {
            append_to_run(&mut run, &request.encode().unwrap()).unwrap();
        }
        check_requests(2, &run).unwrap();
        let mut builder = BatchBuilder::new();
        assert!(builder.is_empty());
        builder.push_encoded(&requests[0].encode().unwrap()).unwrap();
        builder.push_all_encoded(2, &run).unwrap();
        let (length, count) = (builder.len_bytes(), builder.len());
        let encoded = builder.finish(77);
        assert_eq!((length, count), (encoded.len(), 3));
        assert_eq!(Batch::decode(&encoded), Ok(Batch { time_ms: 77, requests }));
    }

    /// Spec N-6: the largest file under the longest name fits into an empty batch.
    #[test]
    fn takes_the_largest_request() {
        let longest = Path::parse(&format!("/{}", "x".repeat(255)).repeat(16)).unwrap();
        let mut largest = file_of(MAX_CONTENTS_BYTES, longest);
        largest.identity = Identity::Key(vec![0; crate::MAX_KEY_BYTES]);
        let encoded = largest.encode().unwrap();
        let mut builder = BatchBuilder::new();
        builder.push_encoded(&encoded).unwrap();
        assert_eq!(Batch::decode(&builder.finish(0)).unwrap().requests, [largest]);
        let too_large = file_of(MAX_REQUEST_BYTES, path("/a"));
        assert!(matches!(too_large.encode(), Err(BatchError::RequestTooLarge { .. })));
    }

    #[test]
    fn refuses_more_than_fits_and_stays_as_it_was() {
        let large = file_of(MAX_CONTENTS_BYTES, path("/a")).encode().unwrap();
        let mut builder = BatchBuilder::new();
        while builder.push_encoded(&large).is_ok() {}
        assert_eq!(builder.len(), 3);
        assert!(matches!(builder.push_encoded(&large), Err(BatchError::Full { .. })));
        let small = request(increment("/n", 1)).encode().unwrap();
        builder.push_encoded(&small).unwrap();
        assert_eq!(Batch::decode(&builder.finish(0)).unwrap().requests.len(), 4);

        let mut builder = BatchBuilder::new();
        while builder.push_encoded(&small).is_ok() {}
        assert_eq!(builder.len(), MAX_BATCH_REQUESTS);
        assert_eq!(Batch::decode(&builder.finish(0)).unwrap().requests.len(), MAX_BATCH_REQUESTS);
    }

    #[test]
    fn says_what_is_wrong_with_a_batch() {
        let mut builder = BatchBuilder::new();
        builder.push_encoded(&request(increment("/n", 1)).encode().unwrap()).unwrap();
        let good = builder.finish(1).to_vec();
        assert_eq!(Batch::decode(&[]), Err(BatchError::Truncated { index: 0 }));
        for end in 1..good.len() {
            assert_eq!(Batch::decode(&good[..end]), Err(BatchError::Truncated { index: 0 }), "{end}");
        }
        let mut changed = good.clone();
        changed[0] = 3;
        assert_eq!(Batch::decode(&changed), Err(BatchError::UnknownVersion { found: 3 }));
        let mut changed = good.clone();
        changed.push(0);
        assert_eq!(Batch::decode(&changed), Err(BatchError::TrailingBytes { bytes: 1 }));
        let mut changed = good.clone();
        changed[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Batch::decode(&changed), Err(BatchError::Full { requests: 0xffff_ffff, .. })));
        let mut changed = good.clone();
        changed[13..17].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Batch::decode(&changed), Err(BatchError::RequestTooLarge { bytes: 0xffff_ffff }));
        let mut changed = good;
        changed[18] = 99;
        assert!(matches!(Batch::decode(&changed), Err(BatchError::BadRequest { index: 0, .. })));
    }

    /// A batch that can't be decoded is not half applied.
    #[test]
    fn applies_a_batch_whole_or_not_at_all() {
        let mut cell = Cell::new();
        let mut builder = BatchBuilder::new();
        builder.push_encoded(&request(increment("/n", 1)).encode().unwrap()).unwrap();
        builder.push_encoded(&[0, 99]).unwrap();
        let before = cell.state.digest();
        let error = cell.state.apply_batch(&builder.finish(9), 4, &mut cell.events).unwrap_err();
        assert!(matches!(error, BatchError::BadRequest { index: 1, .. }));
        assert_eq!((cell.state.digest(), cell.events.len()), (before, 0));
    }

    #[test]
    fn a_run_is_checked_before_it_is_taken() {
        let mut run = Vec::new();
        append_to_run(&mut run, &request(increment("/n", 1)).encode().unwrap()).unwrap();
        let mut builder = BatchBuilder::new();
        assert!(matches!(builder.push_all_encoded(2, &run), Err(BatchError::Truncated { index: 1, .. })));
        assert!(matches!(builder.push_all_encoded(0, &run), Err(BatchError::TrailingBytes { .. })));
        assert!(matches!(builder.push_all_encoded(usize::MAX, &run), Err(BatchError::Full { .. })));
        assert!(matches!(check_requests(usize::MAX, &run), Err(BatchError::Truncated { index: 1, .. })));
        assert!(builder.is_empty());
        assert!(check_requests(1, &[1, 0, 0, 0, 77]).is_err());
    }

    /// A small file does not keep the large batch that it came with in memory.
    #[test]
    fn contents_are_copied_out_of_the_batch() {
        let mut builder = BatchBuilder::new();
        builder.push_encoded(&file_of(100, path("/a")).encode().unwrap()).unwrap();
        let encoded = builder.finish(0);
        let range = encoded.as_ptr_range();
        match &Batch::decode(&encoded).unwrap().requests[0].command {
            Command::SetContents(command) => assert!(!range.contains(&command.contents.as_ptr())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn outcomes_survive_the_way() {
        let outcomes =
            vec![counted(-3, 7), Err(crate::Refusal::NotFound { path: path("/a/b") }), written(1, 2, true)];
        let mut encoded = encode_outcomes(&outcomes).unwrap();
        assert_eq!(decode_outcomes(&encoded), Ok(outcomes));
        encoded.push(0);
        assert!(matches!(decode_outcomes(&encoded), Err(BatchError::BadOutcomes { .. })));
        assert!(matches!(decode_outcomes(&encoded[..5]), Err(BatchError::BadOutcomes { .. })));
    }
}
