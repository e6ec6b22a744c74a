//! Transactions: many operations on any nodes of a cell, all or nothing (spec N-9).

use bramah_wire::v1;
use bramah_wire::v1::guard::Guard as WireGuard;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;
use bramah_wire::v1::txn_operation::Operation as WireOp;
use bytes::Bytes;
use serde::Serialize;

use crate::admin::{AclNames, AclSet};
use crate::client::Client;
use crate::error::Error;
use crate::files::{Deleted, Written};
use crate::sequencer::Sequencer;

/// How a counter is compared in a [`Guard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Comparison {
    Less,
    AtMost,
    Equal,
    NotEqual,
    AtLeast,
    Greater,
}

/// What must hold for a transaction to do its first list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard(v1::Guard);

impl Guard {
    fn new(guard: WireGuard) -> Self {
        Self(v1::Guard { guard: Some(guard) })
    }

    /// There is such a node.
    pub fn exists(path: impl Into<String>) -> Self {
        Self::new(WireGuard::Exists(path.into()))
    }

    /// There is no such node.
    pub fn absent(path: impl Into<String>) -> Self {
        Self::new(WireGuard::Absent(path.into()))
    }

    /// The node has this content generation; 0: there is no such node.
    pub fn generation(path: impl Into<String>, generation: u64) -> Self {
        Self::new(WireGuard::Generation(v1::GenerationIs { path: path.into(), generation }))
    }

    /// The lock is held as the sequencer says (spec L-4).
    #[must_use]
    pub fn held(sequencer: &Sequencer) -> Self {
        Self::new(WireGuard::Held(sequencer.into()))
    }

    /// The counter compares so with `value`.
    pub fn counter(path: impl Into<String>, comparison: Comparison, value: i64) -> Self {
        use v1::counter_compares::Comparison as Wire;
        let comparison = match comparison {
            Comparison::Less => Wire::Less,
            Comparison::AtMost => Wire::AtMost,
            Comparison::Equal => Wire::Equal,
            Comparison::NotEqual => Wire::NotEqual,
            Comparison::AtLeast => Wire::AtLeast,
            Comparison::Greater => Wire::Greater,
        };
        let comparison = comparison.into();
        Self::new(WireGuard::Counter(v1::CounterCompares { path: path.into(), comparison, value }))
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct TxnOp(v1::TxnOperation);

impl TxnOp {
    fn new(operation: WireOp) -> Self {
        Self(v1::TxnOperation { operation: Some(operation) })
    }

    /// As [`Client::set`].
    pub fn set(path: impl Into<String>, contents: impl Into<Bytes>) -> Self {
        let (path, contents) = (path.into(), contents.into());
        Self::new(WireOp::SetContents(v1::SetContents { path, contents, ..Default::default() }))
    }

    /// As [`TxnOp::set`], and makes missing ancestors too.
    pub fn set_with_parents(path: impl Into<String>, contents: impl Into<Bytes>) -> Self {
        let (path, contents) = (path.into(), contents.into());
        Self::new(WireOp::SetContents(v1::SetContents {
            path,
            contents,
            parents: true,
            ..Default::default()
        }))
    }

    /// As [`Client::mkdir`].
    pub fn mkdir(path: impl Into<String>) -> Self {
        Self::new(WireOp::CreateDirectory(v1::CreateDirectory { path: path.into(), parents: false }))
    }

    /// As [`Client::mkdir_all`].
    pub fn mkdir_all(path: impl Into<String>) -> Self {
        Self::new(WireOp::CreateDirectory(v1::CreateDirectory { path: path.into(), parents: true }))
    }

    /// As [`Client::delete`].
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(WireOp::Delete(v1::Delete { path: path.into(), if_generation: None }))
    }

    /// As [`Client::delete_tree`].
    pub fn delete_tree(path: impl Into<String>) -> Self {
        Self::new(WireOp::DeleteTree(v1::DeleteTree { path: path.into() }))
    }

    /// As [`Counter::increment`](crate::Counter::increment): a missing counter is made.
    pub fn increment(path: impl Into<String>, delta: i64) -> Self {
        let increment = v1::Increment { path: path.into(), delta, create: true, ..Default::default() };
        Self::new(WireOp::Increment(increment))
    }

    /// As [`Counter::reset`](crate::Counter::reset): a missing counter is made.
    pub fn reset_counter(path: impl Into<String>, value: i64) -> Self {
        let reset = v1::ResetCounter { path: path.into(), value, create: true, expect: None };
        Self::new(WireOp::ResetCounter(reset))
    }

    /// As [`Client::set_acl`].
    pub fn set_acl(path: impl Into<String>, names: AclNames) -> Self {
        let names = Some(names.into());
        Self::new(WireOp::SetAcl(v1::SetAcl { path: path.into(), names, if_generation: None }))
    }
}

/// What one operation of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TxnOutcome {
    /// Contents were set, or a directory made.
    Written(Written),
    /// Something was deleted.
    Deleted(Deleted),
    /// A counter has this value now.
    Counter(i64),
    /// ACL names were set.
    AclSet(AclSet),
    /// It was done, and there is nothing to say of it.
    Done,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TxnResult {
    /// All guards held, so the first list was done; else the other.
    pub held: bool,
    /// One for each operation of the list that was done.
    pub outcomes: Vec<TxnOutcome>,
}

/// A transaction to be; made by [`Client::txn`].
#[derive(Clone, Debug)]
#[must_use = "commit it"]
pub struct Txn {
    client: Client,
    txn: v1::Txn,
}

impl Txn {
    /// All of these must hold, with those given before: up to 128.
    pub fn when(mut self, guards: impl IntoIterator<Item = Guard>) -> Self {
        self.txn.guards.extend(guards.into_iter().map(|guard| guard.0));
        self
    }

