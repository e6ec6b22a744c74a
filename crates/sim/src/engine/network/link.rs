//! What a link does to packets, one way.

use rand::RngExt;
use rand::rngs::StdRng;

/// How long a packet usually takes, in milliseconds.
const USUAL_MS: (u64, u64) = (1, 3);

/// The way from one host to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// How many faults let nothing through; none: it is open.
    pub blocks: u32,
    /// The part of packets that is lost, 0 to 1.
    pub loss: f64,
    /// Shortest and longest delay in milliseconds; at least 1.
    pub delay_ms: (u64, u64),
}

impl Default for Link {
    fn default() -> Self {
        Self { blocks: 0, loss: 0.0, delay_ms: USUAL_MS }
    }
}

impl Link {
    /// Lets nothing through from now on, or ends one such block.
    pub fn block(&mut self, begins: bool) {
        self.blocks = if begins { self.blocks + 1 } else { self.blocks.saturating_sub(1) };
    }

    pub(super) fn delay_ms(&self, random: &mut StdRng) -> u64 {
        let (shortest, longest) = self.delay_ms;
        random.random_range(shortest.max(1)..=longest.max(shortest).max(1))
    }

    pub(super) fn loses(&self, random: &mut StdRng) -> bool {
        self.loss > 0.0 && random.random_bool(self.loss)
    }
}
