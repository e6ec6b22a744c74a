//! What surrounds a policy: changes of the set, health, ejection, warming up, panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::member::{Rules, Tally};
use crate::outliers::Record;
use crate::policy::Automatic;
use crate::{Ask, Instance, LoadSettings, Member, Outcome, OutlierSettings, Policy, Set, SlowStart, Time};

/// A balancer's settings.
#[derive(Debug)]
pub struct Settings {
    /// Who picks. By default [`default_policy`](crate::default_policy) for as many as there are.
    pub policy: Box<dyn Policy>,
    /// How load is judged.
    pub load: LoadSettings,
    /// When outliers are ejected; `None`: never.
    pub outliers: Option<OutlierSettings>,
    /// How instances warm up that are new, or healthy again, or were ejected. Those of the first set are taken as warm: if
    /// all are cold, none can be spared.
    pub slow_start: SlowStart,
    /// If less than this part of the instances is healthy and not ejected, all are used (spec P-8): it's likelier that
    /// the checks are wrong, and the few that are left would drown. Envoy's default: 0.5. 0: never.
    pub panic_below: f64,
    /// Whether a pick does what time demands, such as to end an ejection. It takes time in proportion to the set, and for
    /// tables of consistent hashing a lot of it; set it to false if a thread of yours calls [`Balancer::maintain`].
    pub picks_maintain: bool,
}

/// Every caller wants a seed of its own: `Settings::seeded`. The default's is 0.
impl Default for Settings {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Settings {
    /// The defaults, with this seed for the policy.
    pub fn seeded(seed: u64) -> Self {
        Self::with(Automatic::seeded(seed))
    }

    /// The defaults, with this policy.
    pub fn with(policy: impl Policy + 'static) -> Self {
        Settings {
            policy: Box::new(policy),
            load: LoadSettings::default(),
            outliers: Some(OutlierSettings::default()),
            slow_start: SlowStart::default(),
            panic_below: 0.5,
            picks_maintain: true,
        }
    }
}

/// Why nobody was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// There are no instances.
    #[error("no instance to send this call to: the service has none; wait until one registers")]
    NoInstances,
    /// All instances have weight 0.
    #[error(
        "no instance to send this call to: all {count} of the service are being drained (weight 0); \
         give one a weight, or wait until another registers"
    )]
    AllDrained {
        /// So many there are.
        count: usize,
    },
    /// Only unhealthy and ejected instances are there, and the panic threshold is 0.
    #[error(
        "no instance to send this call to: all {count} of the service are unhealthy or ejected; \
         try again later, or set a panic threshold to use them all the same"
    )]
    NoneHealthy {
        /// So many there are.
        count: usize,
    },
}

/// Picks instances of a service that comes and goes.
///
/// A pick reads the set without a lock. What is decided by time, such as the end of an ejection, is done by a pick that
/// comes after it, or by [`maintain`](Self::maintain); other picks meanwhile use the set from before.
#[derive(Debug)]
pub struct Balancer {
    rules: Arc<Rules>,
    outliers: Option<OutlierSettings>,
    panic_below: f64,
    picks_maintain: bool,
    view: ArcSwap<View>,
    keeper: Mutex<Keeper>,
}

/// What picks see.
#[derive(Debug)]
struct View {
    set: Arc<Set>,
    policy: Box<dyn Policy>,
    why_none: PickError,
    panics: bool,
}

/// What is changed, one thread at a time, to make the next view.
#[derive(Debug)]
struct Keeper {
    /// In the order of names.
    known: Vec<Known>,
    tallies: BTreeMap<Arc<str>, Arc<Tally>>,
    begun: bool,
    next_interval: Time,
    /// A view takes time in proportion to the instances, so at most so often a new one is made.
    not_before: Time,
}

#[derive(Clone, Debug)]
struct Known {
    instance: Instance,
    member: Arc<Member>,
    record: Record,
}

/// The time between two views is at least so long for each instance. To make one takes about a third of it, with a policy that
/// has no table.
const VIEW_PER_INSTANCE: Duration = Duration::from_micros(1);
/// So often another is picked for a call that should avoid the first.
const OTHERS: u32 = 3;

impl Balancer {
    /// A balancer of no instances yet.
    pub fn new(settings: Settings, now: Time) -> Self {
        let in_a_row = settings.outliers.as_ref().map_or(0, |outliers| outliers.failures_in_a_row);
        let rules = Arc::new(Rules::new(settings.load, settings.slow_start, in_a_row));
        let interval = settings.outliers.as_ref().map(|outliers| outliers.interval);
        let keeper = Keeper {
            known: Vec::new(),
            tallies: BTreeMap::new(),
            begun: false,
            next_interval: interval.map_or(Time::NEVER, |interval| now + interval),
            not_before: Time::ZERO,
        };
        let view = View {
            set: Arc::default(),
            policy: settings.policy,
            why_none: PickError::NoInstances,
            panics: false,
        };
        Balancer {
            rules,
            outliers: settings.outliers,
            panic_below: settings.panic_below,
            picks_maintain: settings.picks_maintain,
            view: ArcSwap::from_pointee(view),
            keeper: Mutex::new(keeper),
        }
    }

