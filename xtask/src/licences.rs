//! Licences, banned crates and sources of all dependencies, as `deny.toml` has it.
//!
//! `deny.toml` is cargo-deny's file, and where that tool is installed `cargo deny check licenses bans sources` reads the
//! same. It takes minutes to compile and its packaged builds are too old to know today's licence names, so the checks
//! that need no network are made here, by the same rules and with the same SPDX parser. A setting that is not known
//! here is an error, so that the two cannot drift apart unnoticed. Advisories need a database from the network: not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;
use spdx::{Expression, Licensee, ParseMode};
use toml::{Table, Value};

use crate::{no_more, workspace};

const CRATES_IO: &str = "https://github.com/rust-lang/crates.io-index";

pub(crate) fn run(arguments: lexopt::Parser) -> Result<ExitCode> {
    no_more(arguments)?;
    let problems = problems(&workspace::root()?)?;
    for problem in &problems {
        println!("{problem}");
    }
    println!("licences, bans and sources: {} problems", problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that `deny.toml` forbids and the dependencies have.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let file = root.join("deny.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let rules = Rules::read(&text).context("deny.toml")?;
    let packages = packages(&workspace::metadata(root, &rules.platforms, true)?)?;
    Ok(check(&rules, &packages))
}

/// A package that the workspace is built from.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for packages of this repository.
    source: Option<String>,
    /// Dependencies on packages elsewhere that take any version.
    wildcards: Vec<String>,
    /// Names of the packages that use it.
    used_by: BTreeSet<String>,
}

impl Package {
    fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// `deny.toml`.
#[derive(Debug)]
struct Rules {
    platforms: Vec<String>,
    allowed_licenses: Vec<Licensee>,
    exceptions: BTreeMap<String, Vec<Licensee>>,
    banned: Vec<Banned>,
    multiple_versions_denied: bool,
    wildcards_denied: bool,
    registries: Vec<String>,
    git: Vec<String>,
}

#[derive(Debug)]
struct Banned {
    name: String,
    reason: String,
    /// Crates that may use it all the same.
    wrappers: Vec<String>,
}

impl Rules {
    fn read(text: &str) -> Result<Self> {
        let mut top: Table = text.parse()?;
        let mut graph = section(&mut top, "graph")?;
        let mut licenses = section(&mut top, "licenses")?;
        let mut bans = section(&mut top, "bans")?;
        let mut sources = section(&mut top, "sources")?;

        let rules = Rules {
            platforms: strings(graph.remove("targets"))?,
            allowed_licenses: licensees(licenses.remove("allow"))?,
            exceptions: exceptions(licenses.remove("exceptions"))?,
            banned: banned(bans.remove("deny"))?,
            multiple_versions_denied: denied(bans.remove("multiple-versions"), false)?,
            wildcards_denied: denied(bans.remove("wildcards"), false)?,
            registries: match sources.remove("allow-registry") {
                None => vec![CRATES_IO.to_owned()],
                some => strings(some)?,
            },
            git: strings(sources.remove("allow-git"))?,
        };
        if graph.remove("all-features") != Some(Value::Boolean(true)) {
            bail!("graph.all-features must be true: the check reads the dependencies of all features");
        }
        // Elsewhere these may be weaker; here the list is always the law.
        for key in ["unknown-registry", "unknown-git"] {
            if !denied(sources.remove(key), false)? {
                bail!("sources.{key} must be \"deny\"");
            }
        }
        bans.remove("allow-wildcard-paths");
        for (name, rest) in [
            ("", &top),
            ("graph.", &graph),
            ("licenses.", &licenses),
            ("bans.", &bans),
            ("sources.", &sources),
        ] {
            if let Some(key) = rest.keys().next() {
                bail!("`cargo xtask licences` does not know {name}{key}: teach it, or leave it out");
            }
        }
        Ok(rules)
    }

    fn allows(&self, package: &str, license: &spdx::LicenseReq) -> bool {
        let exceptions = self.exceptions.get(package).into_iter().flatten();
        self.allowed_licenses.iter().chain(exceptions).any(|allowed| allowed.satisfies(license))
    }
}

fn section(top: &mut Table, name: &str) -> Result<Table> {
    match top.remove(name) {
        None => Ok(Table::new()),
        Some(Value::Table(table)) => Ok(table),
        Some(_) => bail!("{name} is not a section"),
    }
}

fn strings(value: Option<Value>) -> Result<Vec<String>> {
    match value {
        None => Ok(Vec::new()),
        Some(value) => value.try_into().context("a list of strings was expected"),
    }
}

fn tables(value: Option<Value>) -> Result<Vec<Table>> {
    match value {
        None => Ok(Vec::new()),
        Some(value) => value.try_into().context("a list of tables was expected"),
    }
}

fn denied(value: Option<Value>, otherwise: bool) -> Result<bool> {
    match value.as_ref().map(Value::as_str) {
        None => Ok(otherwise),
        Some(Some("deny")) => Ok(true),
        Some(Some("warn" | "allow")) => Ok(false),
        Some(_) => bail!("\"deny\", \"warn\" or \"allow\" was expected"),
    }
}

fn licensees(value: Option<Value>) -> Result<Vec<Licensee>> {
    let parse = |name: String| Licensee::parse(&name).with_context(|| format!("licence {name:?}"));
    strings(value)?.into_iter().map(parse).collect()
}

fn exceptions(value: Option<Value>) -> Result<BTreeMap<String, Vec<Licensee>>> {
    let mut exceptions = BTreeMap::new();
    for mut table in tables(value)? {
        let name = crate_name(&mut table)?;
        exceptions.insert(name, licensees(table.remove("allow"))?);
    }
    Ok(exceptions)
}

fn banned(value: Option<Value>) -> Result<Vec<Banned>> {
    let mut banned = Vec::new();
    for mut table in tables(value)? {
        banned.push(Banned {
            name: crate_name(&mut table)?,
            reason: table
                .remove("reason")
                .and_then(|reason| Some(reason.as_str()?.to_owned()))
                .unwrap_or_default(),
            wrappers: strings(table.remove("wrappers"))?,
        });
    }
    Ok(banned)
}

fn crate_name(table: &mut Table) -> Result<String> {
    let name = table.remove("crate").context("an entry without `crate`")?;
    Ok(name.as_str().context("`crate` is not a string")?.to_owned())
}

/// The packages of the resolved graph: what is built, not all that the lock file mentions.
fn packages(metadata: &Json) -> Result<Vec<Package>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata has no resolved graph")?;
    let all = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let name_of: BTreeMap<&str, &str> =
        all.iter().filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?))).collect();
    let mut used_by: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for node in nodes {
        let user = node["id"].as_str().unwrap_or_default();
        for dependency in node["dependencies"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            let users = used_by.entry(dependency).or_default();
            users.extend(name_of.get(user).map(|name| (*name).to_owned()));
        }
    }
    let built: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let built_packages =
        all.iter().filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id)));
    Ok(built_packages.map(|package| read_package(package, &used_by)).collect())
}

