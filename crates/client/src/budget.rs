//! How many retries a client may make, so that a cell in trouble gets less work from it and not more.

use tokio::time::Instant;

/// Tokens that may be saved up: each call of a full window once.
const MOST: u64 = 4096 * TOKEN;
/// A token in hundredths, so that a call can earn a part of one.
const TOKEN: u64 = 100;
/// What each completed call earns: in the long run one retry for five calls.
const EARNED_PER_CALL: u64 = 20;
/// What a second earns: ten retries, so that a quiet client is not stuck.
const EARNED_PER_SECOND: u64 = 10 * TOKEN;

/// A token bucket that calls and time fill, and retries empty.
pub(crate) struct RetryBudget {
    hundredths: u64,
    filled: Instant,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { hundredths: MOST, filled: now }
    }

    /// A call was completed.
    pub(crate) fn earn(&mut self) {
        self.hundredths = (self.hundredths + EARNED_PER_CALL).min(MOST);
    }

    /// Takes what one retry costs; `false` when the budget is spent.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_millis();
        let earned = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_mul(EARNED_PER_SECOND) / 1000;
        if earned > 0 {
            self.hundredths = self.hundredths.saturating_add(earned).min(MOST);
            self.filled = now;
        }
        if self.hundredths < TOKEN {
            return false;
        }
        self.hundredths -= TOKEN;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retries_are_bounded_by_calls_and_time() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        for _ in 0..4096 {
            assert!(budget.take(start));
        }
        assert!(!budget.take(start), "spent");
        for _ in 0..5 {
            budget.earn();
        }
        assert!(budget.take(start), "five calls earn one retry");
        assert!(!budget.take(start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 10, "a second earns ten");
    }
}
