//! A `tower` service that follows a service by name (spec F-1).

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bramah_balance::{
    Ask, Balancer, BudgetSettings, Chance, HedgeSettings, Hedging, Instance, Outcome, RetryBudget, Settings,
    Time, Tries, TrySettings,
};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use tower::{Service, ServiceExt};

use super::call_error::CallError;
use super::connector::{BoxError, Connector, InFlight, Verdict};
use super::follow::Follower;
use super::slot::{Clock, Slot};
use super::snapshot::{Registered, Snapshot};

/// How calls are sent to a service.
#[derive(Debug)]
pub struct CallSettings {
    /// Who is picked, and what is left out; with its own seed for each process, unless you want to see the same picks again.
    pub balancer: Settings,
    /// How often a call is tried, and how long each try may take if it can be tried again.
    pub tries: TrySettings,
    /// How many retries there may be.
    pub budget: BudgetSettings,
    /// Second tries beside the first, for calls that may be done twice. Default: none.
    pub hedging: Option<HedgeSettings>,
    /// How long a call may take in all, until its answer begins. Default: 10 s.
    pub deadline: Duration,
    /// How long a connection to an instance may take. Default: 1 s.
    pub connect: Duration,
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            balancer: Settings::seeded(rand::random()),
            tries: TrySettings { first_pause: Duration::ZERO, ..TrySettings::default() },
            budget: BudgetSettings::default(),
            hedging: None,
            deadline: Duration::from_secs(10),
            connect: Duration::from_secs(1),
        }
    }
}

/// Sends each call to one of a service's instances, as the registry has them at that moment. Clones share all of it.
///
/// * An instance is connected to when it is first picked; the connection goes when the instance does. Calls in flight end as
///   they would.
/// * A call that was certainly not sent is tried elsewhere; one that may have been only if its [`Connector`] says that it
///   [may be repeated](Connector::may_repeat). All retries share a budget.
/// * While the cell is away it goes on with the instances that were known last.
pub struct Balanced<C: Connector<R>, R: Send + 'static> {
    inner: Arc<Inner<C, R>>,
    follow: Arc<Follow>,
}

/// Ends with the last clone.
struct Follow(JoinHandle<()>);

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// By id.
type Slots<S> = HashMap<Arc<str>, Arc<Slot<S>>>;

struct Inner<C: Connector<R>, R> {
    service: Arc<str>,
    connector: C,
    clock: Clock,
    balancer: Balancer,
    slots: RwLock<Slots<C::Service>>,
    tries: TrySettings,
    budget: RetryBudget,
    chance: Chance,
    hedging: Option<Hedging>,
    deadline: Duration,
    connect: Duration,
}

impl<C: Connector<R>, R: Send + 'static> Clone for Balanced<C, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), follow: self.follow.clone() }
    }
}

impl<C: Connector<R>, R: Send + 'static> std::fmt::Debug for Balanced<C, R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { service, balancer, .. } = &*self.inner;
        formatter.debug_struct("Balanced").field("service", service).field("balancer", balancer).finish()
    }
}

impl<C: Connector<R>, R: Send + 'static> Balanced<C, R> {
    /// Calls to `service`, whose instances the follower knows.
    pub fn new(service: &str, follower: Follower, connector: C, settings: CallSettings) -> Self {
        let clock = Clock::start();
        let CallSettings { balancer, tries, budget, hedging, deadline, connect } = settings;
        let inner = Arc::new(Inner {
            service: service.into(),
            connector,
            clock,
            balancer: Balancer::new(balancer, clock.now()),
            slots: RwLock::default(),
            tries,
            budget: RetryBudget::new(budget),
            chance: Chance::seeded(rand::random()),
            hedging: hedging.map(Hedging::new),
            deadline,
            connect,
        });
        inner.take(&follower.snapshot());
        let follow = tokio::spawn(follow(inner.clone(), follower));
        Self { inner, follow: Arc::new(Follow(follow)) }
    }

    /// What picks the instances.
    #[must_use]
    pub fn balancer(&self) -> &Balancer {
        &self.inner.balancer
    }

    /// Sends a call.
    ///
    /// # Errors
    /// [`CallError`] says whether it [may have been done](CallError::may_have_been_done).
    pub async fn send(&self, request: R) -> Result<C::Response, CallError> {
        self.inner.call(request).await
    }
}

impl<C: Connector<R>, R: Send + 'static> Service<R> for Balanced<C, R> {
    type Response = C::Response;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<C::Response, CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move { inner.call(request).await })
    }
}

