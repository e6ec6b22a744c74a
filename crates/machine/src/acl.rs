//! Who may do what (spec; Chubby §2.3): names of principals, and the files that list them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::path::{MAX_COMPONENT_BYTES, shortened};
use crate::tree::Kind;
use crate::{Path, Refusal, State};

/// The directory of the files that say who is in an ACL.
const ACL_DIRECTORY: &str = "/acl";
/// The line of an ACL file that stands for everybody.
const EVERYBODY: &str = "*";
/// The most bytes a principal's name has.
pub const MAX_PRINCIPAL_BYTES: usize = 256;

/// Who a caller is, as its connection proved it. The empty name is nobody in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Principal(Arc<str>);

impl Principal {
    /// A principal by name: 1 to [`MAX_PRINCIPAL_BYTES`] bytes in one line, not `*` and not a comment's beginning.
    pub fn named(name: &str) -> Result<Principal, Refusal> {
        let fits = (1..=MAX_PRINCIPAL_BYTES).contains(&name.len()) && name.trim() == name;
        if !fits || name.chars().any(char::is_control) || name == EVERYBODY || name.starts_with('#') {
            return Err(Refusal::invalid(format!(
                "{:?} is no name of a principal: it has 1 to {MAX_PRINCIPAL_BYTES} bytes in one line, without \
                 spaces around it, and is neither * nor begins with #",
                shortened(name)
            )));
        }
        Ok(Principal(Arc::from(name)))
    }

    /// Nobody in particular.
    pub fn anonymous() -> Principal {
        Principal::default()
    }

    /// Its name; empty for nobody in particular.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "anonymous" } else { &self.0 })
    }
}

/// The ACLs of a node: each names a file in `/acl`, whose lines are principals; an empty name lets everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclNames {
    /// Who may read it and watch it.
    pub read: Arc<str>,
    /// Who may write it, lock it, delete it, and make nodes in it.
    pub write: Arc<str>,
    /// Who may change these names.
    pub change_acl: Arc<str>,
}

/// What somebody wants to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// Read and watch.
    Read,
    /// Write, lock, delete, make nodes in it.
    Write,
    /// Change the ACL names.
    ChangeAcl,
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::ChangeAcl => "change the ACL of",
        })
    }
}

impl AclNames {
    /// The name that governs a right.
    pub fn of(&self, right: Right) -> &str {
        self.name(right)
    }

    fn name(&self, right: Right) -> &Arc<str> {
        match right {
            Right::Read => &self.read,
            Right::Write => &self.write,
            Right::ChangeAcl => &self.change_acl,
        }
    }

    /// Refuses names that no file in `/acl` can have.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        for name in [&self.read, &self.write, &self.change_acl] {
            if !name.is_empty() {
                acl_file(name)?;
            }
        }
        Ok(())
    }
}

/// Whether it is the name of a file that says who is in an ACL.
pub(crate) fn is_acl_file(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.as_str() == ACL_DIRECTORY)
}

fn acl_file(name: &str) -> Result<Path, Refusal> {
    let file = Path::parse(&format!("{ACL_DIRECTORY}/{name}")).ok().filter(|path| path.depth() == 2);
    file.ok_or_else(|| {
        let shown = shortened(name);
        Refusal::invalid(format!(
            "{shown:?} is no ACL's name: that is the name of a file in /acl, one component of at most \
             {MAX_COMPONENT_BYTES} bytes"
        ))
    })
}

/// The most verdicts that are remembered at a time.
const MAX_VERDICTS: usize = 10_000;

/// Decides for many nodes of one state who may do what, and reads an ACL's file once for each principal: a file may
/// be long, and a scan or a recursive delete asks for each node.
#[derive(Debug)]
pub struct Verdicts<'a> {
    state: &'a State,
    known: BTreeMap<(Principal, Arc<str>), bool>,
}

impl<'a> Verdicts<'a> {
    /// Nothing is decided yet.
    pub fn of(state: &'a State) -> Verdicts<'a> {
        Verdicts { state, known: BTreeMap::new() }
    }

    /// As [`State::may`].
    pub fn may(&mut self, principal: &Principal, acl: &AclNames, right: Right) -> bool {
        let name = acl.name(right);
        if name.is_empty() {
            return true;
        }
        let asked = (principal.clone(), Arc::clone(name));
        if let Some(known) = self.known.get(&asked) {
            return *known;
        }
        let verdict = self.state.may(principal, acl, right);
        if self.known.len() >= MAX_VERDICTS {
            self.known.clear();
        }
        self.known.insert(asked, verdict);
        verdict
    }

    /// As [`State::permit_reading`].
    pub fn permit_reading(&mut self, principal: &Principal, path: &Path) -> Result<(), Refusal> {
        let nearest = self.state.nearest(path);
        nearest.map_or(Ok(()), |nearest| self.permit(principal, &nearest, Right::Read))
    }

    /// Refuses unless a principal has a right on a node.
    pub(crate) fn permit(&mut self, principal: &Principal, path: &Path, right: Right) -> Result<(), Refusal> {
        let Some(node) = self.state.node(path) else { return Ok(()) };
        let allowed = self.may(principal, &node.acl, right);
        if allowed { Ok(()) } else { Err(not_permitted(principal, path, &node.acl, right)) }
    }
}

pub(crate) fn not_permitted(principal: &Principal, path: &Path, acl: &AclNames, right: Right) -> Refusal {
    let (path, principal, acl) = (path.clone(), principal.clone(), acl.of(right).to_owned());
    Refusal::NotPermitted { path, right, principal, acl }
}

impl State {
    /// Whether a principal has a right on a node with these ACLs. An ACL whose file is missing lets nobody.
    pub fn may(&self, principal: &Principal, acl: &AclNames, right: Right) -> bool {
        let name = acl.of(right);
        name.is_empty() || acl_file(name).is_ok_and(|file| self.lists(&file, principal))
    }

