//! Where the session is: connecting, moving to the leader, leaving a replica that broke off or fell silent.

use std::time::Duration;

use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use rand::RngExt;
use tokio::time::Instant;

use super::background::LOOK_AFTER;
use super::{Attempt, Session, View, is_passing, new_nonce};
use crate::builder::Route;
use crate::link::{self, Greeting, Link, OpenError};
use crate::session_events::SessionEvent;
use crate::status::Leader;

/// A replica that owes answers and says nothing is left after so many times what it took to connect to it, which
/// is one round trip: an answer may take three, by way of the leader and a majority.
const ROUND_TRIPS_OF_SILENCE: u32 = 10;
/// But never sooner than the one, nor later than the other.
const SILENCE: (Duration, Duration) = (Duration::from_millis(900), Duration::from_millis(2500));
/// After this part of that time it is asked whether it is there.
const PROBE_AFTER: f64 = 0.4;
/// Once more so long, because a client that was itself stopped has unread replies.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// Rests between rounds through all addresses: doubled each time, and half of it random.
const ROUND_REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// Before the leader is tried again after it could not be reached.
const LEADER_REST: Duration = Duration::from_secs(10);
/// Between two moves.
const MOVE_REST: Duration = Duration::from_millis(200);

impl Session {
    pub(super) fn learn_leader(&mut self, leader: v1::Leader, now: Instant) {
        let known = self.leader.as_ref();
        if leader.replica == 0 || known.is_some_and(|known| known.term > leader.term) {
            return;
        }
        if known.is_none_or(|known| *known != leader) {
            if known.is_some() {
                let v1::Leader { replica, term, address } = leader.clone();
                self.tell(SessionEvent::LeaderChanged { leader: Leader { replica, term, address } });
            }
            self.next_move = self.next_move.min(now + MOVE_REST);
            self.leader = Some(leader);
            // What was refused for want of a leader need not rest any longer.
            self.calls.wake_all();
        }
    }

    /// Starts to connect where that is wanted: anywhere without a link, at the leader with one.
    pub(super) fn connect(&mut self, now: Instant) {
        if self.attempt.is_some() || self.ending.is_some() || self.finished {
            return;
        }
        if let Some(link) = &self.link {
            let Some(address) = self.leader_elsewhere(link) else {
                return;
            };
            if now >= self.next_move && self.refused_since.is_none() {
                let address = address.to_owned();
                tracing::debug!(from = %link.address, to = %address, "moving the session to the leader");
                self.start_attempt(address, true, now);
            }
        } else if self.wants_link() && now >= self.next_attempt {
            let address = self.addresses.current().to_owned();
            self.start_attempt(address, false, now);
        }
    }

    pub(super) fn wants_link(&self) -> bool {
        let open = self.closing_since.is_none() && (self.id != 0 || self.opening.is_some());
        let watches = self.closing_since.is_none() && !self.watches.is_empty();
        open || watches || !self.calls.is_empty()
    }

    /// The leader's address, when the session belongs there and `link` leads somewhere else.
    pub(super) fn leader_elsewhere(&self, link: &Link) -> Option<&str> {
        let leader = self.leader.as_ref().filter(|_| self.settings.route == Route::Leader)?;
        (leader.replica != link.replica && !leader.address.is_empty()).then_some(&*leader.address)
    }

    fn start_attempt(&mut self, address: String, moving: bool, now: Instant) {
        let request = v1::OpenSession {
            session: self.id,
            nonce: self.nonce.clone(),
            lease_ms: self.settings.lease_ms,
            client: self.settings.name.clone(),
        };
        let (transport, token) = (self.settings.transport.clone(), self.settings.token.clone());
        let link = Box::pin(link::open(transport, token, address.clone(), request));
        self.attempt = Some(Attempt { link, address, moving, started: now });
    }

