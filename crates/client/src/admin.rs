//! Who may do what, how much there may be, and who holds what (spec A-1, N-8, N-10).

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::Error;
use crate::files::{Deleted, deleted};

/// A node's ACL names: files in the cell's `/acl` with one principal a line; an empty name lets everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AclNames {
    /// Who may read it.
    pub read: String,
    /// Who may write, lock and delete it, and make and delete what is in it.
    pub write: String,
    /// Who may change these names.
    pub change_acl: String,
}

impl From<AclNames> for v1::AclNames {
    fn from(names: AclNames) -> Self {
        let AclNames { read, write, change_acl } = names;
        Self { read, write, change_acl }
    }
}

impl From<v1::AclNames> for AclNames {
    fn from(names: v1::AclNames) -> Self {
        let v1::AclNames { read, write, change_acl } = names;
        Self { read, write, change_acl }
    }
}

/// What a change of ACL names did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AclSet {
    /// The node's ACL generation now.
    pub generation: u64,
    /// The cell's revision of this change.
    pub revision: u64,
}

/// The most that a directory may hold; none: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuotaLimits {
    /// Nodes below it.
    pub nodes: Option<u64>,
    /// Bytes of contents below it, a counter being 8.
    pub bytes: Option<u64>,
}

/// A directory's quota, and what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Quota {
    /// The limits that are set at this directory.
    pub limits: QuotaLimits,
    /// Nodes below it.
    pub used_nodes: u64,
    /// Bytes of contents below it.
    pub used_bytes: u64,
}

/// Somebody who holds a lock, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockParty {
    /// Its session.
    pub session: u64,
    /// Its handle.
    pub handle: u64,
    /// Its name for people.
    pub client: String,
    /// Who it proved to be.
    pub principal: String,
    /// Since how long it holds or waits, in milliseconds by the cell's time.
    pub for_ms: u64,
    /// Whether it shares, or would.
    pub shared: bool,
}

/// A lock that is held, waited for, or kept free by a lock-delay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockInfo {
    /// The node.
    pub path: String,
    /// Whether its holders share it.
    pub shared: bool,
    /// Its lock generation.
    pub generation: u64,
    /// Who holds it, at most 100.
    pub holders: Vec<LockParty>,
    /// Who waits, in order, at most 100.
    pub waiters: Vec<LockParty>,
    /// How many hold it.
    pub holder_count: u64,
    /// How many wait.
    pub waiter_count: u64,
    /// For how much longer nobody gets it, in milliseconds.
    pub delay_left_ms: u64,
}

/// A part of a list of locks, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockPage {
    /// The locks on this page.
    pub locks: Vec<LockInfo>,
    /// There are more after the last of these.
    pub more: bool,
}

/// A session of the cell, any client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SessionEntry {
    /// Its number.
    pub session: u64,
    /// Its client's name for people.
    pub client: String,
    /// Who its client proved to be.
    pub principal: String,
    /// Its lease, in milliseconds.
    pub lease_ms: u32,
    /// Its open handles.
    pub handles: u64,
    /// How many of them hold a lock.
    pub holding: u64,
    /// How many of them wait for one.
    pub waiting: u64,
    /// Since how long it is open, in milliseconds by the cell's time.
    pub open_for_ms: u64,
}

/// A part of a list of sessions, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SessionPage {
    /// The sessions on this page.
    pub sessions: Vec<SessionEntry>,
    /// There are more after the last of these.
    pub more: bool,
}

impl From<v1::LockParty> for LockParty {
    fn from(party: v1::LockParty) -> Self {
        let v1::LockParty { session, handle, client, principal, for_ms, shared } = party;
        Self { session, handle, client, principal, for_ms, shared }
    }
}

impl From<v1::LockInfo> for LockInfo {
    fn from(lock: v1::LockInfo) -> Self {
        Self {
            path: lock.path,
            shared: lock.shared,
            generation: lock.generation,
            holders: lock.holders.into_iter().map(LockParty::from).collect(),
            waiters: lock.waiters.into_iter().map(LockParty::from).collect(),
            holder_count: lock.holder_count,
            waiter_count: lock.waiter_count,
            delay_left_ms: lock.delay_left_ms,
        }
    }
}