    /// These are the instances from now on. Those that were there before keep their state: calls in flight, latency,
    /// ejection. Of instances of the same name the last counts.
    pub fn update(&self, now: Time, instances: impl IntoIterator<Item = Instance>) {
        let instances: BTreeMap<Arc<str>, Instance> =
            instances.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
        let mut keeper = self.keeper.lock();
        let mut before: BTreeMap<Arc<str>, Known> =
            keeper.known.drain(..).map(|known| (known.instance.id.clone(), known)).collect();
        let begun = std::mem::replace(&mut keeper.begun, true);
        for (id, instance) in instances {
            let known = match before.remove(&id).filter(|known| known.instance.zone == instance.zone) {
                Some(known) => known.updated(instance, now),
                None => self.newcomer(&mut keeper, instance, begun, now),
            };
            keeper.known.push(known);
        }
        self.turn(&mut keeper, now);
        self.show(&mut keeper, now);
    }

    fn newcomer(&self, keeper: &mut Keeper, instance: Instance, warm_up: bool, now: Time) -> Known {
        let tally = keeper.tallies.entry(instance.zone.clone()).or_default().clone();
        let member = Arc::new(Member::new(&instance, self.rules.clone(), tally));
        if warm_up {
            member.begin_anew(now);
        }
        Known { instance, member, record: Record::default() }
    }

    /// Picks an instance for a call, which begins now. Drop what comes back if the call is not made.
    ///
    /// # Errors
    ///
    /// If there is no instance that may be used; the error says why.
    pub fn pick(&self, ask: &Ask<'_>) -> Result<Call, PickError> {
        if self.picks_maintain && ask.now.nanos() >= self.rules.due.load(Relaxed) {
            self.maintain(ask.now);
        }
        let view = self.view.load();
        let place = view.policy.pick(ask).ok_or(view.why_none)?;
        let call = Call::begun(&view.set, place, ask.now);
        Ok(if ask.avoids(&call.member) { another(&view, ask, call) } else { call })
    }

    /// Does what time demands, if anything. Picks do it too, unless [told otherwise](Settings::picks_maintain). Gives back when it is
    /// wanted next; a failing instance may want it earlier, so come back every 100 ms or so.
    pub fn maintain(&self, now: Time) -> Time {
        let due = Time::from_nanos(self.rules.due.load(Relaxed));
        let Some(mut keeper) = self.keeper.try_lock() else { return due };
        if now < due {
            return due;
        }
        if now < keeper.not_before {
            self.rules.due.store(keeper.not_before.nanos(), Relaxed);
            return keeper.not_before;
        }
        if self.turn(&mut keeper, now) {
            self.show(&mut keeper, now);
        }
        Time::from_nanos(self.rules.due.load(Relaxed))
    }

    /// The instances that may be picked now.
    pub fn set(&self) -> Arc<Set> {
        self.view.load().set.clone()
    }

    /// Whether so few instances are well that all are used.
    pub fn panics(&self) -> bool {
        self.view.load().panics
    }

    /// The names of the instances that are ejected.
    pub fn ejected(&self) -> Vec<Arc<str>> {
        let keeper = self.keeper.lock();
        let ejected = keeper.known.iter().filter(|known| known.record.until.is_some());
        ejected.map(|known| known.instance.id.clone()).collect()
    }

    /// Ends and begins ejections, and says when to look next. Whether picks have to see something new.
    fn turn(&self, keeper: &mut Keeper, now: Time) -> bool {
        // Before members are looked at: one that is condemned after that sets it again.
        self.rules.due.store(u64::MAX, Relaxed);
        let mut changed = self.view.load().set.is_warming();
        if let Some(outliers) = &self.outliers {
            changed |= keeper.readmit(now);
            changed |= keeper.eject_condemned(outliers, now);
            if now >= keeper.next_interval {
                keeper.next_interval = now + outliers.interval;
                changed |= keeper.compare_rates(outliers, now);
            }
        }
        self.rules.due.fetch_min(keeper.next(now).nanos(), Relaxed);
        changed
    }

