//! Who a caller is (spec A-2): nobody in particular, or whom a token signed with the cell's key names.
//!
//! A token is `base64url(body ‖ mac)` without padding. The body: a byte for the version, 1; the end of its validity in
//! seconds since 1970 as 8 bytes, big-endian, 0 for none; the principal's name. The mac is HMAC-SHA256 (RFC 2104) of a
//! label and the body.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bramah_machine::Principal;
use bramah_wire::limits::MAX_TOKEN_BYTES;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;

/// The fewest bytes of a key.
pub const MIN_TOKEN_KEY_BYTES: usize = 32;
/// The most bytes of a key: more is a file of something else.
const MAX_KEY_BYTES: u64 = 4_096;

/// What tells the macs of tokens from others made with the same key.
const LABEL: &[u8] = b"bramah token\0";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8;
const MAC_BYTES: usize = 32;

/// The key that a cell's tokens are signed with: whoever has it can be anybody.
#[derive(Clone)]
pub struct TokenKey(Arc<[u8]>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// Why a token is not good, or can't be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is no token.
    #[error("the token is damaged, or none of this version: {0}; have another one made")]
    Malformed(&'static str),
    /// It was signed with another key, or changed.
    #[error(
        "the token was not signed with this cell's key, or was changed; have one made with the cell's key file"
    )]
    WrongKey,
    /// Its time is over.
    #[error("the token of {principal} ended {ago_s} s ago; have another one made")]
    Expired {
        /// Whose it was.
        principal: Principal,
        /// How long ago, in seconds.
        ago_s: u64,
    },
    /// The cell knows no principals.
    #[error(
        "this replica has no key for tokens, so it can't tell whose this is; start it with `token_key_file`, or send no token"
    )]
    NoKey,
    /// The name can't be a principal's.
    #[error("{0}")]
    Name(String),
    /// The key is too short.
    #[error("a key for tokens has at least {MIN_TOKEN_KEY_BYTES} random bytes, and this has {0}")]
    ShortKey(usize),
}

/// Why a file with a key can't be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// It can't be read.
    #[error("the key file {path} can't be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Others may read or write it.
    #[error(
        "the key file {path} is open to others (mode {mode:o}); run `chmod 600 {path}`, and make a new key if it was read"
    )]
    Open {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// What is in it is no key.
    #[error("the key file {path} holds no key: {error}")]
    NoKey {
        /// The file.
        path: String,
        /// Why.
        error: TokenError,
    },
    /// It is too long for a key.
    #[error("the key file {path} has more than {MAX_KEY_BYTES} bytes; is it the right file?")]
    TooLong {
        /// The file.
        path: String,
    },
}

impl TokenKey {
    /// A key of at least [`MIN_TOKEN_KEY_BYTES`] random bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn new(bytes: &[u8]) -> Result<TokenKey, TokenError> {
        match bytes.len() >= MIN_TOKEN_KEY_BYTES {
            true => Ok(TokenKey(Arc::from(bytes))),
            false => Err(TokenError::ShortKey(bytes.len())),
        }
    }

    /// The key in a file: all of its bytes.
    ///
    /// # Errors
    /// When it can't be read, when others than its owner may read or write it, and when it holds no key.
    pub fn read(file: &Path) -> Result<TokenKey, KeyFileError> {
        let path = file.display().to_string();
        let unreadable = |error| KeyFileError::Unreadable { path: path.clone(), error };
        let opened = std::fs::File::open(file).map_err(unreadable)?;
        let mode = mode(&opened.metadata().map_err(unreadable)?);
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { path, mode });
        }
        let mut bytes = Vec::new();
        opened.take(MAX_KEY_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_KEY_BYTES {
            return Err(KeyFileError::TooLong { path });
        }
        TokenKey::new(&bytes).map_err(|error| KeyFileError::NoKey { path, error })
    }

    /// A token for a principal, good until `expires` in seconds since 1970; `None`: as long as the key is.
    ///
    /// # Errors
    /// When the name can't be a principal's.
    pub fn create(&self, principal: &str, expires: Option<u64>) -> Result<String, TokenError> {
        let principal = named(principal)?;
        let expires = expires.unwrap_or(0).to_be_bytes();
        Ok(self.signed(&[&[VERSION], &expires[..], principal.name().as_bytes()].concat()))
    }

    pub(crate) fn signed(&self, body: &[u8]) -> String {
        let mac = self.mac(body).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([body, &mac].concat())
    }

    /// Whose a token is, at `now` in seconds since 1970.
    ///
    /// # Errors
    /// When it is damaged, signed with another key, or its time is over.
    pub fn verify(&self, token: &str, now: u64) -> Result<Principal, TokenError> {
        let bytes = decode(token)?;
        let (body, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
        // In constant time; nothing that the body says is used before.
        self.mac(body).verify_slice(mac).map_err(|_| TokenError::WrongKey)?;
        let (head, name) = body.split_at(HEAD_BYTES);
        if head[0] != VERSION {
            return Err(TokenError::Malformed("it is of another version"));
        }
        let name = std::str::from_utf8(name).map_err(|_| TokenError::Malformed("its name is no text"))?;
        let principal = named(name)?;
        let expires = head[1..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match expires != 0 && expires <= now {
            true => Err(TokenError::Expired { principal, ago_s: now - expires }),
            false => Ok(principal),
        }
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.chain_update(LABEL).chain_update(body)
    }
}

fn decode(token: &str) -> Result<Vec<u8>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed("it has more than 1,024 bytes"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed("it is not base64url"))?;
    match bytes.len() > HEAD_BYTES + MAC_BYTES {
        true => Ok(bytes),
        false => Err(TokenError::Malformed("it is too short")),
    }
}

