//! How many retries there may be.

use std::time::Duration;

use parking_lot::Mutex;

use crate::Time;

/// How much a budget gives. The defaults are Finagle's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetSettings {
    /// Retries for each call. 0.2.
    pub per_call: f64,
    /// Retries a second besides, so that a caller with few calls may retry at all. 10.
    pub per_second: f64,
    /// Calls and retries are forgotten after so long. 10 s.
    pub window: Duration,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        BudgetSettings { per_call: 0.2, per_second: 10.0, window: Duration::from_secs(10) }
    }
}

/// Retries in proportion to calls (spec P-8), so that a service which fails as a whole is not asked several times as
/// often for it.
///
/// Source: Finagle's `RetryBudget`: within any window there are at most `per_call` retries a call, and `per_second` a second
/// besides. A lock is held for some nanoseconds.
#[derive(Debug)]
pub struct RetryBudget {
    settings: BudgetSettings,
    window: Mutex<Window>,
}

/// The window moves in so many steps.
const STEPS: usize = 10;
/// Parts of a retry that are counted.
const RETRY: f64 = 1_000_000.0;
/// More parts than anyone needs, and few enough that sums of them don't overflow.
const MOST: f64 = 1e15;

/// What each step added, and retries took from it.
#[derive(Debug, Default)]
struct Window {
    steps: [i64; STEPS],
    /// Steps since the beginning of time.
    step: u64,
}

impl RetryBudget {
    /// What `per_second` gives in a window is there at once.
    pub fn new(settings: BudgetSettings) -> Self {
        RetryBudget { settings, window: Mutex::default() }
    }

    /// A call is made, the first try of it.
    pub fn earn(&self, now: Time) {
        let mut window = self.window.lock();
        let step = window.at(now, self.settings.window);
        *step = (*step + parts(self.settings.per_call)).min(MOST as i64);
    }

    /// Takes what one retry costs; `false` if there is not so much.
    pub fn take(&self, now: Time) -> bool {
        let reserve = parts(self.settings.per_second * self.settings.window.as_secs_f64());
        let mut window = self.window.lock();
        let step = window.at(now, self.settings.window);
        *step -= RETRY as i64;
        let enough = window.steps.iter().sum::<i64>() + reserve >= 0;
        if !enough {
            *window.at(now, self.settings.window) += RETRY as i64;
        }
        enough
    }
}

fn parts(retries: f64) -> i64 {
    (retries * RETRY).clamp(0.0, MOST) as i64
}

impl Window {
    /// This step's sum, when those that are over are forgotten.
    fn at(&mut self, now: Time, window: Duration) -> &mut i64 {
        let length = u64::try_from(window.as_nanos() / STEPS as u128).unwrap_or(u64::MAX).max(1);
        let step = (now.nanos() / length).max(self.step);
        for ahead in 1..=(step - self.step).min(STEPS as u64) {
            self.steps[((self.step + ahead) % STEPS as u64) as usize] = 0;
        }
        self.step = step;
        &mut self.steps[(step % STEPS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(1_000_000_000_000) + Duration::from_millis(ms)
    }

    fn taken(budget: &RetryBudget, now: Time) -> usize {
        (0..10_000).take_while(|_| budget.take(now)).count()
    }

    /// Spec P-8.
    #[test]
    fn retries_are_a_part_of_the_calls_and_some_more() {
        let budget = RetryBudget::new(BudgetSettings::default());
        assert_eq!(taken(&budget, at(0)), 100, "10 a second for a window of 10 s");
        (0..1_000).for_each(|_| budget.earn(at(0)));
        assert_eq!(taken(&budget, at(0)), 200, "20 %");
        assert_eq!(taken(&budget, at(8_000)), 0, "all of it is in the window");
        assert_eq!(taken(&budget, at(10_000)), 100, "what was taken is forgotten as well as what was earned");
    }

    #[test]
    fn what_was_earned_is_forgotten() {
        let budget = RetryBudget::new(BudgetSettings { per_second: 0.0, ..BudgetSettings::default() });
        (0..1_000).for_each(|_| budget.earn(at(0)));
        assert!(budget.take(at(8_000)));
        assert_eq!(taken(&budget, at(11_000)), 0);
    }

    /// Calls all fail: for each 1,000 there are 1,200 tries and those 10 a second.
    #[test]
    fn an_outage_makes_no_storm_of_retries() {
        let budget = RetryBudget::new(BudgetSettings::default());
        let mut retries = 0;
        for ms in 0..60_000 {
            budget.earn(at(ms));
            retries += u64::from(budget.take(at(ms)));
        }
        let share = retries as f64 / 60_000.0;
        assert!((0.2..0.22).contains(&share), "{share}: 200 and 10 a second of 1,000");
    }

    #[test]
    fn clocks_and_settings_at_their_ends_are_no_trouble() {
        let budget = RetryBudget::new(BudgetSettings { window: Duration::ZERO, ..BudgetSettings::default() });
        budget.earn(Time::NEVER);
        budget.take(Time::ZERO);
        let lavish = BudgetSettings { per_call: f64::INFINITY, per_second: f64::NAN, window: Duration::MAX };
        let budget = RetryBudget::new(lavish);
        (0..10).for_each(|_| budget.earn(Time::NEVER));
        assert!(budget.take(Time::NEVER));
    }
}
