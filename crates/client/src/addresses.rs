//! Where a client may find its cell, and what came of trying.

use std::fmt::Write;

/// Most addresses that are remembered, whatever a cell says of its members.
const MOST: usize = 64;

/// The addresses given, then those the cell named.
pub(crate) struct Addresses {
    known: Vec<Known>,
    current: usize,
}

struct Known {
    address: String,
    trouble: Option<String>,
    /// It would not have this client, and no time will change that.
    refused: bool,
    /// The cell has named it, and the application has not.
    learned: bool,
}

impl Addresses {
    /// At least one address; `first` is tried first, counted around.
    pub(crate) fn new(given: Vec<String>, first: usize) -> Self {
        let mut addresses = Self { known: Vec::with_capacity(given.len()), current: 0 };
        for address in given {
            addresses.learn(&address);
        }
        addresses.known.iter_mut().for_each(|known| known.learned = false);
        addresses.current = first % addresses.known.len();
        addresses
    }

    /// Adds an address unless it is known.
    pub(crate) fn learn(&mut self, address: &str) {
        let known = self.known.iter().any(|known| known.address == address);
        if !known && !address.is_empty() && self.known.len() < MOST {
            self.known.push(Known {
                address: address.to_owned(),
                trouble: None,
                refused: false,
                learned: true,
            });
        }
    }

    /// The cell's members are at these addresses now: others that it had named are forgotten, but for the one in use.
    pub(crate) fn members<'a>(&mut self, addresses: impl Iterator<Item = &'a str> + Clone) {
        let current = self.current().to_owned();
        let is_member = |known: &Known| addresses.clone().any(|address| address == known.address);
        self.known.retain(|known| !known.learned || known.address == current || is_member(known));
        self.current = self.known.iter().position(|known| known.address == current).unwrap_or(0);
        addresses.clone().for_each(|address| self.learn(address));
    }

    /// The address to try, or that is in use.
    pub(crate) fn current(&self) -> &str {
        &self.known[self.current].address
    }

    /// On to the next one.
    pub(crate) fn advance(&mut self) {
        self.current = (self.current + 1) % self.known.len();
    }

    /// `address` is the one in use.
    pub(crate) fn settle(&mut self, address: &str) {
        self.learn(address);
        if let Some(index) = self.known.iter().position(|known| known.address == address) {
            self.current = index;
            self.known[index].trouble = None;
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Notes what went wrong at `address`, in place of what went wrong there before.
    pub(crate) fn trouble(&mut self, address: &str, text: String) {
        if let Some(known) = self.known.iter_mut().find(|known| known.address == address) {
            (known.trouble, known.refused) = (Some(text), false);
        }
    }

    /// As [`Addresses::trouble`], for a refusal that will not pass.
    pub(crate) fn refused(&mut self, address: &str, text: String) {
        self.trouble(address, text);
        if let Some(known) = self.known.iter_mut().find(|known| known.address == address) {
            known.refused = true;
        }
    }

    /// Whether none of them will have this client.
    pub(crate) fn all_refuse(&self) -> bool {
        self.known.iter().all(|known| known.refused)
    }

    /// One has accepted this client: what others refused before counts no more.
    pub(crate) fn forget_refusals(&mut self) {
        self.known.iter_mut().for_each(|known| known.refused = false);
    }

    /// What went wrong, at all addresses where something did.
    pub(crate) fn troubles(&self) -> String {
        let mut all = String::new();
        for Known { address, trouble, .. } in &self.known {
            if let Some(trouble) = trouble {
                let separator = if all.is_empty() { "" } else { "; " };
                let _ = write!(all, "{separator}{address}: {trouble}");
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: &Addresses) -> Vec<&str> {
        addresses.known.iter().map(|known| known.address.as_str()).collect()
    }

    /// Spec F-4: the members that the cell has now are known; those that have left are not tried for ever.
    #[test]
    fn members_come_and_go() {
        let mut addresses = Addresses::new(vec!["a:1".into(), "b:1".into()], 1);
        addresses.members(["a:1", "b:1", "c:1"].into_iter());
        addresses.settle("c:1");
        addresses.members(["d:1", "e:1"].into_iter());
        assert_eq!(
            all(&addresses),
            ["a:1", "b:1", "c:1", "d:1", "e:1"],
            "given ones and the one in use stay"
        );
        assert_eq!(addresses.current(), "c:1");
        addresses.settle("e:1");
        addresses.members(["e:1"].into_iter());
        assert_eq!(all(&addresses), ["a:1", "b:1", "e:1"]);
        assert_eq!(addresses.current(), "e:1");
    }
}
