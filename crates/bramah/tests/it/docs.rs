//! What the guides say is true: each `console` block is typed into a cell, and each Rust block stands in a file that is
//! compiled and run.
//!
//! In a console block a line that begins with `$ ` is a command, `…` in what follows stands for anything, and a command
//! that ends with `&` runs on while the next ones do. All blocks of a page are typed into one shell and one new cell.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{BRAMAH, TestCell, finish};

const GUIDES: [&str; 6] = [
    "docs/getting-started.md",
    "docs/locks.md",
    "docs/elections.md",
    "docs/sessions.md",
    "docs/watching.md",
    "docs/discovery.md",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/bramah is two below").to_owned()
}

/// The blocks of a page that are marked as this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```").filter(|mark| !mark.is_empty()) else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if mark == language {
            found.push(body.join("\n"));
        }
    }
    found
}

/// A command and what it prints.
struct Step {
    command: String,
    output: Vec<String>,
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
            (None, Some(step)) if goes_on => step.command.push_str(&format!("\n{line}")),
            (None, Some(step)) => step.output.push(line.to_owned()),
            (None, None) => panic!("a console block begins with a command: {block}"),
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

/// Whether a line is as the guide has it, where `…` stands for anything, and how many spaces there are means nothing.
fn is_like(line: &str, pattern: &str) -> bool {
    let [line, pattern] = [line, pattern].map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return line == pattern };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Types all commands of a page into one shell, with a mark after each, and takes the output apart at the marks.
fn type_in(page: &str, cell: &TestCell) -> Vec<(Step, Vec<String>)> {
    let steps: Vec<Step> = blocks(page, "console").iter().flat_map(|block| steps(block)).collect();
    let mut script = String::from("exec 2>&1\n");
    for (number, step) in steps.iter().enumerate() {
        // Some print no end of line.
        script.push_str(&format!("{}\nprintf '\\n--- {number}\\n'\n", step.command));
    }
    // What runs on in the background ends with the shell.
    script.push_str("kill $(jobs -p) 2>/dev/null\nwait\n");
    let program = Path::new(BRAMAH).parent().expect("a binary is in a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let shell = Command::new("bash")
        .args(["-c", &script])
        .current_dir(cell.folder.path())
        .env("PATH", path)
        .env("BRAMAH_ADDRESSES", cell.layout.addresses())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let output = finish(shell);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let told = (0..steps.len()).map(|number| {
        let mark = format!("--- {number}");
        let mut told: Vec<String> =
            lines.by_ref().take_while(|line| *line != mark).map(str::to_owned).collect();
        told.pop_if(|last| last.is_empty());
        told
    });
    let told: Vec<Vec<String>> = told.collect();
    steps.into_iter().zip(told).collect()
}

#[test]
fn what_the_guides_show_is_what_is_printed() {
    let mut wrong = Vec::new();
    for guide in GUIDES {
        let page = std::fs::read_to_string(repository().join(guide)).expect("the guide is there");
        let cell = TestCell::start(1);
        for (step, told) in type_in(&page, &cell) {
            let alike = told.len() == step.output.len()
                && told.iter().zip(&step.output).all(|(line, pattern)| is_like(line, pattern));
            if !alike {
                let (expected, told) = (step.output.join("\n"), told.join("\n"));
                wrong.push(format!(
                    "{guide}: $ {}\n--- it says\n{expected}\n--- it prints\n{told}",
                    step.command
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The Rust that a guide shows is a stretch of an example, so it compiles and runs as part of one.
#[test]
fn the_rust_of_the_guides_is_that_of_the_examples() {
    let examples: Vec<String> = std::fs::read_dir(repository().join("crates/bramah/examples"))
        .expect("the examples are there")
        .map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).expect("text"))
        .map(|text| without_spaces(&text))
        .collect();
    for guide in GUIDES {
        let page = std::fs::read_to_string(repository().join(guide)).expect("the guide is there");
        for block in blocks(&page, "rust") {
            let block = without_spaces(&block);
            assert!(
                examples.iter().any(|example| example.contains(&block)),
                "{guide} shows this, and no example has it:\n{block}"
            );
        }
    }
}

/// Where lines end is left to the formatter.
fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn the_examples_of_the_guides_run() {
    let of_locks = ["visitor 1", "held as /jobs/backup#x", "node-1 leads in term 1", "ContentsModified"];
    example_tells("locks", &of_locks);
    example_tells("services", &["web-1 is at 10.0.0.7:8080", "carts: no instance to send this call to"]);
}

fn example_tells(name: &str, lines: &[&str]) {
    let program = Path::new(BRAMAH).with_file_name("examples").join(name);
    let example =
        Command::new(program).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let output = finish(example.expect("cargo builds examples with tests"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout);
    for line in lines {
        assert!(told.contains(line), "{line:?} is not in {told}");
    }
}

#[test]
fn a_pattern_is_like_its_lines() {
    assert!(is_like("a b", "a b") && !is_like("a b c", "a b") && !is_like("b", "a"));
    assert!(is_like("held for 3 ms", "held for … ms") && !is_like("held for 3 s", "held for … ms"));
    assert!(is_like("anything", "…") && is_like("x 1 y 2 z", "x … y … z") && is_like("a  b", "a b"));
    assert_eq!(steps("$ a \\\n  b\nout\n$ c").len(), 2);
    assert_eq!(blocks("```console\n$ a\n```\n```rust\nb\n```\n", "rust"), ["b"]);
}
