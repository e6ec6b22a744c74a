//! Sequencers: a lock as it was acquired, to be shown to others, and checked by them (spec L-4; Chubby §2.4).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation;
use serde::{Deserialize, Serialize};

use crate::admin::done;
use crate::client::Client;
use crate::error::Error;
use crate::names::canonical;

/// A lock as it was acquired. As text it is `<path>#x<instance>.<generation>`, with `#s` for a shared lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sequencer {
    /// The node that is locked.
    pub path: String,
    /// Its instance: greater than that of any earlier node of this name.
    pub instance: u64,
    /// Its lock generation, which grows each time the free lock is taken.
    pub generation: u64,
    /// Whether others may hold it too.
    pub shared: bool,
}

impl fmt::Display for Sequencer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.shared { 's' } else { 'x' };
        write!(formatter, "{}#{mode}{}.{}", self.path, self.instance, self.generation)
    }
}

impl From<Sequencer> for String {
    fn from(sequencer: Sequencer) -> Self {
        sequencer.to_string()
    }
}

/// A text that is no sequencer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no sequencer: it is <path>#x<instance>.<generation>, as /shop/till#x12.3, with #s if shared"
)]
pub struct InvalidSequencer(String);

impl FromStr for Sequencer {
    type Err = InvalidSequencer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidSequencer(text.to_owned()))
    }
}

impl TryFrom<String> for Sequencer {
    type Error = InvalidSequencer;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// From the right: a path may hold the signs, too.
fn parse(text: &str) -> Option<Sequencer> {
    let (path, rest) = text.rsplit_once('#')?;
    let shared = match rest.chars().next()? {
        's' => true,
        'x' => false,
        _ => return None,
    };
    let (instance, generation) = rest[1..].split_once('.')?;
    let path = path.starts_with('/').then(|| path.to_owned())?;
    Some(Sequencer { path, instance: number(instance)?, generation: number(generation)?, shared })
}

/// Digits only: `parse` would also take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl From<&Sequencer> for v1::Sequencer {
    fn from(sequencer: &Sequencer) -> Self {
        let Sequencer { path, instance, generation, shared } = sequencer.clone();
        Self { path, instance, generation, shared }
    }
}

impl From<v1::Sequencer> for Sequencer {
    fn from(sequencer: v1::Sequencer) -> Self {
        let v1::Sequencer { path, instance, generation, shared } = sequencer;
        Self { path, instance, generation, shared }
    }
}

impl Client {
    /// Whether the lock is held as the sequencer says.
    ///
    /// # Errors
    /// [`Error::SequencerInvalid`] if it is not.
    pub async fn check_sequencer(&self, sequencer: &Sequencer) -> Result<(), Error> {
        let sequencer = Some(sequencer.into());
        done(self.call(Operation::CheckSequencer(v1::CheckSequencer { sequencer })).await?)
    }
}

/// A sequencer that is older than one of the same lock that was seen before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{stale} is stale: {newest} was seen before, so whoever sent it has lost the lock; refuse what it asks for"
)]
pub struct StaleSequencer {
    /// The one that was shown.
    pub stale: Sequencer,
    /// The newest one that was seen of this lock.
    pub newest: Sequencer,
}

/// The newest sequencer seen of each lock, for a server that has no session of its own: it lets none act that comes
/// with an older one (spec L-4). No network. What it cannot know is that the newest holder has lost the lock
/// and that nobody has come since; [`Client::check_sequencer`] does.
#[derive(Debug)]
pub struct SequencerCheck {
    newest: HashMap<String, (Sequencer, u64)>,
    /// The locks by when they were last asked for.
    by_use: BTreeMap<u64, String>,
    uses: u64,
    limit: usize,
    cell: String,
}

impl Default for SequencerCheck {
    /// For 10,000 locks.
    fn default() -> Self {
        Self::with_limit(10_000)
    }
}

