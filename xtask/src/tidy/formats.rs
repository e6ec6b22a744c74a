//! Bytes that outlive a process are drawn in `docs/formats.md`.
//!
//! A constant named `MAGIC`, `VERSION` or ending so marks such bytes. The document's table of tags has a row for each, with
//! its file, name and value, so that nobody changes one without the other.

use super::TextFile;

const DOCUMENT: &str = "docs/formats.md";

pub(super) fn problems(files: &[TextFile]) -> Vec<String> {
    let document = files.iter().find(|file| file.path == DOCUMENT).map_or("", |file| file.text.as_str());
    let sources = files.iter().filter(|file| file.path.starts_with("crates/") && file.path.contains("/src/"));
    let mut problems = Vec::new();
    for file in sources.filter(|file| file.path.ends_with(".rs")) {
        for (number, line) in file.text.lines().enumerate() {
            let Some((name, value)) = tag(line) else { continue };
            if !drawn(document, [&file.path, name, value]) {
                let place = format!("{}:{}", file.path, number + 1);
                let row = format!("| `{}` | `{name}` | `{value}` |", file.path);
                problems.push(format!("{place}: {DOCUMENT} lacks the row {row}: draw there what changed"));
            }
        }
    }
    problems
}

/// Name and value of `const NAME: TYPE = VALUE;` if it marks a format.
fn tag(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.trim().split_once("const ")?;
    let (name, rest) = after.split_once(':')?;
    let (_, value) = rest.split_once('=')?;
    let declares = before.is_empty() || before.starts_with("pub");
    let marks = name.ends_with("_VERSION") || name.ends_with("MAGIC") || name == "VERSION";
    let value = value.trim().trim_end_matches(';').trim_start_matches(['*', 'b']).trim_matches('"');
    (declares && marks).then_some((name.trim(), value))
}

fn drawn(document: &str, cells: [&str; 3]) -> bool {
    let same =
        |line: &str| line.split('|').map(|cell| cell.trim().trim_matches('`')).skip(1).take(3).eq(cells);
    document.lines().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str, document: &str) -> usize {
        let file = |path: &str, text: &str| TextFile { path: path.to_owned(), text: text.to_owned() };
        problems(&[file("crates/cell/src/log.rs", source), file(DOCUMENT, document)]).len()
    }

    #[test]
    fn each_tag_has_its_row() {
        let source =
            "pub(crate) const SNAPSHOT_VERSION: u16 = 3;\n    const MAGIC: &[u8; 8] = b\"bramlog\\n\";\n";
        assert_eq!(found(source, ""), 2);
        let magic = "| `crates/cell/src/log.rs` | `MAGIC` | `bramlog\\n` |\n";
        let with_row = |row: &str| found(source, &format!("{magic}{row}\n"));
        assert_eq!(with_row("| `crates/cell/src/log.rs` | `SNAPSHOT_VERSION` | `3` | since 0.1 |"), 0);
        assert_eq!(with_row("| `crates/cell/src/log.rs` | `SNAPSHOT_VERSION` | `2` |"), 1, "another value");
        assert_eq!(with_row("| `crates/cell/src/vote.rs` | `SNAPSHOT_VERSION` | `3` |"), 1, "another file");
    }

    #[test]
    fn other_constants_are_left_alone() {
        assert_eq!(found("const LIMIT: usize = 4;\nlet x = SNAPSHOT_VERSION;\n", ""), 0);
    }
}
