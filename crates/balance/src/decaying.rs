//! A number that fades with time, which many threads change at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::Time;

/// Bits of a nanosecond clock that are left out: time is told in steps of 65.5 µs.
const COARSE: u32 = 16;

/// A number that falls to 1/e of itself in each decay time.
///
/// The number and when it was written, both of 32 bits, are one word, so that a compare-and-swap changes them together. The
/// clock of 32 bits comes round after 78 h: a number that nobody touched for so long may count once more.
#[derive(Debug, Default)]
pub(crate) struct Decaying(AtomicU64);

impl Decaying {
    /// The number now.
    pub(crate) fn get(&self, now: Time, decay: Duration) -> f32 {
        faded(self.0.load(Relaxed), now, decay)
    }

    /// Adds `amount`, which fades from now on.
    pub(crate) fn add(&self, now: Time, amount: f32, decay: Duration) {
        self.change(now, |word| faded(word, now, decay) + amount);
    }

    /// Brings the number nearer to `sample`, the more the longer nothing was heard; a greater sample replaces it at once.
    ///
    /// This is the peak-sensitive moving average of Finagle's `PeakEwma`.
    pub(crate) fn peak(&self, now: Time, sample: f32, decay: Duration) {
        self.change(now, |word| {
            let (value, _) = unpacked(word);
            let kept = fading(word, now, decay);
            if sample > value * kept { sample } else { value * kept + sample * (1.0 - kept) }
        });
    }

    /// Replaces the number if `sample` is greater.
    pub(crate) fn raise(&self, now: Time, sample: f32, decay: Duration) {
        self.change(now, |word| faded(word, now, decay).max(sample));
    }

    fn change(&self, now: Time, new: impl Fn(u64) -> f32) {
        let change = |word| {
            let (_, written) = unpacked(word);
            // A thread whose clock is behind must not make the number older than it is.
            let written = if behind(word, now) { written } else { tick(now) };
            Some(packed(new(word), written))
        };
        self.0.fetch_update(Relaxed, Relaxed, change).ok();
    }
}

fn tick(now: Time) -> u32 {
    (now.nanos() >> COARSE) as u32
}

fn packed(value: f32, written: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(written)
}

fn unpacked(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

fn behind(word: u64, now: Time) -> bool {
    tick(now).wrapping_sub(unpacked(word).1) > u32::MAX / 2
}

fn faded(word: u64, now: Time, decay: Duration) -> f32 {
    let (value, _) = unpacked(word);
    if value == 0.0 { 0.0 } else { value * fading(word, now, decay) }
}

/// What is left of 1 since the word was written.
fn fading(word: u64, now: Time, decay: Duration) -> f32 {
    let elapsed = tick(now).wrapping_sub(unpacked(word).1);
    if elapsed == 0 || behind(word, now) {
        return 1.0;
    }
    let elapsed_nanos = u64::from(elapsed) << COARSE;
    (-(elapsed_nanos as f64 / decay.as_nanos().max(1) as f64) as f32).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_number_fades_by_e_in_its_decay_time() {
        let number = Decaying::default();
        number.add(at(0), 8.0, DECAY);
        assert_eq!(number.get(at(0), DECAY), 8.0);
        assert!((number.get(at(10_000), DECAY) - 8.0 / std::f32::consts::E).abs() < 0.001);
        number.add(at(10_000), 1.0, DECAY);
        assert!((number.get(at(10_000), DECAY) - 3.943).abs() < 0.001);
    }

    #[test]
    fn peaks_count_at_once_and_lower_samples_by_and_by() {
        let average = Decaying::default();
        average.peak(at(1), 5.0, DECAY);
        average.peak(at(2), 50.0, DECAY);
        assert_eq!(average.get(at(2), DECAY), 50.0);
        average.peak(at(1_002), 5.0, DECAY);
        let after = average.get(at(1_002), DECAY);
        assert!((45.0..46.0).contains(&after), "{after}");
        average.raise(at(1_002), 7.0, DECAY);
        assert_eq!(average.get(at(1_002), DECAY), after, "raising never lowers");
    }

    #[test]
    fn frequent_samples_move_the_average_as_rare_ones_do() {
        let average = Decaying::default();
        average.peak(at(0), 100.0, DECAY);
        // 20 s of samples 10 µs apart, which is less than the clock's step.
        for sample in 0..2_000_000_u64 {
            average.peak(Time::from_nanos(sample * 10_000), 10.0, DECAY);
        }
        let after = average.get(at(20_000), DECAY);
        assert!((after - (10.0 + 90.0 * (-2.0_f32).exp())).abs() < 0.5, "{after}");
    }

    #[test]
    fn a_clock_that_is_behind_changes_nothing_but_what_is_added() {
        let number = Decaying::default();
        number.add(at(1_000), 4.0, DECAY);
        assert_eq!(number.get(at(0), DECAY), 4.0);
        number.add(at(0), 1.0, DECAY);
        assert_eq!(number.get(at(1_000), DECAY), 5.0);
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        let number = Decaying::default();
        number.add(Time::NEVER, 4.0, Duration::ZERO);
        assert!(number.get(Time::NEVER, Duration::ZERO).is_finite());
        assert!(number.get(Time::ZERO, Duration::MAX).is_finite());
    }
}
