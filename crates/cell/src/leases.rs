//! When sessions end: the leader's monotonic clock, never replicated. A new leader gives every session its
//! full lease again (Chubby §2.8, spec S-2, S-5).

use std::collections::HashMap;
use std::time::Duration;

use bramah_machine::planted::{self, Bug};
use bramah_machine::{
    Command, ExpireSession, Identity, MAX_LEASE_MS, OpenSession, Principal, Request, Session, SessionId,
    State,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cell::Cell;
use crate::leadership::Leadership;

/// How often the leader looks for leases that ran out.
const TICK: Duration = Duration::from_millis(500);

/// How long a proposal may take before it is made again.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(2);

/// Sessions ended in one step, so that a mass expiry doesn't fill the queue.
const EXPIRIES_A_TICK: usize = 1_000;

/// How often it is said that one session's lease is over.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// How late a KeepAlive must be answered for leases to grow.
const LATE: Duration = Duration::from_secs(1);

/// The time in which half of a lateness is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// By how much a lease grows for each second that KeepAlives are late.
const GROWTH: u32 = 12;

/// Whose sessions say that leases may be longer than their sessions ask. A client with this name would need a token for
/// it, and make the next leader more patient.
const ANNOUNCER: &str = "leader's long leases";

/// The leases that this replica has given since it leads.
#[derive(Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
}

/// A new leader must keep the longest lease that the one before may have given (Chubby §2.9), so that must be in the
/// replicated state before it is given: a session of the leader's own, the *announcement*. It has the longest lease of
/// all, counted from the last time that another one grew, so it is there for as long as one that grew.
struct Table {
    term: u64,
    /// When this replica began to lead, or could have begun again.
    began: Instant,
    ends: HashMap<SessionId, Lease>,
    /// The sessions that were there when this replica began to lead, or led again after a loss, have their leases.
    surveyed: bool,
    strain: Strain,
    announcement: Option<SessionId>,
    /// Until when an announcement that was proposed may come.
    announcing: Option<Instant>,
}

impl Default for Table {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Table {
    fn of(term: u64) -> Self {
        Self {
            term,
            began: Instant::now(),
            ends: HashMap::new(),
            surveyed: false,
            strain: Strain::default(),
            announcement: None,
            announcing: None,
        }
    }

    fn enter(&mut self, term: u64) {
        if self.term != term {
            *self = Self::of(term);
        }
    }

    /// The announcement, if it certainly holds for the longest lease.
    fn announced(&self, state: &State) -> Option<SessionId> {
        self.announcement.filter(|id| !self.is_ending(*id) && state.session(*id).is_some())
    }

    /// Never sooner than it ends already. False if its end is proposed.
    fn extend(&mut self, id: SessionId, to: Instant) -> bool {
        match self.ends.entry(id).or_insert(Lease::Until(to)) {
            Lease::Until(end) => *end = to.max(*end),
            Lease::Ending { .. } => return false,
        }
        true
    }
}

/// Whether a session is no client's: its leader says by it that leases may have grown. It goes a minute after the last
/// one that did.
pub fn is_announcement(session: &Session) -> bool {
    session.principal.name() == ANNOUNCER && session.lease_ms == MAX_LEASE_MS
}

fn millis(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into())
}

/// Load, as KeepAlives feel it.
#[derive(Debug, Default)]
struct Strain {
    late: Duration,
    measured: Option<Instant>,
}

impl Strain {
    fn measure(&mut self, late: Duration, now: Instant) {
        (self.late, self.measured) = (self.late(now).max(late), Some(now));
    }

    /// How late KeepAlives were answered lately.
    fn late(&self, now: Instant) -> Duration {
        let Some(measured) = self.measured else { return Duration::ZERO };
        self.late.mul_f64((-(now - measured).div_duration_f64(HALF_LIFE)).exp2())
    }

    /// The lease of a session that asked for this one, in milliseconds.
    fn lease_ms(&self, asked_ms: u32, now: Instant) -> u32 {
        let late = self.late(now);
        if late < LATE {
            return asked_ms;
        }
        let more = u32::try_from(late.as_millis()).unwrap_or(u32::MAX).saturating_mul(GROWTH);
        asked_ms.saturating_add(more).min(MAX_LEASE_MS).max(asked_ms)
    }
}

