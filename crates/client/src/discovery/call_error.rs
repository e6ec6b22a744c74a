//! Why a call to a service had no answer.

use std::sync::Arc;
use std::time::Duration;

use bramah_balance::{GiveUp, PickError};

use super::connector::BoxError;

/// Why a call to a service had no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is nobody to ask. It was not sent.
    #[error("{service}: {source}")]
    NoInstance {
        /// The service.
        service: Arc<str>,
        /// Why there is nobody.
        source: PickError,
    },
    /// It was not sent: the instance that was to get it could not be reached.
    #[error(
        "{service}: instance {instance} could not be reached, so the call was not sent: {source}{}",
        given_up(give_up)
    )]
    NotSent {
        /// The service.
        service: Arc<str>,
        /// Who was tried last.
        instance: Arc<str>,
        /// What went wrong there.
        source: BoxError,
        /// Why it was not tried elsewhere.
        give_up: Option<GiveUp>,
    },
    /// It may have been done: it was sent, and failed.
    #[error("{service}: the call failed at instance {instance}: {source}{}", given_up(give_up))]
    Failed {
        /// The service.
        service: Arc<str>,
        /// Who was tried last.
        instance: Arc<str>,
        /// What went wrong there.
        source: BoxError,
        /// Why it was not tried elsewhere; none: it may not be done twice.
        give_up: Option<GiveUp>,
    },
    /// It may have been done: it was sent, and had no answer in time.
    #[error("{service}: instance {instance} had no answer within {} ms{}", waited.as_millis(), given_up(give_up))]
    TimedOut {
        /// The service.
        service: Arc<str>,
        /// Who was tried last.
        instance: Arc<str>,
        /// How long it was waited for.
        waited: Duration,
        /// Why it was not tried elsewhere; none: it may not be done twice.
        give_up: Option<GiveUp>,
    },
}

fn given_up(give_up: &Option<GiveUp>) -> String {
    give_up.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
}

impl CallError {
    /// Whether the call may have been done. `false` is certain: it was not sent.
    #[must_use]
    pub fn may_have_been_done(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::TimedOut { .. })
    }

    pub(super) fn giving_up(mut self, why: GiveUp) -> Self {
        match &mut self {
            Self::NoInstance { .. } => {}
            Self::NotSent { give_up, .. } | Self::Failed { give_up, .. } | Self::TimedOut { give_up, .. } => {
                *give_up = Some(why);
            }
        }
        self
    }
}