    /// What to do if they hold, in order: up to 128.
    pub fn then(mut self, operations: impl IntoIterator<Item = TxnOp>) -> Self {
        self.txn.then.extend(operations.into_iter().map(|operation| operation.0));
        self
    }

    /// What to do if one doesn't, in order: up to 128. Default: nothing.
    pub fn otherwise(mut self, operations: impl IntoIterator<Item = TxnOp>) -> Self {
        self.txn.otherwise.extend(operations.into_iter().map(|operation| operation.0));
        self
    }

    /// Does it, all or nothing. Guards that don't hold are no error: see [`TxnResult::held`].
    ///
    /// # Errors
    /// [`Error::InTransaction`] when an operation was refused, and so none was done; [`Error::InvalidArgument`].
    pub async fn commit(self) -> Result<TxnResult, Error> {
        match self.client.call(Operation::Txn(self.txn)).await? {
            Outcome::Txn(v1::TxnDone { held, outcomes }) => {
                let outcomes = outcomes.into_iter().map(outcome).collect::<Option<_>>();
                outcomes
                    .map(|outcomes| TxnResult { held, outcomes })
                    .ok_or_else(|| Error::unexpected("a transaction"))
            }
            _ => Err(Error::unexpected("a transaction")),
        }
    }
}

fn outcome(outcome: v1::Outcome) -> Option<TxnOutcome> {
    Some(match outcome.outcome? {
        Outcome::Written(v1::Written { generation, revision, created }) => {
            TxnOutcome::Written(Written { generation, revision, created })
        }
        Outcome::Deleted(v1::Deleted { revision }) => TxnOutcome::Deleted(Deleted { revision }),
        Outcome::Counter(counter) => TxnOutcome::Counter(counter.value),
        Outcome::AclSet(v1::AclSet { generation, revision }) => {
            TxnOutcome::AclSet(AclSet { generation, revision })
        }
        Outcome::Done(v1::Done {}) => TxnOutcome::Done,
        _ => return None,
    })
}

impl Client {
    /// A transaction across any nodes of the cell.
    ///
    /// ```no_run
    /// # async fn example(client: bramah_client::Client) -> Result<(), bramah_client::Error> {
    /// use bramah_client::{Comparison, Guard, TxnOp};
    ///
    /// let sold = client
    ///     .txn()
    ///     .when([Guard::counter("/shop/pears", Comparison::AtLeast, 2)])
    ///     .then([TxnOp::increment("/shop/pears", -2), TxnOp::increment("/shop/sold", 2)])
    ///     .commit()
    ///     .await?;
    /// println!("{}", if sold.held { "sold" } else { "not so many left" });
    /// # Ok(())
    /// # }
    /// ```
    pub fn txn(&self) -> Txn {
        Txn { client: self.clone(), txn: v1::Txn::default() }
    }
}
