//! The system's randomness, replaced: one seed must give one run, down to the order in which hash maps are walked.
//!
//! Every source of chance in the process, libraries' too, begins with the C library's `getrandom`. A program may
//! define a function of that name itself, and then its own is the one that is linked.

#![allow(unsafe_code, reason = "the only way to name a function as the C library does")]

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0x4272_616d_6168);

/// What follows depends on `seed` alone. To be called before anything else happens.
pub(crate) fn begin(seed: u64) {
    STATE.store(seed ^ 0x4272_616d_6168, Ordering::Relaxed);
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn next() -> u64 {
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// As getrandom(2), without randomness.
///
/// # Safety
/// As getrandom(2): `buffer` must be writable for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller says that the memory is there and may be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
    length as isize
}
