//! Rules for one Rust file.

use super::TextFile;

/// Longer files usually hold two rooms.
const LONGEST_FILE: usize = 700;

/// Files that may be longer, and why.
const ALLOWED_LONGER: &[(&str, &str)] = &[];

/// What must not be in code that is called finished. Cut in two, so that this file does not contain them.
const UNFINISHED: &[(&str, &str)] = &[
    (concat!("to", "do!("), "finish it"),
    (concat!("unimpl", "emented!("), "finish it"),
    (concat!("db", "g!("), "remove it, or log it"),
    (concat!("#[ign", "ore"), "a test runs, or prints `LEFT OUT: why` and returns"),
];

pub(super) fn problems(file: &TextFile) -> Vec<String> {
    let mut problems = Vec::new();
    let path = &file.path;
    if !file.text.starts_with("//!") {
        problems.push(format!("{path}:1: does not begin with a //! line: say in one what the file is for"));
    }
    let lines = file.text.lines().count();
    if lines > LONGEST_FILE && !ALLOWED_LONGER.iter().any(|(allowed, _)| allowed == path) {
        problems
            .push(format!("{path}: {lines} lines, more than {LONGEST_FILE}: it holds two things; part them"));
    }
    for (number, line) in file.text.lines().enumerate() {
        for (needle, advice) in UNFINISHED {
            if line.contains(needle) {
                problems.push(format!("{path}:{}: {needle}: {advice}", number + 1));
            }
        }
    }
    problems
}

/// Allowances for files that are gone or short by now.
pub(super) fn unused_allowances(files: &[TextFile]) -> Vec<String> {
    let needed =
        |path: &str| files.iter().any(|file| file.path == path && file.text.lines().count() > LONGEST_FILE);
    let unused = ALLOWED_LONGER.iter().filter(|(path, _)| !needed(path));
    unused
        .map(|(path, _)| {
            format!("{path} may be longer than {LONGEST_FILE} lines, but is not: take it off the list")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        problems(&TextFile { path: "crates/x/src/a.rs".to_owned(), text: text.to_owned() })
    }

    #[test]
    fn a_file_begins_with_what_it_is_for() {
        assert_eq!(found("//! A.\nfn a() {}\n"), [""; 0]);
        assert_eq!(found("// A.\nfn a() {}\n").len(), 1);
        assert_eq!(found("").len(), 1);
    }

    #[test]
    fn unfinished_code_is_named_with_its_line() {
        for (needle, _) in UNFINISHED {
            let problems = found(&format!("//! A.\n{needle}\n"));
            assert_eq!(problems.len(), 1, "{needle}");
            assert!(problems[0].starts_with("crates/x/src/a.rs:2: "), "{problems:?}");
        }
    }

    #[test]
    fn long_files_are_seen() {
        let lines = |count: usize| "//! A.\n".repeat(count);
        assert_eq!(found(&lines(LONGEST_FILE)), [""; 0]);
        assert_eq!(found(&lines(LONGEST_FILE + 1)).len(), 1);
    }
}
