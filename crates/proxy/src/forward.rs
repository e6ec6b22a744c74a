//! Getting a request answered: picking an instance, sending, and sending again when that is safe and there is budget.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bramah_balance::{GiveUp, Outcome, PickError, Tries, TrySettings};
use http::uri::Authority;
use http::{Request, Response, StatusCode, request};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::answer::Answer;
use crate::endpoint::{Carrier, SendError};
use crate::lease::Lease;
use crate::request_body::{BodyFault, RequestBody, Source};
use crate::worker::Worker;

/// A body that tries take turns to read.
pub(crate) type SharedSource = Arc<Mutex<Source>>;

/// How a request is to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) authority: Authority,
    pub(crate) http2: bool,
    pub(crate) idempotent: bool,
    pub(crate) key: Option<u64>,
    /// From the request's end to the answer's beginning.
    pub(crate) limit: Duration,
}

/// The first pause when there is nobody else to try; Envoy's, as `bramah_balance` has it.
const ALONE: Duration = Duration::from_millis(25);

/// An answer that has begun, the call that it is of, and what carries it.
pub(crate) type Begun = (Response<Incoming>, Lease, Carrier);

/// Sends a request until there is an answer, or none to be had.
pub(crate) async fn forward(
    worker: &Arc<Worker>,
    plan: &Plan,
    head: request::Parts,
    source: Option<SharedSource>,
) -> Result<Begun, Answer> {
    let shared = &worker.shared;
    let begun = Instant::now();
    shared.budget.earn(shared.clock.now());
    // A request that is lost on the way is gone with its head. For one that could be sent again, this is another.
    let again = (plan.idempotent || plan.http2) && shared.settings.retries.tries > 1;
    let spare = again.then(|| head.clone());
    let mut request = Request::from_parts(head, RequestBody::of(source.as_ref()));
    let mut failures: Option<Failures> = None;
    loop {
        let avoid = failures.as_ref().map_or(&[][..], |failures| &failures.tried);
        let lease = pick(worker, plan.key, avoid)?;
        let sent = one_try(plan, &lease, request, source.as_ref(), begun).await;
        let error = match sent {
            Ok((response, carrier)) => {
                if let Some(source) = &source {
                    source.lock().keep_no_more();
                }
                return answered(response, lease, carrier);
            }
            Err(error) => error,
        };
        if let Some(fault) = source.as_ref().and_then(|source| source.lock().fault()) {
            return Err(body_failed(fault));
        }
        let failures = failures.get_or_insert_with(|| Failures::new(worker, begun + plan.limit));
        request = failures.again(plan, lease, error, spare.as_ref(), source.as_ref()).await?;
    }
}

fn pick(worker: &Arc<Worker>, key: Option<u64>, avoid: &[Arc<str>]) -> Result<Lease, Answer> {
    match worker.shared.directory.pick(key, avoid) {
        Ok((call, endpoint)) => Ok(Lease::new(call, endpoint, Arc::clone(worker))),
        Err(error) => Err(nobody(worker, error)),
    }
}

fn nobody(worker: &Worker, error: PickError) -> Answer {
    worker.counts().no_instance.fetch_add(1, Relaxed);
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, error).later()
}

fn body_failed(fault: BodyFault) -> Answer {
    let status = match fault {
        BodyFault::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        BodyFault::Idle => StatusCode::REQUEST_TIMEOUT,
        BodyFault::Broken | BodyFault::Superseded => StatusCode::BAD_REQUEST,
    };
    Answer::new(status, fault).closing()
}

fn answered(response: Response<Incoming>, lease: Lease, carrier: Carrier) -> Result<Begun, Answer> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        lease.end(Outcome::Failure);
        let why = "the instance went over to another protocol, which nobody asked for";
        return Err(Answer::new(StatusCode::BAD_GATEWAY, why));
    }
    Ok((response, lease, carrier))
}

/// Sends it once, within its time.
async fn one_try(
    plan: &Plan,
    lease: &Lease,
    request: Request<RequestBody>,
    source: Option<&SharedSource>,
    begun: Instant,
) -> Result<(Response<Incoming>, Carrier), SendError> {
    let (endpoint, worker) = (&lease.endpoint, &lease.worker);
    let mut ends = begun + plan.limit;
    if let Some(each) = worker.shared.settings.times.each_try.filter(|_| plan.idempotent) {
        ends = ends.min(Instant::now() + each);
    }
    let sending = async {
        if plan.http2 {
            endpoint.send_http2(worker, request).await
        } else {
            endpoint.send_http1(worker, request).await
        }
    };
    let time = sleep_until(ends);
    tokio::pin!(sending, time);
    loop {
        tokio::select! {
            biased;
            sent = &mut sending => return sent,
            () = &mut time => {
                // The time counts from the request's end, and a long body takes its own.
                let moved = source.and_then(|source| source.lock().moving_since());
                match moved.map(|moved| moved + plan.limit).filter(|ends| *ends > Instant::now()) {
                    Some(ends) => time.as_mut().reset(ends),
                    None => {
                        if let Some(source) = source {
                            source.lock().blame_client();
                        }
                        return Err(SendError::TimedOut);
                    }
                }
            }
        }
    }
}

