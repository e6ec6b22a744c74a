//! `get`, `set`, `mkdir`, `ls`, `stat`, `rm`: files and directories.

use std::io::Read;

use base64::Engine;
use bramah_client::{SetOptions, Stat};
use bytes::Bytes;
use serde_json::{Value, json};

use super::connect::client;
use super::table;
use crate::bench::report::with_separators;
use crate::cli::{LsArgs, MkdirArgs, PathArgs, RmArgs, SetArgs, Shared};
use crate::output::{Failure, Printer};

/// Most bytes of a file's contents (spec N-6).
const MAX_CONTENTS_BYTES: u64 = 256 * 1024;

/// Writes a file's contents to standard output, byte for byte.
pub async fn get(shared: &Shared, args: PathArgs) -> Result<(), Failure> {
    let client = client(shared).await?;
    let file = client.get(&args.path).await;
    client.close().await;
    let file = file?;
    let printer = Printer { json: shared.is_json() };
    if !shared.is_json() {
        return printer.bytes(&file.contents);
    }
    let mut answer = json!({ "path": args.path, "stat": stat_json(&file.stat) });
    let (key, contents) = match std::str::from_utf8(&file.contents) {
        Ok(text) => ("contents", text.to_owned()),
        Err(_) => ("contents_base64", base64::engine::general_purpose::STANDARD.encode(&file.contents)),
    };
    answer[key] = Value::String(contents);
    printer.answer("", answer)
}

/// Writes a file.
pub async fn set(shared: &Shared, args: SetArgs) -> Result<(), Failure> {
    let contents = contents(&args)?;
    let client = client(shared).await?;
    let options = SetOptions { if_generation: args.if_generation, parents: args.parents };
    let written = client.set_with(&args.path, contents, options).await;
    client.close().await;
    let written = written?;
    let text = format!("{} has generation {}", args.path, written.generation);
    let answer = json!({
        "path": args.path,
        "generation": written.generation,
        "revision": written.revision,
        "created": written.created,
    });
    Printer { json: shared.is_json() }.answer(text, answer)
}

fn contents(args: &SetArgs) -> Result<Bytes, Failure> {
    let (name, reader): (String, Box<dyn Read>) = match (&args.file, args.value.as_deref()) {
        (Some(path), _) => {
            let file = std::fs::File::open(path);
            let file =
                file.map_err(|error| Failure::usage(format!("cannot open {}: {error}", path.display())))?;
            (path.display().to_string(), Box::new(file))
        }
        (None, None | Some("-")) => ("standard input".into(), Box::new(std::io::stdin().lock())),
        (None, Some(value)) => return Ok(Bytes::from(value.to_owned())),
    };
    read_at_most(reader, MAX_CONTENTS_BYTES)
        .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))
}

/// Reads to the end, or fails once there is more than `limit`: not first all of it.
fn read_at_most(reader: impl Read, limit: u64) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!(
            "it is longer than {limit} bytes, the most a file can hold; split it, or keep only its name here"
        ));
    }
    Ok(bytes.into())
}

/// Makes a directory.
pub async fn mkdir(shared: &Shared, args: MkdirArgs) -> Result<(), Failure> {
    let client = client(shared).await?;
    let made = if args.parents { client.mkdir_all(&args.path).await } else { client.mkdir(&args.path).await };
    client.close().await;
    let made = made?;
    let answer = json!({ "path": args.path, "revision": made.revision, "created": made.created });
    Printer { json: shared.is_json() }.answer("", answer)
}

/// Lists a directory.
pub async fn ls(shared: &Shared, args: LsArgs) -> Result<(), Failure> {
    let client = client(shared).await?;
    let entries = client.list(&args.path).await;
    client.close().await;
    let entries = entries?;
    let listed: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut listed = stat_json(&entry.stat);
            listed["name"] = Value::String(entry.name.clone());
            listed
        })
        .collect();
    let answer = json!({ "path": args.path, "entries": listed });
    let text = if args.long {
        let mut table = table::new(["name", "kind", "bytes", "generation", "revision"]);
        for entry in &entries {
            let stat = &entry.stat;
            let kind = kind_name(stat);
            let row = [
                entry.name.clone(),
                kind.into(),
                with_separators(stat.length),
                stat.content_generation.to_string(),
                stat.modified_revision.to_string(),
            ];
            table.add_row(row);
        }
        table.trim_fmt()
    } else {
        entries
            .iter()
            .map(|entry| format!("{}{}", entry.name, kind_mark(&entry.stat)))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Printer { json: shared.is_json() }.answer(text, answer)
}

/// Shows what a node is.
pub async fn stat(shared: &Shared, args: PathArgs) -> Result<(), Failure> {
    let client = client(shared).await?;
    let stat = client.stat(&args.path).await;
    client.close().await;
    let stat = stat?;
    let mut table = table::new([args.path.as_str(), ""]);
    table.add_row(["kind", kind_name(&stat)]);
    for (name, number) in [
        ("bytes", stat.length),
        ("children", stat.children),
        ("content generation", stat.content_generation),
        ("instance", stat.instance),
        ("created at revision", stat.created_revision),
        ("last changed at revision", stat.modified_revision),
    ] {
        table.add_row([name.to_owned(), with_separators(number)]);
    }
    table.add_row(["ephemeral", if stat.ephemeral { "yes" } else { "no" }]);
    table.add_row(["checksum".to_owned(), format!("{:016x}", stat.checksum)]);
    let mut answer = stat_json(&stat);
    answer["path"] = Value::String(args.path.clone());
    Printer { json: shared.is_json() }.answer(table.trim_fmt(), answer)
}

/// Deletes a node.
pub async fn rm(shared: &Shared, args: RmArgs) -> Result<(), Failure> {
    let client = client(shared).await?;
    let deleted = match args.if_generation {
        _ if args.recursive => client.delete_tree(&args.path).await,
        Some(generation) => client.delete_if(&args.path, generation).await,
        None => client.delete(&args.path).await,
    };
    client.close().await;
    deleted?;
    Printer { json: shared.is_json() }.answer("", json!({ "path": args.path, "deleted": true }))
}

pub(super) fn stat_json(stat: &Stat) -> Value {
    json!({
        "kind": kind_name(stat),
        "instance": stat.instance,
        "content_generation": stat.content_generation,
        "lock_generation": stat.lock_generation,
        "acl_generation": stat.acl_generation,
        // As text: a JSON reader may hold numbers as floating point.
        "checksum": format!("{:016x}", stat.checksum),
        "length": stat.length,
        "children": stat.children,
        "created_revision": stat.created_revision,
        "modified_revision": stat.modified_revision,
        "ephemeral": stat.ephemeral,
        "acl": stat.acl,
    })
}

fn kind_name(stat: &Stat) -> &'static str {
    match stat.kind {
        bramah_client::Kind::Directory => "directory",
        bramah_client::Kind::File => "file",
        bramah_client::Kind::Counter => "counter",
        _ => "unknown to this version",
    }
}

/// As `ls -F` marks them.
pub(super) fn kind_mark(stat: &Stat) -> &'static str {
    match stat.kind {
        bramah_client::Kind::Directory => "/",
        bramah_client::Kind::Counter => "#",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_input_is_refused_without_reading_all_of_it() {
        assert_eq!(read_at_most(&b"abc"[..], 3).expect("it fits").as_ref(), b"abc");
        let endless = std::io::repeat(b'x');
        assert!(read_at_most(endless, 3).expect_err("too long").contains("longer than 3 bytes"));
    }
}