    /// Makes the view that picks see from now on.
    fn show(&self, keeper: &mut Keeper, now: Time) {
        let before = self.view.load();
        let weighty = || keeper.known.iter().filter(|known| known.instance.weight > 0);
        let count = weighty().count();
        let well = weighty().filter(|known| known.is_well()).count();
        let panics = (well as f64) < count as f64 * self.panic_below;
        let picked = weighty().filter(|known| panics || known.is_well());
        let members = picked.map(|known| (known.member.clone(), known.instance.weight));
        let mut registered = BTreeMap::new();
        for known in weighty() {
            *registered.entry(known.instance.zone.clone()).or_insert(0) += u64::from(known.instance.weight);
        }
        let set = Arc::new(Set::of(members, registered, now));
        let why_none = match (keeper.known.len(), count) {
            (0, _) => PickError::NoInstances,
            (count, 0) => PickError::AllDrained { count },
            (_, count) => PickError::NoneHealthy { count },
        };
        let policy = before.policy.over(&set);
        self.view.store(Arc::new(View { set, policy, why_none, panics }));
        keeper.not_before = now + VIEW_PER_INSTANCE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        keeper.forget_zones();
    }
}

/// Another than the one to be avoided, if there is one. Its call stays begun meanwhile, so that policies which look at calls
/// in flight turn elsewhere.
fn another(view: &View, ask: &Ask<'_>, first: Call) -> Call {
    let mut avoided = vec![first];
    for _ in 0..OTHERS {
        let Some(place) = view.policy.pick(ask) else { break };
        let call = Call::begun(&view.set, place, ask.now);
        if !ask.avoids(&call.member) {
            return call;
        }
        avoided.push(call);
    }
    match (0..view.set.len()).find(|&place| !ask.avoids(&view.set[place])) {
        Some(place) => {
            view.set[place].begin();
            Call::begun(&view.set, place, ask.now)
        }
        None => avoided.swap_remove(0),
    }
}

impl Known {
    fn updated(self, instance: Instance, now: Time) -> Known {
        if instance.healthy && !self.instance.healthy {
            self.member.begin_anew(now);
        }
        Known { instance, ..self }
    }

    fn is_well(&self) -> bool {
        self.instance.healthy && self.record.until.is_none()
    }
}

impl Keeper {
    fn readmit(&mut self, now: Time) -> bool {
        let mut changed = false;
        for known in &mut self.known {
            if known.record.until.take_if(|until| *until <= now).is_some() {
                known.member.begin_anew(now);
                changed = true;
            }
        }
        changed
    }

    fn eject_condemned(&mut self, outliers: &OutlierSettings, now: Time) -> bool {
        let condemned: Vec<usize> =
            (0..self.known.len()).filter(|&place| self.known[place].member.take_condemned()).collect();
        self.eject(outliers, condemned, now)
    }

    fn compare_rates(&mut self, outliers: &OutlierSettings, now: Time) -> bool {
        for known in self.known.iter_mut().filter(|known| known.record.until.is_none()) {
            OutlierSettings::got_through(&mut known.record);
        }
        let present = self.known.iter().enumerate().filter(|(_, known)| known.is_well());
        let too_low = outliers.too_low(present.map(|(place, known)| (place, &*known.member)));
        self.eject(outliers, too_low, now)
    }

    fn eject(&mut self, outliers: &OutlierSettings, places: Vec<usize>, now: Time) -> bool {
        let away = self.known.iter().filter(|known| known.record.until.is_some()).count();
        let room = outliers.most(self.known.len()).saturating_sub(away);
        let mut ejected = 0;
        for place in places {
            let record = &mut self.known[place].record;
            if ejected < room && record.until.is_none() {
                outliers.eject(record, now);
                ejected += 1;
            }
        }
        ejected > 0
    }

    /// When to look again.
    fn next(&self, now: Time) -> Time {
        let times = self.known.iter().flat_map(|known| [known.record.until, known.member.warm_at(now)]);
        times.flatten().fold(self.next_interval, Time::min)
    }

    fn forget_zones(&mut self) {
        let known = &self.known;
        if self.tallies.len() > known.len() {
            self.tallies.retain(|zone, _| known.iter().any(|known| known.instance.zone == *zone));
        }
    }
}

/// A call that was begun at an instance. It holds no lock, and may outlive the balancer.
#[derive(Debug)]
#[must_use = "a call that is dropped is one that was never made"]
pub struct Call {
    member: Arc<Member>,
    begun: Time,
    ended: bool,
}

impl Call {
    fn begun(set: &Set, place: usize, begun: Time) -> Self {
        Call { member: set.members()[place].clone(), begun, ended: false }
    }

    /// The name of the instance.
    pub fn id(&self) -> &str {
        self.member.id()
    }

    /// The instance.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// When it began.
    pub fn begun_at(&self) -> Time {
        self.begun
    }

    /// The call ended.
    pub fn end(mut self, now: Time, outcome: Outcome) {
        self.ended = true;
        self.member.end(self.begun, now, outcome);
    }
}

/// Nothing is known of a call that nobody ended.
impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.member.forget();
        }
    }
}
