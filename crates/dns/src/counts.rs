//! What was asked and answered, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the start, unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that came over UDP.
    pub udp_queries: u64,
    /// Messages that came over TCP.
    pub tcp_queries: u64,
    /// Connections that were taken.
    pub tcp_connections: u64,
    /// What was no query, or malformed.
    pub malformed: u64,
    /// Queries that were refused.
    pub refused: u64,
    /// Answers that didn't fit, and say so.
    pub truncated: u64,
    /// Queries that were forwarded.
    pub forwarded: u64,
    /// Forwarded queries that nobody answered, or that were too many.
    pub forwarding_failed: u64,
    /// Tables that were made.
    pub tables: u64,
    /// Names, strings and instances that the table now lacks, because they can't be told in DNS or are too many.
    pub left_out: u64,
    /// The revision that is served now.
    pub revision: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The same, counted by many threads.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64),* }

        impl Counters {
            pub(crate) fn now(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed)),* }
            }

            /// Adds what one thread counted.
            pub(crate) fn add(&self, counts: &Counts) {
                $(if counts.$name != 0 { self.$name.fetch_add(counts.$name, Ordering::Relaxed); })*
            }
        }
    };
}

counters!(
    udp_queries,
    tcp_queries,
    tcp_connections,
    malformed,
    refused,
    truncated,
    forwarded,
    forwarding_failed,
    tables,
    left_out,
    revision
);

impl Counters {
    pub(crate) fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