enum Lease {
    Until(Instant),
    /// Its end was proposed then: no extension any more, or a client might be told of a lease that it lost.
    Ending {
        proposed: Instant,
        logged: Instant,
    },
}

impl Lease {
    /// Its end is proposed now. True if that is worth a line in the log: while the disk is full it is proposed in vain
    /// again and again.
    fn end(&mut self, now: Instant) -> bool {
        let before = match self {
            Lease::Ending { logged, .. } => Some(*logged).filter(|logged| now < *logged + LOG_EVERY),
            Lease::Until(_) => None,
        };
        *self = Lease::Ending { proposed: now, logged: before.unwrap_or(now) };
        before.is_none()
    }
}

impl Table {
    fn is_ending(&self, id: SessionId) -> bool {
        matches!(self.ends.get(&id), Some(Lease::Ending { .. }))
    }

    fn stand_still(&mut self, so_long: Duration, now: Instant) {
        if so_long < LATE {
            return;
        }
        self.strain.measure(so_long, now);
        for lease in self.ends.values_mut() {
            if let Lease::Until(end) = lease {
                *end += so_long;
            }
        }
    }
}

/// What became of leases that were to be extended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extended {
    /// Those that are over.
    pub(crate) lapsed: Vec<SessionId>,
    /// The shortest of the others, in milliseconds; 0 if there are none.
    pub(crate) granted_ms: u32,
}

impl Extended {
    fn grant(&mut self, lease_ms: u32) {
        let first = self.granted_ms == 0;
        self.granted_ms = if first { lease_ms } else { self.granted_ms.min(lease_ms) };
    }
}

impl Leases {
    /// Extends the leases of sessions whose clients were heard, at a leader that has just proved that it leads in
    /// `term`; the first of them was heard when `asked`. Under load it gives more than they asked for (spec S-2).
    pub(crate) fn extend(
        &self,
        term: u64,
        sessions: &[SessionId],
        asked: Instant,
        state: &State,
    ) -> Extended {
        let mut table = self.table.lock();
        table.enter(term);
        let now = Instant::now();
        // What waited for a leader says nothing about load.
        let late = now - asked.max(table.began).min(now);
        table.strain.measure(late, now);
        let announced = table.announced(state);
        let mut extended = Extended::default();
        let mut grown = false;
        for &id in sessions {
            let Some(asked_ms) = state.session(id).map(|session| session.lease_ms) else {
                extended.lapsed.push(id);
                continue;
            };
            let lease_ms = if announced.is_some() { table.strain.lease_ms(asked_ms, now) } else { asked_ms };
            if table.extend(id, now + millis(lease_ms)) {
                extended.grant(lease_ms);
                grown |= lease_ms > asked_ms;
            } else {
                extended.lapsed.push(id);
            }
        }
        if let Some(announcement) = announced.filter(|_| grown) {
            table.extend(announcement, now + millis(MAX_LEASE_MS));
        }
        extended
    }

    /// What a look at the leases is due for. A leader that lost its majority heard nobody meanwhile, also if it leads
    /// on in the same term: leases begin anew, as at a new leader.
    fn look(&self, leadership: &mut watch::Receiver<Leadership>) -> Look {
        let changed = leadership.has_changed().unwrap_or(true);
        let (here, term) = {
            let leadership = leadership.borrow_and_update();
            (leadership.here, leadership.term)
        };
        let mut table = self.table.lock();
        if planted::is(Bug::ExpiryByDeposedLeader) {
            if !here || (table.term == term && table.surveyed) {
                return Look::Expire(term);
            }
        } else if !here || changed {
            (table.surveyed, table.began) = (false, Instant::now());
        }
        match here {
            false => Look::Not,
            true if table.term == term && table.surveyed => Look::Expire(term),
            true => Look::Survey(term),
        }
    }