fn read_package(package: &Json, used_by: &BTreeMap<&str, BTreeSet<String>>) -> Package {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let any_version = dependencies.filter(|one| one["req"] == "*" && one["path"].is_null());
    Package {
        name: text("name").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
        license: text("license"),
        source: text("source"),
        wildcards: any_version.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect(),
        used_by: package["id"].as_str().and_then(|id| used_by.get(id)).cloned().unwrap_or_default(),
    }
}

fn check(rules: &Rules, packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        problems.extend(license_problem(rules, package));
        problems.extend(source_problem(rules, package));
        problems.extend(ban_problem(rules, package));
        // Only our own manifests: what others write in theirs is not ours to change.
        if rules.wildcards_denied && package.source.is_none() {
            let any = |name: &String| format!("{} takes any version of {name}: name one", package.title());
            problems.extend(package.wildcards.iter().map(any));
        }
    }
    if rules.multiple_versions_denied {
        problems.extend(several_versions(packages));
    }
    problems
}

fn license_problem(rules: &Rules, package: &Package) -> Option<String> {
    let Some(license) = &package.license else {
        return Some(format!("{} names no licence", package.title()));
    };
    // Lax: old manifests write `MIT/Apache-2.0`.
    let expression = match Expression::parse_mode(license, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => {
            return Some(format!("{} has the licence {license:?}: {error}", package.title()));
        }
    };
    let allowed = expression.evaluate(|required| rules.allows(&package.name, required));
    (!allowed)
        .then(|| format!("{} has the licence {license:?}, which deny.toml does not allow", package.title()))
}