async fn follow<C: Connector<R>, R: Send + 'static>(inner: Arc<Inner<C, R>>, mut follower: Follower) {
    // The first may have changed since it was taken; to take one twice does no harm.
    inner.take(&follower.snapshot());
    while let Some(snapshot) = follower.changed().await {
        inner.take(&snapshot);
    }
    // The client is closed: what was known last stays.
}

/// A try that had no answer.
struct Failure<R, P> {
    error: CallError,
    /// It was certainly not sent, and here it is again.
    request: Option<R>,
    /// It certainly was not done.
    undone: bool,
    /// An answer that says that it failed, for the caller if nobody else has a better one.
    answer: Option<P>,
}

impl<R, P> Failure<R, P> {
    fn unsent(error: CallError, request: R) -> Self {
        Self { error, request: Some(request), undone: true, answer: None }
    }

    fn lost(error: CallError, undone: bool) -> Self {
        Self { error, request: None, undone, answer: None }
    }
}

type Tried<P, R> = Result<P, Box<Failure<R, P>>>;

/// Who was picked for each try.
#[derive(Default)]
struct Picked(parking_lot::Mutex<Vec<Arc<str>>>);

impl<C: Connector<R>, R: Send + 'static> Inner<C, R> {
    /// These are the instances from now on.
    fn take(&self, snapshot: &Snapshot) {
        let mut slots = self.slots.write();
        slots.retain(|id, slot| snapshot.get(&self.service, id).is_some_and(|now| slot.is_at(now)));
        for registered in snapshot.instances(&self.service) {
            slots.entry(registered.id.clone()).or_insert_with(|| Arc::new(Slot::new(registered.clone())));
        }
        drop(slots);
        let instances = snapshot.instances(&self.service).map(|registered| as_balanced(registered));
        self.balancer.update(self.clock.now(), instances);
    }

    async fn call(&self, mut request: R) -> Result<C::Response, CallError> {
        let begun = self.clock.now();
        let (connector, allowed) = (&self.connector, self.connector.allowed(&request));
        let last = begun + allowed.map_or(self.deadline, |allowed| allowed.min(self.deadline));
        let (may_repeat, key) = (connector.may_repeat(&request), connector.key(&request));
        let mut tries = Tries::of_call(self.tries, last);
        self.budget.earn(begun);
        let mut deadline = if may_repeat { tries.deadline(begun) } else { last };
        let picked = Picked::default();
        loop {
            let spare = connector.copy(&request);
            let hedge = spare.as_ref().filter(|_| may_repeat).and_then(|spare| connector.copy(spare));
            let mut failed = match self.hedged(request, hedge, key, &picked, deadline).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            if matches!(failed.error, CallError::NoInstance { .. }) {
                return failed.give_up(None);
            }
            let again = failed.request.take().or_else(|| spare.filter(|_| may_repeat || failed.undone));
            let Some(next) = again else { return failed.give_up(None) };
            let retry = match tries.again(self.clock.now(), &self.budget, &self.chance) {
                Ok(retry) => retry,
                Err(why) => return failed.give_up(Some(why)),
            };
            tokio::time::sleep_until(self.clock.instant(retry.begin)).await;
            deadline = if may_repeat { retry.deadline } else { last };
            request = next;
        }
    }

    /// One try, and if that takes long and the call may be done twice another beside it.
    async fn hedged(
        &self,
        request: R,
        copy: Option<R>,
        key: Option<u64>,
        picked: &Picked,
        deadline: Time,
    ) -> Tried<C::Response, R> {
        let Some(hedging) = &self.hedging else { return self.attempt(request, key, picked, deadline).await };
        let begun = self.clock.now();
        let second_at = hedging.begin(begun);
        let first = self.attempt(request, key, picked, deadline);
        tokio::pin!(first);
        let result = match copy.zip(second_at) {
            None => first.await,
            Some((copy, at)) => match timeout_at(self.clock.instant(at), &mut first).await {
                Ok(done) => done,
                Err(_) if !hedging.may_send(self.clock.now()) => first.await,
                Err(_) => {
                    let second = self.attempt(copy, key, picked, deadline);
                    tokio::pin!(second);
                    match futures_util::future::select(first, second).await {
                        futures_util::future::Either::Left((Err(_), second)) => second.await,
                        futures_util::future::Either::Right((Err(_), first)) => first.await,
                        either => either.factor_first().0,
                    }
                }
            },
        };
        if result.is_ok() {
            hedging.answered(self.clock.now().since(begun));
        }
        result
    }

    async fn attempt(
        &self,
        request: R,
        key: Option<u64>,
        picked: &Picked,
        deadline: Time,
    ) -> Tried<C::Response, R> {
        let begun = self.clock.now();
        let (call, id) = match self.pick(begun, key, picked) {
            Ok(found) => found,
            Err(error) => return Err(Box::new(Failure::unsent(error, request))),
        };
        let mut service = match self.service_of(&id, deadline).await {
            Ok(Some(service)) => service,
            Ok(None) => {
                call.forget();
                return Err(self.not_sent(&id, "it has just gone".into(), request));
            }
            Err(error) => {
                call.end(Outcome::Failure);
                return Err(self.not_sent(&id, error, request));
            }
        };
        let limit = self.clock.instant(deadline);
        let Ok(answered) = timeout_at(limit, service.call(request)).await else {
            call.end(Outcome::Failure);
            let waited = self.clock.now().since(begun);
            let error =
                CallError::TimedOut { service: self.service.clone(), instance: id, waited, give_up: None };
            return Err(Box::new(Failure::lost(error, false)));
        };
        match answered {
            Ok(response) => self.judged(response, call, &id),
            Err(error) => {
                call.end(Outcome::Failure);
                Err(self.failed(error, &id))
            }
        }
    }

    fn pick(&self, now: Time, key: Option<u64>, picked: &Picked) -> Result<(InFlight, Arc<str>), CallError> {
        let mut before = picked.0.lock();
        let avoid: Vec<&str> = before.iter().map(|id| &**id).collect();
        let call = self.balancer.pick(&Ask { now, key, avoid: &avoid });
        let call = call.map_err(|source| CallError::NoInstance { service: self.service.clone(), source })?;
        let id: Arc<str> = call.id().into();
        before.push(id.clone());
        Ok((InFlight::new(call, self.clock), id))
    }

    /// Ready to be called; none: the instance has just gone.
    async fn service_of(&self, id: &str, deadline: Time) -> Result<Option<C::Service>, BoxError> {
        let Some(slot) = self.slots.read().get(id).cloned() else { return Ok(None) };
        let left = deadline.since(self.clock.now());
        let ready = async {
            let mut service = slot.service(&self.connector, self.connect.min(left)).await?;
            service.ready().await.map_err(Into::into)?;
            Ok::<_, BoxError>(Some(service))
        };
        let limit = self.clock.instant(deadline);
        timeout_at(limit, ready).await.unwrap_or_else(|_| Err("it was not ready in time".into()))
    }

    fn judged(&self, response: C::Response, call: InFlight, id: &Arc<str>) -> Tried<C::Response, R> {
        match self.connector.judge(&response) {
            Verdict::Well => Ok(self.connector.finish(response, call)),
            Verdict::Failed => {
                call.end(Outcome::Failure);
                let error = CallError::Failed {
                    service: self.service.clone(),
                    instance: id.clone(),
                    source: "it answered that it failed".into(),
                    give_up: None,
                };
                Err(Box::new(Failure { answer: Some(response), ..Failure::lost(error, false) }))
            }
        }
    }

    fn failed(&self, error: C::Error, id: &Arc<str>) -> Box<Failure<R, C::Response>> {
        let undone = self.connector.was_refused(&error);
        match self.connector.unsent(error) {
            Ok(request) => self.not_sent(id, "the connection is being closed".into(), request),
            Err(error) => {
                let (service, instance, source) = (self.service.clone(), id.clone(), error.into());
                let error = match undone {
                    true => CallError::NotSent { service, instance, source, give_up: None },
                    false => CallError::Failed { service, instance, source, give_up: None },
                };
                Box::new(Failure::lost(error, undone))
            }
        }
    }

    fn not_sent(&self, id: &Arc<str>, source: BoxError, request: R) -> Box<Failure<R, C::Response>> {
        let (service, instance) = (self.service.clone(), id.clone());
        Box::new(Failure::unsent(CallError::NotSent { service, instance, source, give_up: None }, request))
    }
}

impl<R, P> Failure<R, P> {
    fn give_up(self, why: Option<bramah_balance::GiveUp>) -> Result<P, CallError> {
        match (self.answer, why) {
            (Some(answer), _) => Ok(answer),
            (None, Some(why)) => Err(self.error.giving_up(why)),
            (None, None) => Err(self.error),
        }
    }
}

fn as_balanced(registered: &Registered) -> Instance {
    Instance {
        id: registered.id.clone(),
        weight: registered.instance.weight,
        zone: registered.instance.zone.as_deref().unwrap_or("").into(),
        healthy: registered.instance.health.serves(),
    }
}
