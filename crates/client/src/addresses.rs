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
}

impl Addresses {
    /// At least one address; `first` is tried first, counted around.
    pub(crate) fn new(given: Vec<String>, first: usize) -> Self {
        let mut addresses = Self { known: Vec::with_capacity(given.len()), current: 0 };
        for address in given {
            addresses.learn(&address);
        }
        addresses.current = first % addresses.known.len();
        addresses
    }

    /// Adds an address unless it is known.
    pub(crate) fn learn(&mut self, address: &str) {
        let known = self.known.iter().any(|known| known.address == address);
        if !known && !address.is_empty() && self.known.len() < MOST {
            self.known.push(Known { address: address.to_owned(), trouble: None });
        }
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
            known.trouble = Some(text);
        }
    }

    /// What went wrong, at all addresses where something did.
    pub(crate) fn troubles(&self) -> String {
        let mut all = String::new();
        for Known { address, trouble } in &self.known {
            if let Some(trouble) = trouble {
                let separator = if all.is_empty() { "" } else { "; " };
                let _ = write!(all, "{separator}{address}: {trouble}");
            }
        }
        all
    }
}
