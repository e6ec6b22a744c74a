//! The state against a model so plain that it is easily believed: one map from name to node.

use std::collections::BTreeMap;

use bramah_machine::{
    Answer, Change, Command, Comparison, CreateDirectory, Delete, DeleteTree, Event, Guard, Identity,
    Increment, NodeKind, Outcome, Path, RangeLimit, Refusal, Request, ResetCounter, SetContents, State, Txn,
    TxnOperation,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{NOW, tree_commands};

#[derive(Clone, Debug, PartialEq)]
enum Held {
    Directory,
    File(Vec<u8>),
    Counter(i64),
}

#[derive(Clone, Debug)]
struct ModelNode {
    held: Held,
    instance: u64,
    generation: u64,
    created: u64,
    modified: u64,
}

/// Names are texts, children are found by looking at every name.
#[derive(Clone, Debug)]
struct Model {
    nodes: BTreeMap<String, ModelNode>,
    revision: u64,
    instances: u64,
    /// The command that is being done has its revision.
    stamped: bool,
}

fn kind(held: &Held) -> NodeKind {
    match held {
        Held::Directory => NodeKind::Directory,
        Held::File(_) => NodeKind::File,
        Held::Counter(_) => NodeKind::Counter,
    }
}

fn parent(name: &str) -> &str {
    match name.rfind('/') {
        Some(0) | None => "/",
        Some(slash) => &name[..slash],
    }
}

impl Model {
    fn new() -> Model {
        let root = ModelNode { held: Held::Directory, instance: 1, generation: 1, created: 0, modified: 0 };
        Model { nodes: BTreeMap::from([("/".to_owned(), root)]), revision: 0, instances: 1, stamped: false }
    }

    fn children(&self, directory: &str) -> Vec<String> {
        let in_it = |name: &&String| *name != "/" && parent(name) == directory;
        let mut names: Vec<String> = self.nodes.keys().filter(in_it).cloned().collect();
        names.sort();
        names
    }

    fn wrong_kind(&self, path: &Path, wanted: NodeKind) -> Outcome {
        let is = kind(&self.nodes[path.as_str()].held);
        Err(Refusal::WrongKind { path: path.clone(), is, wanted })
    }

    /// Everything that has to be made, outermost first, the node itself last.
    fn to_be_made(&self, path: &Path, parents: bool) -> Result<Vec<String>, Refusal> {
        let mut names = vec![path.as_str().to_owned()];
        loop {
            let above = parent(&names[0]).to_owned();
            match self.nodes.get(&above) {
                Some(node) if node.held == Held::Directory => return Ok(names),
                Some(node) => {
                    let is = kind(&node.held);
                    let path = Path::parse(&above).unwrap();
                    return Err(Refusal::WrongKind { path, is, wanted: NodeKind::Directory });
                }
                None if parents => names.insert(0, above),
                None => {
                    let parent = Path::parse(&above).unwrap();
                    return Err(Refusal::ParentNotFound { path: path.clone(), parent });
                }
            }
        }
    }

    fn create(&mut self, path: &Path, held: Held, parents: bool) -> Result<u64, Refusal> {
        let names = self.to_be_made(path, parents)?;
        self.stamp();
        for name in names {
            self.instances += 1;
            let held = if name == path.as_str() { held.clone() } else { Held::Directory };
            let (created, modified) = (self.revision, self.revision);
            let node = ModelNode { held, instance: self.instances, generation: 1, created, modified };
            self.nodes.insert(name, node);
        }
        Ok(self.revision)
    }

    /// All changes of one command have one revision.
    fn stamp(&mut self) -> u64 {
        self.revision += u64::from(!self.stamped);
        self.stamped = true;
        self.revision
    }

    fn change(&mut self, path: &Path, held: Held) -> (u64, u64) {
        self.stamp();
        let node = self.nodes.get_mut(path.as_str()).unwrap();
        node.held = held;
        node.generation += 1;
        node.modified = self.revision;
        (node.generation, self.revision)
    }

    fn run(&mut self, command: &Command) -> Outcome {
        self.stamped = false;
        match command {
            Command::DeleteTree(command) => self.delete_tree(command),
            Command::Txn(command) => self.txn(command),
            command => self.run_one(command),
        }
    }

    fn run_one(&mut self, command: &Command) -> Outcome {
        match command {
            Command::SetContents(command) => self.set_contents(command),
            Command::CreateDirectory(command) => self.create_directory(command),
            Command::Delete(command) => self.delete(command),
            Command::Increment(command) => self.increment(command),
            Command::ResetCounter(command) => self.reset(command),
            other => panic!("the model knows no sessions: {other:?}"),
        }
    }

    fn set_contents(&mut self, command: &SetContents) -> Outcome {
        let path = &command.path;
        let held = Held::File(command.contents.to_vec());
        let current = self.nodes.get(path.as_str()).map_or(0, |node| node.generation);
        let is_file = |node: &ModelNode| kind(&node.held) == NodeKind::File;
        if self.nodes.get(path.as_str()).is_some_and(|node| !is_file(node)) {
            return self.wrong_kind(path, NodeKind::File);
        }
        if command.if_generation.is_some_and(|wanted| wanted != current) {
            return Err(Refusal::GenerationMismatch { path: path.clone(), current });
        }
        if current == 0 {
            let revision = self.create(path, held, command.parents)?;
            return Ok(Answer::Written { generation: 1, revision, created: true });
        }
        let (generation, revision) = self.change(path, held);
        Ok(Answer::Written { generation, revision, created: false })
    }

    fn create_directory(&mut self, command: &CreateDirectory) -> Outcome {
        let path = &command.path;
        match self.nodes.get(path.as_str()) {
            None => {
                let revision = self.create(path, Held::Directory, command.parents)?;
                Ok(Answer::Written { generation: 1, revision, created: true })
            }
            Some(_) if !command.parents => Err(Refusal::AlreadyExists { path: path.clone() }),
            Some(node) if node.held == Held::Directory => {
                Ok(Answer::Written { generation: node.generation, revision: node.modified, created: false })
            }
            Some(_) => self.wrong_kind(path, NodeKind::Directory),
        }
    }

    fn delete(&mut self, command: &Delete) -> Outcome {
        let path = command.path.clone();
        if path.as_str() == "/" {
            return Err(Refusal::RootImmutable);
        }
        let Some(node) = self.nodes.get(path.as_str()) else {
            return Err(Refusal::NotFound { path });
        };
        let (current, children) = (node.generation, self.children(path.as_str()).len() as u64);
        if command.if_generation.is_some_and(|wanted| wanted != current) {
            return Err(Refusal::GenerationMismatch { path, current });
        }
        if children > 0 {
            return Err(Refusal::NotEmpty { path, children });
        }
        self.nodes.remove(path.as_str());
        Ok(Answer::Deleted { revision: self.stamp() })
    }

    fn delete_tree(&mut self, command: &DeleteTree) -> Outcome {
        let path = command.path.clone();
        if path.as_str() == "/" {
            return Err(Refusal::RootImmutable);
        }
        if self.nodes.remove(path.as_str()).is_none() {
            return Err(Refusal::NotFound { path });
        }
        self.nodes.retain(|name, _| !name.starts_with(&format!("{path}/")));
        Ok(Answer::Deleted { revision: self.stamp() })
    }

    fn holds(&self, guard: &Guard) -> bool {
        let node = |path: &Path| self.nodes.get(path.as_str());
        match guard {
            Guard::Exists(path) => node(path).is_some(),
            Guard::Absent(path) => node(path).is_none(),
            Guard::Generation(path, wanted) => node(path).map_or(0, |node| node.generation) == *wanted,
            Guard::Counter(path, comparison, wanted) => match node(path).map(|node| &node.held) {
                Some(Held::Counter(value)) => match comparison {
                    Comparison::Less => value < wanted,
                    Comparison::AtMost => value <= wanted,
                    Comparison::Equal => value == wanted,
                    Comparison::NotEqual => value != wanted,
                    Comparison::AtLeast => value >= wanted,
                    Comparison::Greater => value > wanted,
                },
                _ => false,
            },
            Guard::Held(_) => panic!("the model knows no locks"),
        }
    }

    fn txn(&mut self, txn: &Txn) -> Outcome {
        let before = self.clone();
        let held = txn.guards.iter().all(|guard| self.holds(guard));
        let mut answers = Vec::new();
        for (part, operation) in (0..).zip(if held { &txn.then } else { &txn.otherwise }) {
            match self.operate(operation) {
                Ok(answer) => answers.push(answer),
                Err(why) => {
                    *self = before;
                    return Err(Refusal::TxnRefused { part, why: Box::new(why) });
                }
            }
        }
        Ok(Answer::Txn { held, answers })
    }

    fn operate(&mut self, operation: &TxnOperation) -> Outcome {
        match operation {
            TxnOperation::SetContents(command) => self.set_contents(command),
            TxnOperation::CreateDirectory(command) => self.create_directory(command),
            TxnOperation::Delete(command) => self.delete(command),
            TxnOperation::DeleteTree(command) => self.delete_tree(command),
            TxnOperation::Increment(command) => self.increment(command),
            TxnOperation::ResetCounter(command) => self.reset(command),
            TxnOperation::SetAcl(_) => panic!("the model knows no ACLs"),
        }
    }

    fn increment(&mut self, command: &Increment) -> Outcome {
        if let (Some(floor), Some(ceiling)) = (command.floor, command.ceiling)
            && floor > ceiling
        {
            let why = format!("the floor {floor} is above the ceiling {ceiling}; no value fits");
            return Err(Refusal::InvalidArgument { why });
        }
        let path = command.path.clone();
        let current = match self.nodes.get(path.as_str()).map(|node| &node.held) {
            Some(Held::Counter(value)) => *value,
            Some(_) => return self.wrong_kind(&path, NodeKind::Counter),
            None if command.create => 0,
            None => return Err(Refusal::NotFound { path }),
        };
        let sum = i128::from(current) + i128::from(command.delta);
        let limit = match (command.floor, command.ceiling) {
            _ if i64::try_from(sum).is_err() => Some(RangeLimit::Overflow),
            (Some(floor), _) if sum < i128::from(floor) => Some(RangeLimit::Floor(floor)),
            (_, Some(ceiling)) if sum > i128::from(ceiling) => Some(RangeLimit::Ceiling(ceiling)),
            _ => None,
        };
        if let Some(limit) = limit {
            return Err(Refusal::OutOfRange { path, current, delta: command.delta, limit });
        }
        self.count(&path, sum as i64)
    }

    fn reset(&mut self, command: &ResetCounter) -> Outcome {
        let path = command.path.clone();
        match self.nodes.get(path.as_str()).map(|node| &node.held) {
            Some(&Held::Counter(current)) if command.expect.is_some_and(|expect| expect != current) => {
                Err(Refusal::ValueMismatch { path, current })
            }
            Some(Held::Counter(_)) => self.count(&path, command.value),
            Some(_) => self.wrong_kind(&path, NodeKind::Counter),
            None if command.create && command.expect.is_none() => self.count(&path, command.value),
            None => Err(Refusal::NotFound { path }),
        }
    }

    fn count(&mut self, path: &Path, value: i64) -> Outcome {
        let revision = if self.nodes.contains_key(path.as_str()) {
            self.change(path, Held::Counter(value)).1
        } else {
            self.create(path, Held::Counter(value), true)?
        };
        Ok(Answer::Counter { value, revision })
    }

    fn assert_same(&self, state: &State) {
        assert_eq!((state.revision(), state.node_count()), (self.revision, self.nodes.len()));
        for (name, node) in &self.nodes {
            let path = Path::parse(name).unwrap();
            let stat = state.stat(&path).unwrap();
            let children = self.children(name);
            assert_eq!(stat.kind, kind(&node.held));
            assert_eq!((stat.instance, stat.content_generation), (node.instance, node.generation));
            assert_eq!((stat.created_revision, stat.modified_revision), (node.created, node.modified));
            assert_eq!(stat.children, children.len() as u64);
            match &node.held {
                Held::File(contents) => assert_eq!(state.get_contents(&path).unwrap().contents, contents),
                Held::Counter(value) => assert_eq!(state.get_counter(&path), Ok((*value, node.modified))),
                Held::Directory => assert_eq!(listed(state, &path), children),
            }
        }
    }
}

/// A directory's children as full names, read in pages of two.
fn listed(state: &State, directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let prefix = directory.as_str().trim_end_matches('/').to_owned();
    loop {
        let after = names.last().map(|name| name[prefix.len() + 1..].to_owned());
        let (entries, more) = state.read_directory(directory, after.as_deref(), 2).unwrap();
        names.extend(entries.into_iter().map(|entry| format!("{prefix}/{}", entry.name)));
        if !more {
            return names;
        }
    }
}

/// What a watcher who knows only the events believes of the tree.
fn believed(events: &[Event]) -> BTreeMap<String, NodeKind> {
    let mut nodes = BTreeMap::from([("/".to_owned(), NodeKind::Directory)]);
    for event in events {
        let name = event.path.as_str().to_owned();
        match event.change {
            Change::Created { kind } => assert_eq!(nodes.insert(name, kind), None, "created twice"),
            Change::Deleted => assert!(nodes.remove(&name).is_some(), "deleted twice"),
            Change::ContentsModified { .. } => assert_eq!(nodes.get(&name), Some(&NodeKind::File)),
            Change::CounterChanged { .. } => assert_eq!(nodes.get(&name), Some(&NodeKind::Counter)),
            _ => assert!(nodes.contains_key(&name), "of a node that is not there"),
        }
    }
    nodes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Spec N-2, N-3, N-5, N-6, N-8, N-9, K-1, E-1: every outcome is the model's, the tree is the model's, and
    /// the events alone tell of it.
    #[test]
    fn behaves_as_the_model(commands in vec(tree_commands(), 0..60)) {
        crate::planted::plant_as_told();
        let (mut model, mut state, mut events) = (Model::new(), State::new(), Vec::new());
        for command in commands {
            let expected = model.run(&command);
            let shown = format!("{command:?}");
            let (revision, told) = (state.revision(), events.len());
            let outcome = state.apply(Request { identity: Identity::Anonymous, command }, NOW, &mut events);
            prop_assert_eq!(&outcome, &expected, "{}", shown);
            prop_assert_eq!(state.check_invariants(), Ok(()));
            let changed = state.revision() - revision;
            prop_assert_eq!(changed == 1, events.len() > told, "{}", shown);
            prop_assert!(events[told..].iter().all(|event| event.revision == revision + 1));
        }
        model.assert_same(&state);
        let kinds: BTreeMap<_, _> =
            state.nodes().map(|(path, node)| (path.as_str().to_owned(), node.kind.tag())).collect();
        prop_assert_eq!(believed(&events), kinds);
    }
}