fn named(name: &str) -> Result<Principal, TokenError> {
    Principal::named(name).map_err(|refusal| TokenError::Name(refusal.to_string()))
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o7777
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> TokenKey {
        TokenKey::new(&[byte; 32]).expect("long enough")
    }

    /// Spec A-2: a token proves who its bearer is, to those with the key, until its time is over.
    #[test]
    fn a_token_names_its_principal() {
        let token = key(1).create("ann", None).expect("a name");
        assert_eq!(key(1).verify(&token, u64::MAX).expect("no end").name(), "ann");
        let token = key(1).create("ann", Some(1_000)).expect("a name");
        assert_eq!(key(1).verify(&token, 999).expect("not yet over").name(), "ann");
        let expired = TokenError::Expired { principal: named("ann").expect("a name"), ago_s: 0 };
        assert_eq!(key(1).verify(&token, 1_000), Err(expired));
        assert_eq!(key(2).verify(&token, 999), Err(TokenError::WrongKey));
        let longest = "x".repeat(bramah_machine::MAX_PRINCIPAL_BYTES);
        let token = key(1).create(&longest, Some(u64::MAX)).expect("a name");
        assert_eq!(key(1).verify(&token, 0).expect("it fits").name(), longest);
    }

    /// Spec A-2: whatever is changed in a token, it is good no more.
    #[test]
    fn a_changed_token_is_refused() {
        let token = key(1).create("ann", Some(1_000)).expect("a name");
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64");
        for place in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[place / 8] ^= 1 << (place % 8);
            assert_eq!(key(1).verify(&URL_SAFE_NO_PAD.encode(changed), 0), Err(TokenError::WrongKey));
        }
        for length in 0..token.len() {
            assert!(key(1).verify(&token[..length], 0).is_err(), "cut to {length}");
        }
        for none in ["", "ann", "~~~~", &format!("{token}="), &"A".repeat(5_000)] {
            assert!(matches!(key(1).verify(none, 0), Err(TokenError::Malformed(_))), "{none}");
        }
    }

    /// The form is fixed: tokens outlive versions.
    #[test]
    fn a_token_looks_as_it_always_did() {
        let token = key(1).create("ann", Some(1_893_456_000)).expect("a name");
        assert_eq!(token, "AQAAAABw29iAYW5ubBM9fg2IECStA9Ir2ssy9ah2jkKHjVzr0GRX55Rp37A");
    }

    #[test]
    fn names_that_no_acl_can_list_get_no_token() {
        for name in ["", "*", "#x", " ann", "a\nb", &"x".repeat(257)] {
            assert!(matches!(key(1).create(name, None), Err(TokenError::Name(_))), "{name:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_must_be_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let write = |bytes: usize, mode: u32| {
            std::fs::write(&file, vec![7; bytes]).expect("it is written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("it is mine");
            TokenKey::read(&file)
        };
        assert!(matches!(TokenKey::read(&file), Err(KeyFileError::Unreadable { .. })));
        for mode in [0o640, 0o604, 0o620, 0o601] {
            assert!(matches!(write(32, mode), Err(KeyFileError::Open { .. })), "{mode:o}");
        }
        let error = write(31, 0o600).expect_err("too short");
        assert!(error.to_string().contains("at least 32 random bytes"), "{error}");
        assert!(matches!(write(4_097, 0o600), Err(KeyFileError::TooLong { .. })));
        assert!(write(32, 0o400).is_ok() && write(4_096, 0o600).is_ok());
    }
}
