//! The one place that decides who a caller is (spec A-2).

use bramah_cell::WallClock;
use bramah_machine::Principal;
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use tonic::metadata::MetadataMap;

use super::translate;
use crate::principals::{TokenError, TokenKey};

/// Tells callers apart by the tokens that they show.
#[derive(Clone, Debug)]
pub(super) struct Door {
    key: Option<TokenKey>,
    clock: WallClock,
}

impl Door {
    pub(super) fn new(key: Option<TokenKey>, clock: WallClock) -> Door {
        Door { key, clock }
    }

    /// Whether the cell tells callers apart at all.
    pub(super) fn knows_callers(&self) -> bool {
        self.key.is_some()
    }

    /// Who sent a request: whom its `authorization: Bearer <token>` names, else nobody in particular.
    pub(super) fn principal(&self, metadata: &MetadataMap) -> Result<Principal, v1::Failure> {
        let mut shown = metadata.get_all("authorization").iter();
        let Some(shown_first) = shown.next() else { return Ok(Principal::anonymous()) };
        if shown.next().is_some() {
            return Err(refused(&TokenError::Malformed("`authorization` came twice")));
        }
        let text = shown_first.to_str().map_err(|_| refused(&TokenError::Malformed("it is not ASCII")))?;
        let token = token(text).ok_or_else(|| {
            refused(&TokenError::Malformed("`authorization` must be `Bearer`, a space and the token"))
        })?;
        let key = self.key.as_ref().ok_or_else(|| refused(&TokenError::NoKey))?;
        key.verify(token, self.clock.now_ms() / 1_000).map_err(|error| refused(&error))
    }
}

fn token(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refused(error: &TokenError) -> v1::Failure {
    translate::failure(Code::Unauthenticated, error.to_string())
}

/// Whether two secrets are the same, in a time that does not tell where they differ.
pub(super) fn same_secret(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(key: Option<TokenKey>) -> Door {
        Door::new(key, WallClock::from_fn(|| 5_000_999))
    }

    fn shown(values: &[&str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append("authorization", value.parse().expect("ASCII"));
        }
        metadata
    }

    /// Spec A-2: nobody in particular, a principal, or refused, and why.
    #[test]
    fn a_caller_is_who_its_token_says() {
        let key = TokenKey::new(&[1; 32]).expect("long enough");
        let token = |expires| key.create("ann", expires).expect("a name");
        let open = door(Some(key.clone()));
        assert_eq!(open.principal(&shown(&[])).expect("anonymous"), Principal::anonymous());
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let bearer = format!("{scheme} {}", token(Some(5_001)));
            assert_eq!(open.principal(&shown(&[&bearer])).expect("good").name(), "ann");
        }
        let good = format!("Bearer {}", token(None));
        let over = format!("Bearer {}", token(Some(5_000)));
        let cases = [
            (open.principal(&shown(&[&over])), "ended 0 s ago"),
            (open.principal(&shown(&[&good, &good])), "came twice"),
            (open.principal(&shown(&["Basic YTpi"])), "must be `Bearer`"),
            (open.principal(&shown(&["Bearer"])), "must be `Bearer`"),
            (open.principal(&shown(&["Bearer x"])), "damaged"),
            (door(None).principal(&shown(&[&good])), "no key for tokens"),
            (
                door(TokenKey::new(&[2; 32]).ok()).principal(&shown(&[&good])),
                "not signed with this cell's key",
            ),
        ];
        for (refused, why) in cases {
            let failure = refused.expect_err(why);
            assert_eq!(failure.code(), Code::Unauthenticated);
            assert!(failure.message.contains(why), "{}", failure.message);
        }
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same_secret(&[1; 16], &[1; 16]));
        assert!(!same_secret(&[1; 16], &[1; 15]) && !same_secret(&[], &[1; 16]));
        for place in 0..16 {
            let mut other = [1; 16];
            other[place] = 0;
            assert!(!same_secret(&[1; 16], &other));
        }
    }
}