    pub(super) fn attempted(&mut self, result: Result<(Link, Greeting), OpenError>, now: Instant) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        match result {
            Ok((link, greeting)) => self.install(&attempt, link, greeting, now),
            Err(OpenError::Unreachable(text)) => self.attempt_failed(&attempt, text, now),
            Err(OpenError::Refused(failure)) => match failure.code() {
                Code::SessionExpired if self.id != 0 => self.session_over(&failure.message, now),
                Code::SessionExpired => {
                    // It was opened by an earlier try, and has expired since: another one needs another secret.
                    self.nonce = new_nonce(&mut self.random);
                    self.attempt_failed(&attempt, failure.message, now);
                }
                code if is_passing(code) => {
                    self.attempt_failed(&attempt, failure.message, now);
                    let told = now + Duration::from_millis(failure.retry_after_ms.into()).min(ROUND_REST.1);
                    self.next_attempt = self.next_attempt.max(told);
                }
                _ => self.attempt_refused(&attempt, failure, now),
            },
        }
    }

    /// A replica may be set up wrongly, so the cell refuses this client only when all of it does.
    fn attempt_refused(&mut self, attempt: &Attempt, failure: v1::Failure, now: Instant) {
        self.attempt_failed(attempt, failure.message.clone(), now);
        if attempt.moving {
            return;
        }
        self.addresses.refused(&attempt.address, failure.message.clone());
        if self.addresses.all_refuse() {
            return self.refused_for_good(&failure, now);
        }
        self.refusal = Some(failure);
    }

    fn attempt_failed(&mut self, attempt: &Attempt, text: String, now: Instant) {
        tracing::debug!(address = %attempt.address, error = %text, "no session there");
        self.addresses.trouble(&attempt.address, text);
        if attempt.moving {
            self.next_move = now + LEADER_REST;
        } else {
            self.failures += 1;
            self.try_next(now);
        }
    }

    /// The next address at once, or after a rest when a round through all of them has failed.
    fn try_next(&mut self, now: Instant) {
        self.addresses.advance();
        self.next_attempt = now;
        let rounds = self.failures / self.addresses.len();
        if rounds > 0 && self.failures.is_multiple_of(self.addresses.len()) {
            let rest = ROUND_REST.0.saturating_mul(1 << rounds.min(8)).min(ROUND_REST.1);
            self.next_attempt += rest.mul_f64(self.random.random_range(0.5..1.0));
        }
    }

    fn install(&mut self, attempt: &Attempt, link: Link, greeting: Greeting, now: Instant) {
        let Greeting { opened, leader, handles } = greeting;
        if opened.session == 0 || (self.id != 0 && opened.session != self.id) {
            let text = format!("asked for session {} the replica opened {}", self.id, opened.session);
            return self.attempt_failed(attempt, text, now);
        }
        // A link that was there before is dropped, and what it owed is asked again here.
        self.calls.connection_lost();
        self.watches.connection_lost();
        self.id = opened.session;
        self.calls.session_is(self.id);
        self.handles.session_is(self.id);
        self.background.extend(self.handles.told(handles));
        self.look_at = (!self.handles.is_empty()).then_some(now + LOOK_AFTER);
        self.addresses.settle(&link.address);
        self.addresses.forget_refusals();
        self.refusal = None;
        if !opened.members.is_empty() {
            self.addresses.members(opened.members.iter().map(|member| &*member.client_address));
        }
        self.lease.forget_asked();
        self.lease.ask(attempt.started);
        self.lease.extended(Duration::from_millis(opened.lease_ms.into()));
        *self.view.lock() = View {
            session: opened.session,
            cell: opened.cell.clone(),
            replica: opened.replica,
            address: link.address.clone(),
            lease_until: self.lease.until(),
            channel: Some(link.channel.clone()),
        };
        self.cell = opened.cell;
        self.silence = (link.connected_in * ROUND_TRIPS_OF_SILENCE).clamp(SILENCE.0, SILENCE.1);
        self.link = Some(link);
        self.heard = now;
        (self.owed_since, self.suspected, self.proved) = (None, None, false);
        self.next_move = now + MOVE_REST;
        if let Some(leader) = leader {
            self.learn_leader(leader, now);
        }
        if let Some(opening) = self.opening.take() {
            let _ = opening.reply.send(Ok(()));
        }
    }

    pub(super) fn drop_link(&mut self) {
        self.link = None;
        self.view.lock().channel = None;
        self.calls.connection_lost();
        self.watches.connection_lost();
        self.lease.forget_asked();
        (self.owed_since, self.suspected) = (None, None);
    }

    pub(super) fn link_lost(&mut self, text: String, now: Instant) {
        let Some(link) = &self.link else { return };
        tracing::debug!(address = %link.address, error = %text, "lost the connection");
        let leader = self.leader_elsewhere(link).map(str::to_owned);
        self.addresses.trouble(&link.address, text);
        self.failures = if self.proved { 0 } else { self.failures + 1 };
        self.drop_link();
        self.try_next(now);
        if let Some(leader) = leader {
            self.addresses.settle(&leader);
        }
        if let Some(attempt) = &mut self.attempt {
            // The move goes on, now as the way back.
            attempt.moving = false;
            self.addresses.settle(&attempt.address);
        }
    }

    /// Leaves a replica that is connected and says nothing: it may be stopped, or cut off. Also one that
    /// leaves keep-alives unanswered, whatever else it says.
    pub(super) fn watch_link(&mut self, now: Instant) {
        if self.link.is_none() {
            return;
        }
        if self.ending.is_none() && self.lease.overdue().is_some_and(|at| now >= at) {
            return self.link_lost("connected, but keep-alives went unanswered".into(), now);
        }
        let asked = self.lease.last_asked().is_some_and(|asked| asked > self.heard);
        if !asked && !self.calls.awaits_answers() {
            (self.owed_since, self.suspected) = (None, None);
            return;
        }
        self.owed_since.get_or_insert(now);
        if now < self.silent_since() + self.silence {
            return;
        }
        let suspected = *self.suspected.get_or_insert(now);
        if now >= suspected + SECOND_LOOK {
            let text =
                format!("connected, but silent for {:.1} s", (now - self.silent_since()).as_secs_f64());
            self.link_lost(text, now);
        }
    }

    /// Since when the link owes an answer and has said nothing.
    pub(super) fn silent_since(&self) -> Instant {
        self.owed_since.map_or(self.heard, |since| since.max(self.heard))
    }

    /// Whether to ask for more lease, or just for a sign of life.
    pub(super) fn wants_keep_alive(&self, now: Instant) -> bool {
        let due = self.lease.next_ask().is_some_and(|at| now >= at);
        due || self.probe_at().is_some_and(|at| now >= at)
    }

    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.owed_since?;
        let silent = self.silent_since();
        let asked = self.lease.last_asked().is_some_and(|asked| asked > silent);
        (!asked).then_some(silent + self.silence.mul_f64(PROBE_AFTER))
    }

    /// When [`Session::connect`], [`Session::watch_link`] or a keep-alive is due next.
    pub(super) fn connection_due(&self) -> Option<Instant> {
        match &self.link {
            Some(link) => self.link_due(link),
            None => (self.attempt.is_none() && self.wants_link()).then_some(self.next_attempt),
        }
    }

    fn link_due(&self, link: &Link) -> Option<Instant> {
        let silence = self.owed_since.map(|_| self.silent_since() + self.silence);
        let second_look = self.suspected.map(|at| at + SECOND_LOOK);
        // While messages wait for the connection a keep-alive would wait with them.
        let asks = [self.lease.next_ask(), self.probe_at()].map(|at| at.filter(|_| !self.blocked));
        let settled = self.attempt.is_none() && self.ending.is_none() && self.refused_since.is_none();
        let may_move = settled && self.leader_elsewhere(link).is_some();
        let overdue = self.lease.overdue().filter(|_| self.ending.is_none());
        let times = [second_look.or(silence), may_move.then_some(self.next_move), overdue];
        times.into_iter().chain(asks).flatten().min()
    }
}
