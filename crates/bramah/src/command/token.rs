//! `bramah token`: keys and tokens. Both are made here, without asking the cell.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bramah_server::TokenKey;
use rand::RngExt;
use serde_json::json;

use crate::cli::{Shared, TokenCommand};
use crate::output::{Failure, Printer};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Does it.
pub fn run(shared: &Shared, command: TokenCommand) -> Result<(), Failure> {
    let printer = Printer { json: shared.is_json() };
    match command {
        TokenCommand::Key { file } => {
            make_key(&file)?;
            let text =
                format!("{0} is a new key; give it to every replica as token_key_file", file.display());
            printer.answer(text, json!({ "key_file": file }))
        }
        TokenCommand::Create { principal, key_file, valid } => {
            let key = TokenKey::read(&key_file).map_err(|error| Failure::usage(error.to_string()))?;
            let expires = valid.map(expires).transpose()?;
            let token = key.create(&principal, expires).map_err(|error| Failure::usage(error.to_string()))?;
            printer.answer(&token, json!({ "token": token, "principal": principal, "expires": expires }))
        }
    }
}

/// Only its owner may read it.
fn make_key(file: &Path) -> Result<(), Failure> {
    let key: [u8; KEY_BYTES] = rand::rng().random();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    made.and_then(|mut made| made.write_all(&key).and_then(|()| made.sync_all()))
        .map_err(|error| Failure::usage(format!("cannot make the key {}: {error}", file.display())))
}

/// Seconds since 1970.
fn expires(valid: Duration) -> Result<u64, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| Failure::refused("this machine's clock is before 1970; set it right"))?;
    Ok((now + valid).as_secs())
}