    fn lists(&self, file: &Path, principal: &Principal) -> bool {
        let Some(Kind::File(file)) = self.node(file).map(|node| &node.kind) else { return false };
        let lines = file.contents().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let known = !principal.0.is_empty();
        lines
            .into_iter()
            .any(|line| line == EVERYBODY.as_bytes() || (known && line == principal.0.as_bytes()))
    }

    /// Whether any node has ACL names; if not, everybody may do everything.
    pub fn uses_acls(&self) -> bool {
        self.tree.guarded > 0
    }

    /// Refuses to let a principal read or watch a node that its ACL keeps from it. For one that is not there the
    /// nearest that is there on the way to it decides (spec A-2).
    pub fn permit_reading(&self, principal: &Principal, path: &Path) -> Result<(), Refusal> {
        self.permit_nearest(principal, path, Right::Read)
    }

    /// Refuses unless a principal has a right on a node, or on the nearest ancestor that is there.
    pub(crate) fn permit_nearest(
        &self,
        principal: &Principal,
        path: &Path,
        right: Right,
    ) -> Result<(), Refusal> {
        self.nearest(path).map_or(Ok(()), |nearest| self.permit(principal, &nearest, right))
    }

    /// The node, or the nearest on the way to it that is there; none if everybody may do everything.
    fn nearest(&self, path: &Path) -> Option<Path> {
        let mut way = std::iter::successors(self.uses_acls().then(|| path.clone()), Path::parent);
        way.find(|path| self.node(path).is_some())
    }

    /// Refuses unless a principal has a right on a node.
    pub(crate) fn permit(&self, principal: &Principal, path: &Path, right: Right) -> Result<(), Refusal> {
        let Some(node) = self.node(path) else { return Ok(()) };
        let allowed = self.may(principal, &node.acl, right);
        if allowed { Ok(()) } else { Err(not_permitted(principal, path, &node.acl, right)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    /// An ACL's file is read once for each principal in a scan, however many nodes it governs: what is decided already
    /// is not asked of the state again.
    #[test]
    fn a_scan_reads_an_acl_once() {
        let mut cell = Cell::with(&["/acl"]);
        cell.run(set("/acl/team", "ann")).unwrap();
        let (ann, eve) = (Principal::named("ann").unwrap(), Principal::named("eve").unwrap());
        let acl = AclNames { read: "team".into(), write: "team".into(), ..AclNames::default() };
        let mut verdicts = Verdicts::of(&cell.state);
        for right in [Right::Read, Right::Write, Right::ChangeAcl] {
            assert!(verdicts.may(&ann, &acl, right));
            assert_eq!(verdicts.may(&eve, &acl, right), right == Right::ChangeAcl);
        }
        assert_eq!(verdicts.known.len(), 2);
        verdicts.known.values_mut().for_each(|verdict| *verdict = !*verdict);
        assert!(
            !verdicts.may(&ann, &acl, Right::Read) && verdicts.may(&eve, &acl, Right::Write),
            "read again"
        );
    }

    /// What is remembered is bounded, and asking as [`State::permit_reading`] does gives the same answers.
    #[test]
    fn verdicts_are_bounded_and_the_same() {
        let mut cell = Cell::with(&["/acl", "/d"]);
        cell.run(set("/acl/team", "7\n8")).unwrap();
        let names = AclNames { read: "team".into(), ..AclNames::default() };
        let set_acl = crate::SetAcl { path: path("/d"), names, if_generation: None };
        cell.run(crate::Command::SetAcl(set_acl)).unwrap();
        let mut verdicts = Verdicts::of(&cell.state);
        for number in 0..=MAX_VERDICTS {
            let principal = Principal::named(&number.to_string()).unwrap();
            let asked = path("/d/none");
            let answer = verdicts.permit_reading(&principal, &asked);
            assert_eq!(answer, cell.state.permit_reading(&principal, &asked));
            assert_eq!(answer.is_ok(), number == 7 || number == 8);
        }
        assert_eq!(verdicts.known.len(), 1);
    }
}
