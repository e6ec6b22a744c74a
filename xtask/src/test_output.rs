//! Reads what test binaries print and keeps count.

use std::collections::BTreeSet;

/// What a test prints when it cannot run here, followed by the reason.
pub(crate) const LEFT_OUT: &str = "LEFT OUT:";

/// Counts over all test binaries of one `cargo test -- --show-output`.
#[derive(Debug, Default)]
pub(crate) struct TestOutput {
    passed: u64,
    ignored: u64,
    started: u64,
    /// The binary whose verdict is still to come.
    running: Option<String>,
    failures: Vec<String>,
    left_out: Vec<String>,
    left_out_tests: BTreeSet<(u64, String)>,
    section: Section,
    /// The binary that runs, as cargo names it.
    binary: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Progress,
    /// Between `successes:` and the verdict: output of tests that passed, which nobody needs to see.
    Successes { test: Option<String> },
}

impl TestOutput {
    /// Takes in one line; true if it is worth showing.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(verdict) = line.strip_prefix("test result: ") {
            self.section = Section::Progress;
            self.verdict(verdict);
            return true;
        }
        if line == "successes:" {
            self.section = Section::Successes { test: None };
            return false;
        }
        if line == "failures:" {
            self.section = Section::Progress;
            return true;
        }
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let (Section::Successes { test }, Some(name)) = (&mut self.section, heading) {
            *test = Some(name.to_owned());
        }
        if let Some(reason) = line.trim_start().strip_prefix(LEFT_OUT) {
            self.note_left_out(reason.trim());
            return false;
        }
        if self.section != Section::Progress {
            return false;
        }
        self.progress(line);
        true
    }

    fn progress(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("running ") else {
            if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                self.failures.push(self.full_name(name));
            } else if let Some((name, reason)) =
                line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
            {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() { "ignored" } else { reason };
                self.left_out.push(format!("{}: {reason}", self.full_name(name)));
            } else if let Some(binary) = binary_name(line) {
                self.binary = binary.to_owned();
            }
            return;
        };
        if rest.ends_with(" test") || rest.ends_with(" tests") {
            self.started += 1;
            self.note_crash();
            self.running = Some(self.binary.clone());
        }
    }

    fn note_left_out(&mut self, reason: &str) {
        match &self.section {
            Section::Successes { test: Some(test) } => {
                self.left_out.push(format!("{}: {reason}", self.full_name(test)));
                self.left_out_tests.insert((self.started, test.clone()));
            }
            _ => self.left_out.push(reason.to_owned()),
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
    fn verdict(&mut self, verdict: &str) {
        self.running = None;
        let counts = verdict.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    fn full_name(&self, test: &str) -> String {
        if self.binary.is_empty() { test.to_owned() } else { format!("{} {test}", self.binary) }
    }

    /// Tests that ran to their end and were content. One that left itself out is not among them.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.saturating_sub(self.left_out_tests.len() as u64)
    }

    /// Tests that were not run, or left out some of what they are for.
    pub(crate) fn skipped(&self) -> u64 {
        self.ignored + self.left_out_tests.len() as u64
    }

    /// What was left out, each with its reason.
    pub(crate) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// A binary that is followed by another, or by the end, without having given its verdict.
    fn note_crash(&mut self) {
        if let Some(binary) = self.running.take() {
            self.failures.push(format!("{binary} ended without a verdict (see above)"));
        }
    }

    /// Names of what failed, once everything was read: tests, and binaries that ended without a verdict.
    pub(crate) fn failures(&mut self) -> Vec<String> {
        self.note_crash();
        std::mem::take(&mut self.failures)
    }
}

/// `one` for `Running unittests src/lib.rs (target/debug/deps/one-0123abcd)` and for `Doc-tests one`.
fn binary_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(name);
    }
    let path = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once('(')?.1;
    let file = path.rsplit('/').next()?;
    Some(file.rsplit_once('-').map_or(file, |(name, _hash)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (TestOutput, String) {
        let mut counted = TestOutput::default();
        let mut shown = String::new();
        for line in output.lines() {
            if counted.line(line) {
                shown.push_str(line);
                shown.push('\n');
            }
        }
        (counted, shown)
    }

    const TWO_BINARIES: &str = "\
     Running unittests src/lib.rs (target/debug/deps/one-0123abcd)

running 3 tests
test a ... ok
test b ... ok
test c ... ignored, slow

successes:

---- a stdout ----
chatter
LEFT OUT: no tmpfs here
LEFT OUT: and no root


successes:
    a
    b

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests two

running 2 tests
test a ... ok
test x::broken ... FAILED

successes:

successes:
    a

failures:

---- x::broken stdout ----
assertion failed

failures:
    x::broken

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn counts_are_summed_and_a_test_that_left_itself_out_is_not_passed() {
        let (mut counted, _) = read(TWO_BINARIES);
        assert_eq!(counted.passed(), 2, "b of the first binary, a of the second");
        assert_eq!(counted.skipped(), 2, "a of the first binary and the ignored one");
        assert_eq!(counted.failures(), ["two x::broken"]);
        assert_eq!(counted.left_out(), ["one c: slow", "one a: no tmpfs here", "one a: and no root"]);
    }

    #[test]
    fn chatter_of_passing_tests_is_hidden_and_that_of_failing_ones_is_shown() {
        let (_, shown) = read(TWO_BINARIES);
        assert!(!shown.contains("chatter"), "{shown}");
        assert!(!shown.contains("successes:"), "{shown}");
        assert!(shown.contains("assertion failed"), "{shown}");
        assert!(shown.contains("test b ... ok"), "{shown}");
    }

    #[test]
    fn a_binary_without_a_verdict_is_a_failure() {
        let output = "   Doc-tests one\nrunning 2 tests\ntest a ... ok\n   Doc-tests two\nrunning 1 test\n";
        let (mut counted, _) = read(output);
        let why = "ended without a verdict (see above)";
        assert_eq!(counted.failures(), [format!("one {why}"), format!("two {why}")]);
        assert_eq!(counted.passed(), 0);
    }
}
