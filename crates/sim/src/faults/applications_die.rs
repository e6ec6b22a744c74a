//! A process that holds a session and calls under way is gone.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct ApplicationsDie;

impl Fault for ApplicationsDie {
    fn name(&self) -> &'static str {
        "applications die"
    }

    fn why(&self) -> &'static str {
        "what it asked for may be done or not, but never twice, and its session ends by itself (spec S-6)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        if storm.random().random_ratio(2, 3) {
            return None;
        }
        storm.replace_application();
        storm.fired(self.name());
        Some("an application was killed and another started".to_owned())
    }
}
