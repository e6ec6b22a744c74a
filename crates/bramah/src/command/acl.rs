//! `bramah acl`, `bramah quota`, `bramah token`: who may do what, how much, and who they are.

use bramah_client::{AclNames, QuotaLimits};
use serde_json::json;

use super::connect::client;
use crate::bench::report::with_separators;
use crate::cli::{AclCommand, QuotaCommand, Shared};
use crate::output::{Failure, Printer};

/// Shows or sets the names of a node's ACLs.
pub async fn acl(shared: &Shared, command: AclCommand) -> Result<(), Failure> {
    let client = client(shared).await?;
    let (path, done) = match command {
        AclCommand::Get { path } => {
            let stat = client.stat(&path).await;
            (path, stat.map(|stat| (stat.acl, stat.acl_generation)))
        }
        AclCommand::Set { path, read, write, change_acl } => {
            let set = async {
                let stat = client.stat(&path).await?;
                let names = AclNames {
                    read: read.unwrap_or(stat.acl.read),
                    write: write.unwrap_or(stat.acl.write),
                    change_acl: change_acl.unwrap_or(stat.acl.change_acl),
                };
                // What was read is what is changed: not what somebody else has made of it meanwhile.
                let set = client.set_acl(&path, names.clone(), Some(stat.acl_generation)).await?;
                Ok((names, set.generation))
            };
            let set = set.await;
            (path, set)
        }
    };
    client.close().await;
    let (names, generation) = done?;
    let shown = |name: &str| if name.is_empty() { "everybody".to_owned() } else { name.to_owned() };
    let text = format!(
        "{path}: read {}, write {}, change-acl {}",
        shown(&names.read),
        shown(&names.write),
        shown(&names.change_acl)
    );
    let answer = json!({ "path": path, "acl": names, "acl_generation": generation });
    Printer { json: shared.is_json() }.answer(text, answer)
}

/// Shows or sets what a directory may hold.
pub async fn quota(shared: &Shared, command: QuotaCommand) -> Result<(), Failure> {
    let client = client(shared).await?;
    let (path, set) = match command {
        QuotaCommand::Get { path } => (path, Ok(())),
        QuotaCommand::Set { path, nodes, bytes } => {
            let set = client.set_quota(&path, QuotaLimits { nodes, bytes }).await;
            (path, set)
        }
    };
    let quota = match set {
        Ok(()) => client.quota(&path).await,
        Err(error) => Err(error),
    };
    client.close().await;
    let quota = quota?;
    let of = |used: u64, limit: Option<u64>| {
        let limit = limit.map_or("any number".to_owned(), with_separators);
        format!("{} of {limit}", with_separators(used))
    };
    let text = format!(
        "{path}: {} nodes, {} bytes",
        of(quota.used_nodes, quota.limits.nodes),
        of(quota.used_bytes, quota.limits.bytes)
    );
    Printer { json: shared.is_json() }.answer(text, json!({ "path": path, "quota": quota }))
}