impl From<v1::SessionInfo> for SessionEntry {
    fn from(info: v1::SessionInfo) -> Self {
        let v1::SessionInfo { session, client, principal, lease_ms, handles, holding, waiting, open_for_ms } =
            info;
        Self { session, client, principal, lease_ms, handles, holding, waiting, open_for_ms }
    }
}

impl Client {
    /// Says who may do what with a node; `if_generation`: the ACL generation that it must have.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PermissionDenied`], [`Error::GenerationMismatch`].
    pub async fn set_acl(
        &self,
        path: impl Into<String>,
        names: AclNames,
        if_generation: Option<u64>,
    ) -> Result<AclSet, Error> {
        let set = v1::SetAcl { path: path.into(), names: Some(names.into()), if_generation };
        acl_set(self.call(Operation::SetAcl(set)).await?)
    }

    /// Limits what a directory may hold. Deleting always works.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongKind`], [`Error::PermissionDenied`].
    pub async fn set_quota(&self, path: impl Into<String>, limits: QuotaLimits) -> Result<(), Error> {
        let QuotaLimits { nodes, bytes } = limits;
        done(self.call(Operation::SetQuota(v1::SetQuota { path: path.into(), nodes, bytes })).await?)
    }

    /// A directory's quota, and what is used of it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongKind`].
    pub async fn quota(&self, path: impl Into<String>) -> Result<Quota, Error> {
        match self.call(Operation::GetQuota(v1::GetQuota { path: path.into() })).await? {
            Outcome::Quota(v1::QuotaState { nodes, bytes, used_nodes, used_bytes }) => {
                Ok(Quota { limits: QuotaLimits { nodes, bytes }, used_nodes, used_bytes })
            }
            _ => Err(Error::unexpected("get the quota")),
        }
    }

    /// Deletes a node and all below it, in one step.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PermissionDenied`].
    pub async fn delete_tree(&self, path: impl Into<String>) -> Result<Deleted, Error> {
        deleted(self.call(Operation::DeleteTree(v1::DeleteTree { path: path.into() })).await?)
    }

    /// Locks that are not simply free, by name: those of `below` and what is under it (empty: all), after the name
    /// `after` (empty: from the first), at most `limit`: 0 for 100, at most 1,000.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::PermissionDenied`].
    pub async fn list_locks(
        &self,
        below: impl Into<String>,
        after: impl Into<String>,
        limit: u32,
    ) -> Result<LockPage, Error> {
        let list = v1::ListLocks { below: below.into(), after: after.into(), limit };
        match self.call(Operation::ListLocks(list)).await? {
            Outcome::Locks(v1::LockPage { locks, more }) => {
                Ok(LockPage { locks: locks.into_iter().map(LockInfo::from).collect(), more })
            }
            _ => Err(Error::unexpected("list locks")),
        }
    }

    /// The cell's sessions, oldest first, after the one numbered `after` (0: from the first), at most `limit`: 0 for
    /// 100, at most 1,000.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`].
    pub async fn list_sessions(&self, after: u64, limit: u32) -> Result<SessionPage, Error> {
        match self.call(Operation::ListSessions(v1::ListSessions { after, limit })).await? {
            Outcome::Sessions(v1::SessionPage { sessions, more }) => {
                Ok(SessionPage { sessions: sessions.into_iter().map(SessionEntry::from).collect(), more })
            }
            _ => Err(Error::unexpected("list sessions")),
        }
    }
}

pub(crate) fn acl_set(outcome: Outcome) -> Result<AclSet, Error> {
    match outcome {
        Outcome::AclSet(v1::AclSet { generation, revision }) => Ok(AclSet { generation, revision }),
        _ => Err(Error::unexpected("set an ACL")),
    }
}

pub(crate) fn done(outcome: Outcome) -> Result<(), Error> {
    match outcome {
        Outcome::Done(v1::Done {}) => Ok(()),
        _ => Err(Error::unexpected("a command")),
    }
}