impl SequencerCheck {
    /// For so many locks, at least one. Beyond these the lock that was not asked for longest is forgotten, and an old
    /// sequencer of it would be let in again: choose a limit above the number of locks there are.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            newest: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            limit: limit.max(1),
            cell: String::new(),
        }
    }

    /// For the locks of this cell: `/ls/<cell>/a` is the lock `/a`, as `/ls/local/a` is in any case.
    #[must_use]
    pub fn of_cell(mut self, cell: impl Into<String>) -> Self {
        self.cell = cell.into();
        self
    }

    /// Lets the newest in, and notes it.
    ///
    /// # Errors
    /// [`StaleSequencer`] for one that is older than the newest seen.
    pub fn admit(&mut self, sequencer: &Sequencer) -> Result<(), StaleSequencer> {
        let age = |sequencer: &Sequencer| (sequencer.instance, sequencer.generation);
        let lock = canonical(&sequencer.path, &self.cell);
        let before = self.newest.get(&lock);
        if let Some((newest, used)) = before {
            if age(sequencer) < age(newest) {
                return Err(StaleSequencer { stale: sequencer.clone(), newest: newest.clone() });
            }
            self.by_use.remove(used);
        } else if self.newest.len() >= self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.newest.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, lock.clone());
        self.newest.insert(lock, (sequencer.clone(), self.uses));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequencer(text: &str) -> Sequencer {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Spec L-4.
    #[test]
    fn a_sequencer_is_a_text() {
        for text in ["/shop/till#x12.3", "/a#s1.2#x7.8", "/#s18446744073709551615.0"] {
            assert_eq!(sequencer(text).to_string(), text);
            let json = serde_json::to_string(&sequencer(text)).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Sequencer>(&json).unwrap(), sequencer(text));
        }
        assert_eq!(sequencer("/a#s1.2#x7.8").path, "/a#s1.2");
        for text in
            ["", "/a", "/a#x", "/a#x1", "/a#y1.2", "a#x1.2", "/a#x+1.2", "/a#x1.-2", "/a#x1.2.3", "/a#é1.2"]
        {
            let error = text.parse::<Sequencer>().unwrap_err();
            assert!(error.to_string().contains("<path>#x<instance>.<generation>"), "{error}");
        }
    }

    /// Spec L-4: a server without a session compares a sequencer with the newest it has seen.
    #[test]
    fn an_older_sequencer_is_stale() {
        let mut check = SequencerCheck::default();
        for text in ["/a#x5.1", "/a#x5.1", "/b#s1.1", "/a#x5.4", "/a#x5.4", "/a#x9.1"] {
            check.admit(&sequencer(text)).unwrap();
        }
        for text in ["/a#x5.4", "/a#x8.99", "/a#s9.0"] {
            let stale = check.admit(&sequencer(text)).unwrap_err();
            assert_eq!((stale.stale, stale.newest), (sequencer(text), sequencer("/a#x9.1")));
        }
        check.admit(&sequencer("/b#s1.1")).unwrap();
    }

    /// Spec L-4: a lock is the same one by each of its names.
    #[test]
    fn another_name_is_no_other_lock() {
        let mut check = SequencerCheck::default().of_cell("berlin");
        for text in ["/a#x5.1", "/ls/local/a#x5.2", "/ls/berlin/a#x5.3"] {
            check.admit(&sequencer(text)).unwrap();
        }
        for text in ["/a#x5.2", "/ls/local/a#x5.2", "/ls/berlin/a#x5.2"] {
            check.admit(&sequencer(text)).unwrap_err();
        }
        check.admit(&sequencer("/ls/paris/a#x1.1")).unwrap();
    }

    /// Spec L-4: the memory is bounded, and the lock least asked for is forgotten.
    #[test]
    fn as_many_locks_as_the_limit_are_known() {
        let mut check = SequencerCheck::with_limit(2);
        for text in ["/a#x1.9", "/b#x1.9", "/a#x1.9", "/c#x1.9"] {
            check.admit(&sequencer(text)).unwrap();
        }
        assert!(check.admit(&sequencer("/a#x1.8")).is_err());
        assert!(check.admit(&sequencer("/c#x1.8")).is_err());
        assert_eq!((check.newest.len(), check.by_use.len()), (2, 2));
        check.admit(&sequencer("/b#x1.8")).unwrap();
    }
}