fn source_problem(rules: &Rules, package: &Package) -> Option<String> {
    let source = package.source.as_deref()?;
    let known = match source.split_once('+') {
        Some(("registry" | "sparse", address)) => rules.registries.iter().any(|known| known == address),
        Some(("git", address)) => {
            let address = address.split(['?', '#']).next().unwrap_or_default();
            rules.git.iter().any(|known| known == address)
        }
        _ => false,
    };
    (!known).then(|| format!("{} comes from {source}, which deny.toml does not allow", package.title()))
}

fn ban_problem(rules: &Rules, package: &Package) -> Option<String> {
    let banned = rules.banned.iter().find(|banned| banned.name == package.name)?;
    let users: Vec<&str> = package
        .used_by
        .iter()
        .map(String::as_str)
        .filter(|user| !banned.wrappers.iter().any(|wrapper| wrapper == user))
        .collect();
    let title = package.title();
    (!users.is_empty())
        .then(|| format!("{title} is banned ({}); used by {}", banned.reason, users.join(", ")))
}

fn several_versions(packages: &[Package]) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1);
    several
        .map(|(name, versions)| format!("{name} is there in several versions: {}", versions.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [graph]
        all-features = true
        [licenses]
        allow = ["MIT", "Apache-2.0"]
        exceptions = [{ allow = ["Zlib"], crate = "special" }]
        [bans]
        wildcards = "deny"
        multiple-versions = "deny"
        deny = [{ crate = "openssl-sys", reason = "no C", wrappers = ["may"] }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
    "#;

    fn package(name: &str, license: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: Some(license.to_owned()),
            source: Some(format!("registry+{CRATES_IO}")),
            wildcards: Vec::new(),
            used_by: BTreeSet::from(["user".to_owned()]),
        }
    }

    fn found(package: Package) -> Vec<String> {
        check(&Rules::read(RULES).unwrap(), &[package])
    }

    #[test]
    fn a_choice_of_licences_is_fine_if_one_is_allowed_and_a_sum_only_if_all_are() {
        assert_eq!(found(package("a", "MIT OR GPL-3.0-only")), [""; 0]);
        assert_eq!(found(package("a", "Zlib/MIT")), [""; 0]);
        assert_eq!(found(package("a", "MIT AND GPL-3.0-only")).len(), 1);
        assert_eq!(found(package("a", "(MIT OR GPL-3.0-only) AND Apache-2.0")), [""; 0]);
    }

    #[test]
    fn an_unknown_or_missing_licence_is_a_problem() {
        assert_eq!(found(package("a", "Freeware")).len(), 1);
        assert_eq!(found(Package { license: None, ..package("a", "") }).len(), 1);
    }

    #[test]
    fn an_exception_holds_for_its_crate_alone() {
        assert_eq!(found(package("special", "Zlib")), [""; 0]);
        assert_eq!(found(package("a", "Zlib")).len(), 1);
    }

    #[test]
    fn other_registries_and_git_are_refused() {
        for source in ["registry+https://example.org/index", "git+https://example.org/x?rev=1#1", "odd"] {
            let package = Package { source: Some(source.to_owned()), ..package("a", "MIT") };
            assert_eq!(found(package).len(), 1, "{source}");
        }
    }

    #[test]
    fn a_banned_crate_is_named_with_who_uses_it_unless_all_may() {
        let banned = package("openssl-sys", "MIT");
        assert_eq!(found(banned.clone()), ["openssl-sys 1.0.0 is banned (no C); used by user"]);
        assert_eq!(found(Package { used_by: BTreeSet::from(["may".to_owned()]), ..banned }), [""; 0]);
    }

    #[test]
    fn two_versions_and_wildcards_are_seen() {
        let rules = Rules::read(RULES).unwrap();
        let newer = Package { version: "2.0.0".to_owned(), ..package("a", "MIT") };
        assert_eq!(
            check(&rules, &[package("a", "MIT"), newer]),
            ["a is there in several versions: 1.0.0, 2.0.0"]
        );
        let ours = Package { source: None, wildcards: vec!["x".to_owned()], ..package("ours", "MIT") };
        assert_eq!(found(ours), ["ours 1.0.0 takes any version of x: name one"]);
    }

    #[test]
    fn a_setting_that_is_not_known_is_an_error() {
        let error = Rules::read(&RULES.replace("[sources]", "[sources]\nprivate = []")).unwrap_err();
        assert!(error.to_string().contains("sources.private"), "{error}");
    }
}
