//! `cargo xtask tidy`: rules of this repository that no compiler knows.

mod arrows;
mod formats;
mod sources;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{no_more, workspace};

/// Folders that hold nothing of ours.
const SKIPPED: &[&str] = &[".git", "target"];

pub(crate) fn run(arguments: lexopt::Parser) -> Result<ExitCode> {
    no_more(arguments)?;
    let problems = problems(&workspace::root()?)?;
    for problem in &problems {
        println!("{problem}");
    }
    println!("tidy: {} problems", problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A text file of the repository.
#[derive(Debug)]
struct TextFile {
    /// From the root, with `/`.
    path: String,
    text: String,
}

/// All that is untidy, each as `path:line: what, and what to do`.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let files = text_files(root)?;
    let mut problems = Vec::new();
    for file in &files {
        problems.extend(words::problems(file));
        if file.path.ends_with(".rs") {
            problems.extend(sources::problems(file));
        }
    }
    problems.extend(arrows::problems(&files)?);
    problems.extend(formats::problems(&files));
    problems.extend(sources::unused_allowances(&files));
    Ok(problems)
}

fn text_files(root: &Path) -> Result<Vec<TextFile>> {
    let mut folders = vec![root.to_path_buf()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.extend(text_file(root, entry.path())?);
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// `None` for a file that is not text.
fn text_file(root: &Path, path: PathBuf) -> Result<Option<TextFile>> {
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
    Ok(String::from_utf8(bytes).ok().map(|text| TextFile { path: relative, text }))
}