    /// The sessions whose lease is over. In a new term, or after the lead was lost, all begin anew, at least as long as
    /// they may have been; `state` must hold all that was done before. For `stood_still` nobody was heard, and nobody's lease ran.
    fn overdue(&self, term: u64, state: &State, stood_still: Duration) -> Vec<SessionId> {
        let mut table = self.table.lock();
        table.enter(term);
        let (now, announced) = (Instant::now(), table.announcement.is_some());
        table.ends.retain(|id, _| state.session(*id).is_some());
        table.stand_still(stood_still, now);
        let announcements = state.sessions().filter(|(_, session)| is_announcement(session));
        let announcements: Vec<SessionId> = announcements.map(|(id, _)| id).collect();
        table.announcement = announcements.iter().rfind(|id| !table.is_ending(**id)).copied();
        let surveyed = std::mem::replace(&mut table.surveyed, true);
        if table.announcement.is_some() && !announced {
            table.announcing = None;
            tracing::info!(term, "KeepAlives are answered late: leases may grow");
        }
        let inherited = if surveyed || announcements.is_empty() { 0 } else { MAX_LEASE_MS };
        let mut overdue = Vec::new();
        for (id, session) in state.sessions() {
            let length = millis(session.lease_ms.max(inherited));
            let anew = if planted::is(Bug::LeaseNotRestarted) { Duration::ZERO } else { length };
            if !surveyed {
                table.extend(id, now + anew);
            }
            let lease = table.ends.entry(id).or_insert(Lease::Until(now + anew));
            let over = match lease {
                Lease::Until(end) => *end <= now,
                // The proposal was lost: propose again.
                Lease::Ending { proposed, .. } => *proposed + PROPOSAL_LIMIT <= now,
            };
            if over && overdue.len() < EXPIRIES_A_TICK && !planted::is(Bug::SessionNeverEnds) {
                if lease.end(now) {
                    tracing::info!(session = id.0, term, "a session's lease ran out");
                }
                overdue.push(id);
            }
        }
        overdue
    }

    /// Whether leases should grow and can't, because that is not announced. Who is told so announces it until `until`.
    fn wants_announcement(&self, term: u64, state: &State, until: Instant) -> bool {
        let (mut table, now) = (self.table.lock(), Instant::now());
        let wanted = table.term == term
            && table.announcing.is_none_or(|until| until <= now)
            && table.strain.late(now) >= LATE
            && table.announced(state).is_none()
            && !state.sessions().any(|(id, session)| is_announcement(session) && !table.is_ending(id));
        if wanted {
            table.announcing = Some(until);
        }
        wanted
    }
}

/// What a leader does about leases at a tick.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// This replica does not lead.
    Not,
    /// It has begun to lead in this term, or leads again: first it must see what was done before.
    Survey(u64),
    Expire(u64),
}

/// Proposes the end of sessions whose lease ran out, while this replica leads.
pub(crate) async fn expire_sessions(cell: Cell, mut leadership: watch::Receiver<Leadership>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = tick.tick().await;
        let stood_still = due.elapsed();
        match cell.leases().look(&mut leadership) {
            Look::Not => {}
            Look::Expire(term) => end_overdue(&cell, term, stood_still),
            Look::Survey(term) => {
                let passed = cell.barrier(Vec::new(), Instant::now() + TICK * 4).await;
                tick.reset();
                // Whatever changed meanwhile, this is looked at again.
                if passed.is_ok() && cell.leases().look(&mut leadership) == Look::Survey(term) {
                    end_overdue(&cell, term, Duration::ZERO);
                }
            }
        }
    }
}

fn end_overdue(cell: &Cell, term: u64, stood_still: Duration) {
    let view = cell.view();
    let overdue = cell.leases().overdue(term, &view, stood_still);
    let expire = |session| Command::ExpireSession(ExpireSession { session, term });
    let deadline = Instant::now() + PROPOSAL_LIMIT;
    overdue.into_iter().for_each(|session| propose(cell, Identity::Anonymous, expire(session), deadline));
    if cell.leases().wants_announcement(term, &view, deadline)
        && let Ok(announcer) = Principal::named(ANNOUNCER)
    {
        // One at a time, and each in its own name: a retry of one that has ended would find only that.
        let key = Some(rand::random::<[u8; 16]>().to_vec());
        let open =
            OpenSession { lease_ms: MAX_LEASE_MS, client: ANNOUNCER.to_owned(), secret: rand::random() };
        propose(cell, Identity::Known { principal: announcer, key }, Command::OpenSession(open), deadline);
    }
}

fn propose(cell: &Cell, identity: Identity, command: Command, deadline: Instant) {
    let request = Request { identity, command };
    if let Err(error) = cell.propose_detached(&request, deadline) {
        tracing::error!(%error, "what becomes of a session can't be encoded");
    }
}

#[cfg(test)]
mod tests {
    use bramah_machine::{Answer, Moment};

    use super::*;

    const OWN_MS: u32 = 12_000;