/// What is known after a first failure.
struct Failures {
    worker: Arc<Worker>,
    tries: Tries,
    tried: Vec<Arc<str>>,
}

impl Failures {
    fn new(worker: &Arc<Worker>, ends: Instant) -> Self {
        let shared = &worker.shared;
        let settings = TrySettings {
            tries: shared.settings.retries.tries,
            each: shared.settings.times.each_try.unwrap_or(Duration::MAX),
            // Somebody else can be asked at once; the same one needs a moment.
            first_pause: if shared.directory.choices() > 1 { Duration::ZERO } else { ALONE },
            ..TrySettings::default()
        };
        let left = ends.saturating_duration_since(Instant::now());
        let tries = Tries::of_call(settings, shared.clock.now() + left);
        Failures { worker: Arc::clone(worker), tries, tried: Vec::new() }
    }

    /// A try failed. The request for another, when it is time for that, or what to answer.
    async fn again(
        &mut self,
        plan: &Plan,
        lease: Lease,
        error: SendError,
        spare: Option<&request::Parts>,
        source: Option<&SharedSource>,
    ) -> Result<Request<RequestBody>, Answer> {
        let shared = Arc::clone(&self.worker.shared);
        let instance = Arc::clone(&lease.endpoint.id);
        let address = lease.endpoint.address;
        let (returned, failure) = Failure::of(error, plan);
        tracing::debug!(%instance, %address, why = failure.reason, "a try failed");
        lease.end(if failure.blameless { Outcome::Cancelled } else { Outcome::Failure });
        if failure.status == StatusCode::GATEWAY_TIMEOUT {
            self.worker.counts().timed_out.fetch_add(1, Relaxed);
        }
        let replayable = source.is_none_or(|source| source.lock().can_replay());
        let head = returned.or_else(|| spare.cloned()).filter(|_| failure.safe && replayable);
        let Some(head) = head else { return Err(failure.answer(None)) };
        let retry = match self.tries.again(shared.clock.now(), &shared.budget, &shared.chance) {
            Ok(retry) => retry,
            Err(why) => {
                if why == GiveUp::Budget {
                    self.worker.counts().retries_denied.fetch_add(1, Relaxed);
                }
                return Err(failure.answer(Some(why)));
            }
        };
        let pause = retry.begin.since(shared.clock.now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.worker.counts().retries.fetch_add(1, Relaxed);
        self.tried.push(instance);
        Ok(Request::from_parts(head, RequestBody::of(source)))
    }
}

/// Why a try failed.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    reason: String,
    /// Whether the request may be sent again.
    safe: bool,
    /// Whether it says nothing bad of the instance: a connection that had waited too long, a stream that was turned away.
    blameless: bool,
}

impl Failure {
    /// With the request's head if that came back.
    fn of(error: SendError, plan: &Plan) -> (Option<request::Parts>, Self) {
        match error {
            SendError::Unsent(request, why) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let failure = Failure { status, reason: why.to_string(), safe: true, blameless: false };
                (Some(request.into_parts().0), failure)
            }
            SendError::Lost { error, unprocessed, stale } => {
                let failure = Failure {
                    status: StatusCode::BAD_GATEWAY,
                    reason: format!("the instance gave no answer that can be passed on: {}", whole(&error)),
                    safe: unprocessed || plan.idempotent,
                    blameless: unprocessed || stale,
                };
                (None, failure)
            }
            SendError::TimedOut => {
                let failure = Failure {
                    status: StatusCode::GATEWAY_TIMEOUT,
                    reason: "the instance gave no answer in time".into(),
                    safe: plan.idempotent,
                    blameless: false,
                };
                (None, failure)
            }
        }
    }

    fn answer(self, why: Option<GiveUp>) -> Answer {
        let reason = match why {
            Some(why) => format!("{}; {why}", self.reason),
            None => self.reason,
        };
        let answer = Answer::new(self.status, reason);
        // Nothing was done, so trying again is safe.
        if self.status == StatusCode::SERVICE_UNAVAILABLE { answer.later() } else { answer }
    }
}

/// An error with what caused it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
