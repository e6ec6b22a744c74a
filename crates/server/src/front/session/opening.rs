//! How a stream comes to its session: a new one, or one that is taken up again by who knows its secret.

use bramah_cell::Cell;
use bramah_machine::{
    Answer, Command, OpenSession, Principal, Refusal, Request, SECRET_BYTES, Session, SessionId,
};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use tokio::time::Instant;

use super::{OPEN_LIMIT, members};
use crate::front::caller::same_secret;
use crate::front::translate;

/// The lease of a session whose client doesn't ask for one (Chubby §2.8).
const DEFAULT_LEASE_MS: u32 = 12_000;

/// A stream's session.
pub(super) struct Opened {
    pub(super) id: SessionId,
    /// What the session is to be told; its lease is what was granted now.
    pub(super) head: v1::SessionReply,
}

/// Who wants a session: the name that its connection proved, and the secret that it knows.
struct Claim<'a> {
    principal: &'a Principal,
    secret: [u8; SECRET_BYTES],
}

/// Opens a session or takes it up again. Its lease begins now.
pub(super) async fn open(
    cell: &Cell,
    principal: &Principal,
    first: &v1::SessionRequest,
) -> Result<Opened, v1::Failure> {
    let open =
        first.open.as_ref().ok_or_else(|| translate::invalid("a session's stream must begin with `open`"))?;
    let secret = open.nonce[..].try_into().map_err(|_| translate::invalid(wants_nonce(open)))?;
    let claim = Claim { principal, secret };
    let deadline = Instant::now() + OPEN_LIMIT;
    let id = match open.session {
        0 => start(cell, open, &claim, deadline).await?,
        id => SessionId(id),
    };
    let (lease_ms, granted_ms) = resume(cell, id, &claim, deadline).await?;
    let opened = v1::Opened {
        session: id.0,
        lease_ms,
        cell: cell.name().to_owned(),
        replica: cell.replica(),
        members: members(cell),
    };
    let head = v1::SessionReply {
        opened: Some(opened),
        lease_ms: granted_ms,
        leader: Some(super::leader(cell)),
        ..v1::SessionReply::default()
    };
    Ok(Opened { id, head })
}

fn wants_nonce(open: &v1::OpenSession) -> &'static str {
    match open.session {
        0 => "`open.nonce` must be 16 random bytes",
        _ => "`open.nonce` must be the 16 random bytes that the session was opened with",
    }
}

async fn start(
    cell: &Cell,
    open: &v1::OpenSession,
    claim: &Claim<'_>,
    deadline: Instant,
) -> Result<SessionId, v1::Failure> {
    let lease_ms = if open.lease_ms == 0 { DEFAULT_LEASE_MS } else { open.lease_ms };
    let request = Request {
        identity: translate::session_identity(claim.principal.clone(), &claim.secret),
        command: Command::OpenSession(OpenSession {
            lease_ms,
            client: open.client.clone(),
            secret: claim.secret,
        }),
    };
    match cell.propose(&request, deadline).await {
        // This may be a repeat, long after the first.
        Ok(Ok(Answer::SessionOpened { session, .. })) => Ok(session),
        Ok(Ok(_)) => Err(translate::invalid("`open.nonce` was used for something else")),
        Ok(Err(refusal)) => Err(translate::refused(&refusal)),
        Err(error) => Err(translate::undone(&error)),
    }
}

/// Says the session's lease, and the one that it was granted now. Who does not know the secret must not extend the
/// lease either, so this is checked before the leader is asked for that.
async fn resume(
    cell: &Cell,
    id: SessionId,
    claim: &Claim<'_>,
    deadline: Instant,
) -> Result<(u32, u32), v1::Failure> {
    let undone = |error: &_| translate::undone(error);
    let look = |session: &Session| (session.lease_ms, claim.check(id, session));
    let look = || cell.read(|state| state.session(id).map(look));
    let found = match look() {
        Some(found) => found,
        // This replica may not have heard of it yet.
        None => {
            cell.barrier(Vec::new(), deadline).await.map_err(|error| undone(&error))?;
            look().ok_or_else(|| expired(id))?
        }
    };
    let (lease_ms, checked) = found;
    checked?;
    let barrier = cell.barrier(vec![id], deadline).await.map_err(|error| undone(&error))?;
    match look().is_some() && !barrier.lapsed.contains(&id) {
        true => Ok((lease_ms, barrier.granted_ms.max(lease_ms))),
        false => Err(expired(id)),
    }
}

impl Claim<'_> {
    /// Refuses who can't show that the session is its own.
    fn check(&self, id: SessionId, session: &Session) -> Result<(), v1::Failure> {
        let unproved = |why: String| Err(translate::failure(Code::Unauthenticated, why));
        if !same_secret(&self.secret, &session.secret) {
            return unproved(format!(
                "the nonce is not the one that session {id} was opened with; send that one, or open another session"
            ));
        }
        if *self.principal != session.principal {
            return unproved(format!(
                "session {id} was not opened by {}; send its opener's token, or open another session",
                self.principal
            ));
        }
        Ok(())
    }
}

pub(super) fn expired(session: SessionId) -> v1::Failure {
    translate::refused(&Refusal::SessionExpired { session })
}
