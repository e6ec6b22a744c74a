//! Instances with queues, callers with balancers, and time that is only a number.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bramah_balance::{Ask, Balancer, Call, Chance, Instance, Outcome, PickError, Settings, Time};
use hdrhistogram::Histogram;

/// What calls take on the mean at an instance that is well.
const SERVICE: Duration = Duration::from_millis(10);
/// A failing instance fails after so long, whatever waits.
const FAILS_AFTER: Duration = Duration::from_micros(100);
/// A slow instance, and one that just began, takes so many times as long.
const SLOWER: f64 = 10.0;
/// A cold instance is as fast as the others after so long.
const WARM_AFTER: Duration = Duration::from_secs(30);
/// Longer latencies count as so long.
const HOUR_US: u64 = 3_600_000_000;
/// A queue of so much work at the end is one that grows.
const LONG_QUEUE: Duration = Duration::from_secs(5);

/// What is wrong with the last tenth of the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing.
    None,
    /// It is ten times slower.
    Slow,
    /// Each call fails at once.
    Failing,
    /// It comes when measuring begins, ten times slower, and gets as fast as the others in half a minute.
    Cold,
}

/// One simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) instances: usize,
    /// Each sees its own calls alone.
    pub(crate) callers: usize,
    pub(crate) trouble: Trouble,
    /// Calls come so often, in parts of what all instances could do if all were well.
    pub(crate) load: f64,
    /// Measuring begins then,
    pub(crate) from: Duration,
    /// and ends then.
    pub(crate) to: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// p50, p99 and p99.9 of answers, in units of the mean service time.
    pub(crate) latency: [f64; 3],
    /// The part of all calls that went to instances with trouble.
    pub(crate) share: f64,
    /// Whether a queue has no end.
    pub(crate) grows: bool,
}

struct World {
    run: Run,
    chance: Chance,
    balancers: Vec<Balancer>,
    /// When each instance has done all that waits there.
    free_at: Vec<Time>,
    ends: BinaryHeap<Reverse<End>>,
    latencies: Histogram<u64>,
    calls: u64,
    troubled: u64,
}

#[derive(Debug)]
struct End {
    at: Time,
    number: u64,
    call: Call,
    outcome: Outcome,
}

impl Run {
    /// The same settings for each caller, but other seeds.
    pub(crate) fn measure(
        self,
        seed: u64,
        settings: impl Fn(u64) -> Settings,
    ) -> Result<Measured, PickError> {
        let chance = Chance::seeded(seed);
        let balancers: Vec<Balancer> =
            (0..self.callers).map(|_| Balancer::new(settings(chance.next()), Time::ZERO)).collect();
        let mut world = World {
            run: self,
            chance,
            balancers,
            free_at: vec![Time::ZERO; self.instances],
            ends: BinaryHeap::new(),
            latencies: Histogram::new_with_bounds(1, HOUR_US, 3).expect("these bounds are allowed"),
            calls: 0,
            troubled: 0,
        };
        world.go()?;
        Ok(world.measured())
    }

    /// Instances with numbers from here on have trouble.
    fn first_troubled(self) -> usize {
        if self.trouble == Trouble::None { self.instances } else { self.instances - self.instances / 10 }
    }
}

impl World {
    fn go(&mut self) -> Result<(), PickError> {
        let at_first =
            if self.run.trouble == Trouble::Cold { self.run.first_troubled() } else { self.run.instances };
        self.update(Time::ZERO, at_first);
        let (from, to) = (Time::ZERO + self.run.from, Time::ZERO + self.run.to);
        let pause = SERVICE.as_secs_f64() / (self.run.instances as f64 * self.run.load);
        let mut now = Time::ZERO;
        let mut joined = false;
        for number in 0.. {
            now = now + Duration::from_secs_f64(self.exponential(pause));
            if now >= to {
                break;
            }
            if now >= from && !joined {
                joined = true;
                self.update(from, self.run.instances);
            }
            self.end_until(now);
            self.call(now, number, now >= from)?;
        }
        Ok(())
    }

    fn update(&self, now: Time, count: usize) {
        for balancer in &self.balancers {
            balancer.update(now, (0..count).map(|number| Instance::new(format!("{number:04}"))));
        }
    }

    fn call(&mut self, now: Time, number: u64, counts: bool) -> Result<(), PickError> {
        let caller = self.chance.below(self.balancers.len() as u64) as usize;
        let key = Some(self.chance.next());
        let call = self.balancers[caller].pick(&Ask { key, ..Ask::at(now) })?;
        let instance: usize = call.id().parse().expect("instances are numbers");
        let troubled = instance >= self.run.first_troubled();
        let fails = troubled && self.run.trouble == Trouble::Failing;
        let at = if fails { now + FAILS_AFTER } else { self.serve(instance, troubled, now) };
        if counts {
            self.calls += 1;
            self.troubled += u64::from(troubled);
            if !fails {
                self.latencies.saturating_record(at.since(now).as_micros() as u64);
            }
        }
        let outcome = if fails { Outcome::Failure } else { Outcome::Success };
        self.ends.push(Reverse(End { at, number, call, outcome }));
        Ok(())
    }

    /// One call at a time, in the order in which they come.
    fn serve(&mut self, instance: usize, troubled: bool, now: Time) -> Time {
        let slower = match self.run.trouble {
            Trouble::Slow if troubled => SLOWER,
            Trouble::Cold if troubled => {
                let warm = now.since(Time::ZERO + self.run.from).as_secs_f64() / WARM_AFTER.as_secs_f64();
                SLOWER - (SLOWER - 1.0) * warm.min(1.0)
            }
            _ => 1.0,
        };
        let service = Duration::from_secs_f64(self.exponential(SERVICE.as_secs_f64() * slower));
        self.free_at[instance] = self.free_at[instance].max(now) + service;
        self.free_at[instance]
    }

    fn end_until(&mut self, now: Time) {
        while self.ends.peek().is_some_and(|Reverse(end)| end.at <= now) {
            if let Some(Reverse(end)) = self.ends.pop() {
                end.call.end(end.at, end.outcome);
            }
        }
    }

    fn exponential(&self, mean: f64) -> f64 {
        -(1.0 - self.chance.fraction()).ln() * mean
    }

    fn measured(&self) -> Measured {
        let unit = SERVICE.as_micros() as f64;
        let end = Time::ZERO + self.run.to;
        Measured {
            latency: [0.5, 0.99, 0.999].map(|part| self.latencies.value_at_quantile(part) as f64 / unit),
            share: self.troubled as f64 / self.calls.max(1) as f64,
            grows: self.free_at.iter().any(|free_at| free_at.since(end) > LONG_QUEUE),
        }
    }
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
