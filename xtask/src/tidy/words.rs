//! Words that belong to one person's machine and not into a repository.

use super::TextFile;

/// Each cut in two, so that this file does not contain them.
const WORDS: &[(&str, &str)] = &[
    (concat!("/ro", "ot/"), "a home folder: take the path from the environment"),
    (concat!("/ho", "me/"), "a home folder: take the path from the environment"),
    (concat!("/wo", "rk/"), "a path of one machine: take it from the environment"),
    (concat!("static.crates", ".io"), "a registry's address: cargo knows where it is"),
    (concat!("index.crates", ".io"), "a registry's address: cargo knows where it is"),
    (concat!("pypi", ".org"), "a registry's address: pip knows where it is"),
    (concat!("pythonhosted", ".org"), "a registry's address: pip knows where it is"),
    (concat!("registry.npm", "js.org"), "a registry's address: npm knows where it is"),
    (concat!("deb.deb", "ian.org"), "a registry's address: apt knows where it is"),
];

/// Files that a tool writes.
const GENERATED: &[&str] = &["Cargo.lock"];

pub(super) fn problems(file: &TextFile) -> Vec<String> {
    if GENERATED.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let lines = file.text.lines().enumerate();
    lines.flat_map(|(number, line)| of_line(&file.path, number + 1, line)).collect()
}

fn of_line(path: &str, number: usize, line: &str) -> Vec<String> {
    let found = WORDS.iter().filter(|(word, _)| line.contains(word));
    found.map(|(word, advice)| format!("{path}:{number}: {word} is {advice}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: String) -> Vec<String> {
        problems(&TextFile { path: path.to_owned(), text })
    }

    #[test]
    fn each_word_is_found_with_its_line() {
        for (word, _) in WORDS {
            let problems = found("README.md", format!("see\nthere {word}x\n"));
            assert_eq!(problems.len(), 1, "{word}");
            assert!(problems[0].starts_with("README.md:2: "), "{problems:?}");
        }
    }

    #[test]
    fn the_lock_file_is_cargos() {
        assert_eq!(found("Cargo.lock", format!("source = {}", WORDS[3].0)), [""; 0]);
        assert_eq!(found("a.md", "the workplace, /tmp/x and docs/adding.md".to_owned()), [""; 0]);
    }
}
