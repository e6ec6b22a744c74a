//! Whether and when a failed call is tried again, and how long each try may take.

use std::time::Duration;

use crate::{Chance, RetryBudget, Time};

/// How a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrySettings {
    /// So many tries at most, the first among them. 3.
    pub tries: u32,
    /// Each may take so long. 1 s: set it to some times of what the calls take.
    pub each: Duration,
    /// Before the second try comes a random pause up to this, before the next up to twice as much, and so on. Envoy's
    /// default: 25 ms. Zero: no pause, which is right if another instance is tried and that is likely to work.
    pub first_pause: Duration,
    /// No pause is longer. Envoy's default: 250 ms.
    pub longest_pause: Duration,
}

impl Default for TrySettings {
    fn default() -> Self {
        TrySettings {
            tries: 3,
            each: Duration::from_secs(1),
            first_pause: Duration::from_millis(25),
            longest_pause: Duration::from_millis(250),
        }
    }
}

/// One call's tries (spec P-8): decisions alone. Ask for another only if the call may be done twice.
///
/// Source of the pauses: Brooker, *Exponential backoff and jitter*, AWS 2015 ("full jitter").
#[derive(Clone, Copy, Debug)]
pub struct Tries {
    settings: TrySettings,
    made: u32,
    deadline: Time,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Not before.
    pub begin: Time,
    /// The try has failed if there is no answer by then.
    pub deadline: Time,
}

/// Why a call is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveUp {
    /// It was tried as often as it may be.
    #[error("the call failed in all of its {tries} tries: look at the last try's error")]
    Tries {
        /// So often.
        tries: u32,
    },
    /// Its time is over, or would be before the next try began.
    #[error("the call's deadline is over: give it more time, or look at why its tries failed")]
    Deadline,
    /// Too many calls are retried already.
    #[error(
        "the call failed, and was not tried again: the budget for retries is spent, so the service seems to fail as a whole"
    )]
    Budget,
}

impl Tries {
    /// A call that must end by `deadline`. Tell the budget too ([`RetryBudget::earn`]).
    pub fn of_call(settings: TrySettings, deadline: Time) -> Self {
        Tries { settings, made: 1, deadline }
    }

    /// The deadline of a try that begins at `begin`.
    pub fn deadline(&self, begin: Time) -> Time {
        (begin + self.settings.each).min(self.deadline)
    }

    /// A try failed. Whether there is another, and when.
    ///
    /// # Errors
    ///
    /// If the tries, the time or the budget are spent.
    pub fn again(&mut self, now: Time, budget: &RetryBudget, chance: &Chance) -> Result<Retry, GiveUp> {
        if self.made >= self.settings.tries {
            return Err(GiveUp::Tries { tries: self.made });
        }
        let begin = now + self.pause(chance);
        if begin >= self.deadline {
            return Err(GiveUp::Deadline);
        }
        if !budget.take(now) {
            return Err(GiveUp::Budget);
        }
        self.made += 1;
        Ok(Retry { begin, deadline: self.deadline(begin) })
    }

    fn pause(&self, chance: &Chance) -> Duration {
        let doublings = (self.made - 1).min(31);
        let most = self.settings.first_pause.saturating_mul(1 << doublings).min(self.settings.longest_pause);
        Duration::from_nanos(chance.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BudgetSettings;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn budget() -> RetryBudget {
        RetryBudget::new(BudgetSettings::default())
    }

    /// Spec P-8.
    #[test]
    fn each_try_has_its_deadline_and_there_are_so_many() {
        let (budget, chance) = (budget(), Chance::seeded(1));
        let mut tries = Tries::of_call(TrySettings::default(), at(2_500));
        assert_eq!(tries.deadline(at(0)), at(1_000));
        let second = tries.again(at(1_000), &budget, &chance).unwrap();
        assert!(second.begin >= at(1_000) && second.begin < at(1_025));
        assert_eq!(second.deadline, second.begin + Duration::from_secs(1));
        let third = tries.again(at(2_030), &budget, &chance).unwrap();
        assert!(third.begin < at(2_080));
        assert_eq!(third.deadline, at(2_500), "the call's own");
        assert_eq!(tries.again(at(2_400), &budget, &chance), Err(GiveUp::Tries { tries: 3 }));
    }

    #[test]
    fn time_and_budget_end_it() {
        let (budget, chance) = (budget(), Chance::seeded(1));
        let mut tries = Tries::of_call(TrySettings::default(), at(100));
        assert_eq!(tries.again(at(100), &budget, &chance), Err(GiveUp::Deadline));
        while budget.take(at(0)) {}
        assert_eq!(tries.again(at(10), &budget, &chance), Err(GiveUp::Budget));
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let chance = Chance::seeded(1);
        let longest = |made| {
            let tries = Tries { made, ..Tries::of_call(TrySettings::default(), Time::NEVER) };
            (0..1_000).map(|_| tries.pause(&chance)).max().unwrap().as_secs_f64() * 1e3
        };
        for (made, most) in [(1, 25.0), (2, 50.0), (3, 100.0), (5, 250.0), (u32::MAX, 250.0)] {
            assert!((most * 0.98..most).contains(&longest(made)), "{made}");
        }
    }
}