    fn open(state: &mut State, principal: Principal, lease_ms: u32) -> SessionId {
        let command = Command::OpenSession(OpenSession { lease_ms, client: String::new(), secret: [1; 16] });
        let key = Some(state.session_count().to_le_bytes().to_vec());
        let request = Request { identity: Identity::sessionless(principal, key), command };
        match state.apply(request, Moment { time_ms: 1, term: 1 }, &mut Vec::new()) {
            Ok(Answer::SessionOpened { session, .. }) => session,
            other => panic!("a session opens: {other:?}"),
        }
    }

    fn announce(state: &mut State) -> SessionId {
        open(state, Principal::named(ANNOUNCER).expect("a good name"), MAX_LEASE_MS)
    }

    /// A leader of term 1, with one session of twelve seconds.
    fn leader() -> (Leases, State, SessionId) {
        let (leases, mut state) = (Leases::default(), State::new());
        let session = open(&mut state, Principal::anonymous(), OWN_MS);
        assert!(leases.overdue(1, &state, Duration::ZERO).is_empty());
        (leases, state, session)
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    fn heard(leases: &Leases, state: &State, session: SessionId, late: Duration) -> Extended {
        leases.extend(1, &[session], Instant::now() - late, state)
    }

    /// How long a session lives on when nobody hears it.
    async fn lives_on(leases: &Leases, state: &State, session: SessionId, term: u64) -> Duration {
        let since = Instant::now();
        while !leases.overdue(term, state, Duration::ZERO).contains(&session) {
            assert!(since.elapsed() < Duration::from_secs(120), "it never ends");
            pass(Duration::from_millis(100)).await;
        }
        since.elapsed()
    }

    const MOMENT: Duration = Duration::from_millis(200);

    /// Spec S-2: each session gets the lease that it asked for, not less, and is told so.
    #[tokio::test(start_paused = true)]
    async fn a_lease_is_as_long_as_was_asked() {
        let (leases, mut state, session) = leader();
        let short = open(&mut state, Principal::anonymous(), 2_000);
        pass(Duration::from_secs(11)).await;
        let extended = leases.extend(1, &[session, short, SessionId(99)], Instant::now(), &state);
        assert_eq!(extended, Extended { lapsed: vec![SessionId(99)], granted_ms: 2_000 });
        let lived = lives_on(&leases, &state, session, 1).await;
        assert!((millis(OWN_MS)..millis(OWN_MS) + MOMENT).contains(&lived), "{lived:?}");
        assert_eq!(heard(&leases, &state, session, Duration::ZERO).lapsed, [session]);
    }

    /// Spec S-2: under load leases grow, up to 60 s, but not before the next leader would know; what is told is kept,
    /// and no lease gets shorter when the load is over.
    #[tokio::test(start_paused = true)]
    async fn leases_grow_under_load() {
        let (leases, mut state, session) = leader();
        pass(Duration::from_secs(60)).await;
        let late = Duration::from_secs(2);
        let wants = |state: &State| leases.wants_announcement(1, state, Instant::now() + PROPOSAL_LIMIT);
        heard(&leases, &state, session, Duration::from_millis(900));
        assert!(!wants(&state));
        assert_eq!(heard(&leases, &state, session, late).granted_ms, OWN_MS);
        assert!(wants(&state));
        pass(TICK).await;
        assert!(!wants(&state), "one is proposed");
        pass(PROPOSAL_LIMIT).await;
        heard(&leases, &state, session, late);
        assert!(wants(&state), "that was lost");
        let announcement = announce(&mut state);
        pass(PROPOSAL_LIMIT).await;
        heard(&leases, &state, session, late);
        assert!(!wants(&state));
        leases.overdue(1, &state, Duration::ZERO);
        assert_eq!(heard(&leases, &state, session, late).granted_ms, OWN_MS + 2_000 * GROWTH);
        assert_eq!(heard(&leases, &state, session, Duration::from_secs(50)).granted_ms, MAX_LEASE_MS);

        // The load is over, and forgotten.
        pass(Duration::from_secs(40)).await;
        assert_eq!(heard(&leases, &state, session, Duration::ZERO).granted_ms, OWN_MS);
        let lived = lives_on(&leases, &state, session, 1).await;
        assert!((Duration::from_secs(20)..Duration::from_secs(20) + MOMENT).contains(&lived), "{lived:?}");
        assert!(leases.table.lock().is_ending(announcement), "it lasts as long as what it announced");
    }

    /// Spec S-2: a leader that stood still heard nobody, and ends nobody's session for it.
    #[tokio::test(start_paused = true)]
    async fn a_leader_that_stood_still_gives_the_time_back() {
        let (leases, state, session) = leader();
        pass(Duration::from_secs(30)).await;
        assert!(leases.overdue(1, &state, Duration::from_secs(29)).is_empty());
        let lived = lives_on(&leases, &state, session, 1).await;
        assert!((Duration::from_secs(11)..Duration::from_secs(11) + MOMENT).contains(&lived), "{lived:?}");
    }

    /// Spec S-2, S-5: a leader that loses its majority for longer than a lease, and gets it back in the same term, ends
    /// nobody's session for it, and none before it has seen again what was done.
    #[tokio::test(start_paused = true)]
    async fn a_leader_that_leads_again_begins_leases_anew() {
        let (leases, state, session) = leader();
        let leads = |here| Leadership { term: 1, here, ..Leadership::default() };
        let (publish, mut leadership) = watch::channel(leads(true));
        assert_eq!(leases.look(&mut leadership), Look::Expire(1));
        publish.send_replace(leads(false));
        for _ in 0..60 {
            assert_eq!(leases.look(&mut leadership), Look::Not);
            pass(TICK).await;
        }
        publish.send_replace(leads(true));
        // Until a barrier passes.
        assert_eq!(leases.look(&mut leadership), Look::Survey(1));
        assert_eq!(leases.look(&mut leadership), Look::Survey(1));
        assert!(leases.overdue(1, &state, Duration::ZERO).is_empty(), "nobody could be heard");
        assert_eq!(leases.look(&mut leadership), Look::Expire(1));
        let lived = lives_on(&leases, &state, session, 1).await;
        assert!((millis(OWN_MS)..millis(OWN_MS) + MOMENT).contains(&lived), "{lived:?}");
        // Too short for any look to see.
        publish.send_replace(leads(false));
        publish.send_replace(leads(true));
        assert_eq!(leases.look(&mut leadership), Look::Survey(1));
    }

    /// Spec S-5: leases restart in full at a new leader, also for those who were heard there before it looked at all.
    #[tokio::test(start_paused = true)]
    async fn leases_restart_in_full_at_a_new_leader() {
        let (leases, mut state, session) = leader();
        let silent = open(&mut state, Principal::anonymous(), OWN_MS);
        pass(Duration::from_secs(11)).await;
        leases.extend(2, &[session], Instant::now(), &state);
        pass(Duration::from_millis(400)).await;
        assert!(leases.overdue(2, &state, Duration::ZERO).is_empty());
        let lived = lives_on(&leases, &state, silent, 2).await;
        assert!((millis(OWN_MS)..millis(OWN_MS) + MOMENT).contains(&lived), "{lived:?}");
    }

    /// Spec S-2, S-5: a new leader keeps the longest lease that the one before may have given (Chubby §2.9), whomever it
    /// heard itself.
    #[tokio::test(start_paused = true)]
    async fn a_new_leader_keeps_leases_that_grew() {
        let (leases, mut state, session) = leader();
        let announcement = announce(&mut state);
        pass(Duration::from_secs(10)).await;
        leases.overdue(1, &state, Duration::ZERO);
        assert_eq!(heard(&leases, &state, session, Duration::from_secs(9)).granted_ms, MAX_LEASE_MS);
        let successor = Leases::default();
        successor.extend(2, &[session], Instant::now(), &state);
        successor.overdue(2, &state, Duration::ZERO);
        let later = open(&mut state, Principal::anonymous(), OWN_MS);
        successor.overdue(2, &state, Duration::ZERO);
        let lived = lives_on(&successor, &state, later, 2).await;
        assert!(
            (millis(OWN_MS)..millis(OWN_MS) + MOMENT).contains(&lived),
            "opened at the new one: {lived:?}"
        );
        let lived = lives_on(&successor, &state, session, 2).await + lived;
        assert!((millis(MAX_LEASE_MS)..millis(MAX_LEASE_MS) + MOMENT).contains(&lived), "{lived:?}");
        assert!(successor.table.lock().is_ending(announcement));
        assert!(successor.table.lock().announced(&state).is_none(), "and then it announces nothing any more");
    }
}
