//! `bramah tree`: a directory and all below it.

use bramah_client::{Client, Code, DirectoryEntry, Kind};
use serde_json::{Value, json};

use super::connect::client;
use super::tree::{kind_mark, stat_json};
use crate::cli::{Shared, TreeArgs};
use crate::output::{Failure, Printer};

/// A node and what is below it.
struct Branch {
    entry: DirectoryEntry,
    below: Vec<Branch>,
}

/// Prints it. It is read directory by directory: what changes meanwhile may be seen in part.
pub async fn run(shared: &Shared, args: TreeArgs) -> Result<(), Failure> {
    let client = client(shared).await?;
    let read = read(&client, args.path.clone(), args.depth).await;
    client.close().await;
    let branches = read?;
    let answer = json!({ "path": args.path, "children": branches.iter().map(as_json).collect::<Vec<_>>() });
    let mut lines = vec![args.path];
    draw(&branches, "", &mut lines);
    Printer { json: shared.is_json() }.answer(lines.join("\n"), answer)
}

/// Boxed, because it goes as deep as the tree: 64 levels at most.
fn read(
    client: &Client,
    path: String,
    depth: u32,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Vec<Branch>, Failure>> + '_>> {
    Box::pin(async move {
        let mut branches = Vec::new();
        for entry in client.list(&path).await? {
            let child = format!("{}/{}", path.trim_end_matches('/'), entry.name);
            let mut below = Vec::new();
            if entry.stat.kind == Kind::Directory && entry.stat.children > 0 && depth > 1 {
                below = match read(client, child, depth - 1).await {
                    // It was deleted meanwhile, or is not ours to read.
                    Err(failure) if is_of_one_directory(&failure) => Vec::new(),
                    read => read?,
                };
            }
            branches.push(Branch { entry, below });
        }
        Ok(branches)
    })
}

fn is_of_one_directory(failure: &Failure) -> bool {
    let codes = [Code::NotFound, Code::PermissionDenied].map(|code| serde_json::to_value(code).ok());
    codes.iter().flatten().any(|code| code.as_str() == Some(&*failure.code))
}

fn draw(branches: &[Branch], indent: &str, lines: &mut Vec<String>) {
    for (number, branch) in branches.iter().enumerate() {
        let last = number + 1 == branches.len();
        let (turn, under) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let stat = &branch.entry.stat;
        lines.push(format!("{indent}{turn}{}{}", branch.entry.name, kind_mark(stat)));
        draw(&branch.below, &format!("{indent}{under}"), lines);
    }
}

fn as_json(branch: &Branch) -> Value {
    let mut node = stat_json(&branch.entry.stat);
    node["name"] = json!(branch.entry.name);
    if branch.entry.stat.kind == Kind::Directory {
        node["children"] = branch.below.iter().map(as_json).collect();
    }
    node
}
