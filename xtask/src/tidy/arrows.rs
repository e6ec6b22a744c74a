//! Which crate may use which. `ARCHITECTURE.md` says why.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::TextFile;

/// A crate of `crates/`, what it is built from, and what its tests may use besides.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("balance", &[], &[]),
    ("fuzz", &[], &[]),
    ("machine", &[], &["fuzz"]),
    ("wire", &[], &["fuzz"]),
    ("cell", &["machine", "wire"], &["fuzz"]),
    ("client", &["balance", "wire"], &["fuzz", "server"]),
    ("dns", &[], &["fuzz"]),
    ("proxy", &["balance", "client"], &["fuzz"]),
    ("server", &["cell", "dns", "machine", "wire"], &["client", "fuzz"]),
    ("sim", &["cell", "client", "machine", "server", "wire"], &[]),
    ("bramah", &["client", "proxy", "server"], &["fuzz", "sim"]),
    // It tests a workspace that does not compile, so it must compile without it.
    ("xtask", &[], &[]),
];

/// Names that say nothing of what is inside, so that everything ends up inside.
const VAGUE: &[&str] =
    &["common", "util", "utils", "types", "errors", "error", "shared", "core", "helpers", "misc"];

pub(super) fn problems(files: &[TextFile]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files {
        let Some(folder) = package_folder(&file.path) else {
            continue;
        };
        let manifest: Table = file.text.parse().with_context(|| file.path.clone())?;
        if VAGUE.contains(&folder) {
            problems.push(format!(
                "{}: `{folder}` says nothing of what is inside: name it after that",
                file.path
            ));
        }
        problems.extend(
            of_package(folder, &manifest).into_iter().map(|problem| format!("{}: {problem}", file.path)),
        );
    }
    Ok(problems)
}

/// `cell` for `crates/cell/Cargo.toml`.
fn package_folder(path: &str) -> Option<&str> {
    let folder = path.strip_suffix("/Cargo.toml")?;
    let name = folder.strip_prefix("crates/").unwrap_or(folder);
    (!name.contains('/')).then_some(name)
}

fn of_package(folder: &str, manifest: &Table) -> Vec<String> {
    let Some((_, built_from, tested_with)) = ARROWS.iter().find(|(name, ..)| *name == folder) else {
        return vec![format!(
            "`{folder}` is not in the table of arrows (xtask/src/tidy/arrows.rs): say what it may use"
        )];
    };
    let mut problems = Vec::new();
    for section in ["dependencies", "build-dependencies"] {
        for used in ours(manifest, section) {
            if !built_from.contains(&used) {
                problems.push(format!("`{folder}` may not use `{used}`"));
            }
        }
    }
    for used in ours(manifest, "dev-dependencies") {
        if used != folder && !built_from.contains(&used) && !tested_with.contains(&used) {
            problems.push(format!("the tests of `{folder}` may not use `{used}`"));
        }
    }
    problems
}

/// The crates of this workspace in one section, by the names of their folders.
fn ours<'a>(manifest: &'a Table, section: &str) -> Vec<&'a str> {
    let own = manifest.get(section).and_then(Value::as_table).into_iter();
    let by_platform = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let by_platform = by_platform.filter_map(|platform| platform.get(section)?.as_table());
    own.chain(by_platform).flat_map(Table::iter).filter_map(|(name, value)| our_crate(name, value)).collect()
}

fn our_crate<'a>(name: &'a str, value: &'a Value) -> Option<&'a str> {
    // A dependency may be renamed; then the package's own name is inside.
    let name = value.get("package").and_then(Value::as_str).unwrap_or(name);
    if name == "bramah" { Some(name) } else { name.strip_prefix("bramah-") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        problems(&[TextFile { path: path.to_owned(), text: text.to_owned() }]).unwrap()
    }

    #[test]
    fn arrows_that_are_drawn_are_fine() {
        let cell = "[dependencies]\nbramah-machine.workspace = true\nbramah-wire = { path = \"../wire\" }\nserde = \"1\"";
        assert_eq!(found("crates/cell/Cargo.toml", cell), [""; 0]);
        assert_eq!(
            found("crates/client/Cargo.toml", "[dev-dependencies]\nbramah-server.workspace = true"),
            [""; 0]
        );
        assert_eq!(
            found("Cargo.toml", "[workspace.dependencies]\nbramah-cell = { path = \"crates/cell\" }"),
            [""; 0]
        );
    }

    #[test]
    fn arrows_that_are_not_drawn_are_named() {
        let client = "[dependencies]\nbramah-machine.workspace = true";
        assert_eq!(
            found("crates/client/Cargo.toml", client),
            ["crates/client/Cargo.toml: `client` may not use `machine`"]
        );
        for (text, what) in [
            ("[build-dependencies]\nbramah-cell.workspace = true", "built with"),
            ("[dev-dependencies]\nbramah-cell.workspace = true", "tested with"),
            ("[target.'cfg(unix)'.dependencies]\nbramah-cell.workspace = true", "on a platform"),
            ("[dependencies]\nx = { package = \"bramah-cell\", path = \"../cell\" }", "renamed"),
        ] {
            assert_eq!(found("crates/machine/Cargo.toml", text).len(), 1, "{what}");
        }
    }

    #[test]
    fn a_new_crate_is_drawn_first_and_has_a_name_that_says_something() {
        assert_eq!(found("crates/novel/Cargo.toml", "[package]").len(), 1);
        assert_eq!(found("crates/util/Cargo.toml", "[package]").len(), 2);
    }
}
