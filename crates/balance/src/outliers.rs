//! Putting aside instances that fail more than the others.

use std::time::Duration;

use crate::{Member, Time};

/// When an instance is ejected for a time because of how its calls end (spec P-8). The defaults are Envoy's.
///
/// Source: Envoy's *outlier detection*, by consecutive failures and by success rate. Ejected for the n-th time in a row, an
/// instance is away for n times [`ejection`](Self::ejection); each interval that it gets through takes one off.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierSettings {
    /// So many failures in a row eject at once; 0: never. 5.
    pub failures_in_a_row: u32,
    /// How often success rates are compared. 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts. 30 s.
    pub ejection: Duration,
    /// The longest that any lasts. 300 s.
    pub longest_ejection: Duration,
    /// At most this part of all instances is ejected at once, but one always may be. 0.1.
    pub most_ejected: f64,
    /// A success rate counts if so many calls ended in the interval. 100.
    pub rate_calls: u32,
    /// Rates are compared if so many instances have one that counts; 0: never. 5.
    pub rate_instances: u32,
    /// A rate lower than the mean by more than so many standard deviations ejects. 1.9.
    pub rate_deviations: f64,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        OutlierSettings {
            failures_in_a_row: 5,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            longest_ejection: Duration::from_secs(300),
            most_ejected: 0.1,
            rate_calls: 100,
            rate_instances: 5,
            rate_deviations: 1.9,
        }
    }
}

/// One instance's record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    /// Until when it is ejected.
    pub(crate) until: Option<Time>,
    times: u32,
}

impl OutlierSettings {
    /// How many of `count` may be ejected at once.
    pub(crate) fn most(&self, count: usize) -> usize {
        ((count as f64 * self.most_ejected) as usize).max(1)
    }

    pub(crate) fn eject(&self, record: &mut Record, now: Time) {
        record.times = record.times.saturating_add(1);
        let lasts = self.ejection.saturating_mul(record.times).min(self.longest_ejection.max(self.ejection));
        record.until = Some(now + lasts);
    }

    /// An interval is over that the instance got through.
    pub(crate) fn got_through(record: &mut Record) {
        record.times = record.times.saturating_sub(1);
    }

    /// Places of those whose success rate since the last time is too far below the mean, worst first.
    pub(crate) fn too_low<'a>(&self, members: impl Iterator<Item = (usize, &'a Member)>) -> Vec<usize> {
        let mut rates: Vec<(f64, usize)> = members
            .filter_map(|(place, member)| {
                let (calls, well) = member.take_counts();
                (calls > 0 && calls >= self.rate_calls).then(|| (f64::from(well) / f64::from(calls), place))
            })
            .collect();
        if self.rate_instances == 0 || rates.len() < self.rate_instances as usize {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(rate, _)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(rate, _)| (rate - mean).powi(2)).sum::<f64>() / count;
        let lowest = mean - self.rate_deviations * variance.sqrt();
        rates.retain(|(rate, _)| *rate < lowest);
        rates.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        rates.into_iter().map(|(_, place)| place).collect()
    }
}
