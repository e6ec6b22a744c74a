//! Where a setting's value came from, and which source wins: flag, then environment, then file, then default.

use std::fmt;

use super::table::{self, Default, SETTINGS, Setting};
use super::{file, value};

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag of the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// A line of the settings file.
    File {
        /// The file, as the user named it.
        name: String,
        /// Counted from 1.
        line: usize,
    },
    /// The table's own default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => write!(f, "the command line"),
            Source::Environment => write!(f, "the environment"),
            Source::File { name, line } => write!(f, "{name}:{line}"),
            Source::Default => write!(f, "the default"),
        }
    }
}

/// A value as somebody gave it.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its row.
    pub setting: &'static Setting,
    /// The text, as a flag would write it.
    pub value: String,
    /// Who gave it.
    pub source: Source,
}

/// A mistake in the settings: what is wrong and what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

impl SettingError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// All values that were given, one a setting.
#[derive(Debug, std::default::Default)]
pub struct Values {
    given: Vec<Given>,
    /// Things that are allowed but likely mistakes.
    pub warnings: Vec<String>,
}

impl Values {
    /// Takes in the values of a source that comes before all sources added so far: it wins over them.
    pub fn override_with(&mut self, stronger: Vec<Given>) -> Result<(), SettingError> {
        for given in stronger {
            value::check(given.setting.kind, &given.value).map_err(|error| describe(&given, &error))?;
            self.given.retain(|weaker| weaker.setting.key != given.setting.key);
            self.given.push(given);
        }
        Ok(())
    }

    /// Takes in the variables of the environment that belong to settings.
    pub fn override_with_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), SettingError> {
        let mut found = Vec::new();
        for (name, value) in variables {
            match SETTINGS.iter().find(|setting| setting.variable() == name) {
                Some(setting) => found.push(Given { setting, value, source: Source::Environment }),
                None => self.warn_of_near_variable(&name),
            }
        }
        self.override_with(found)
    }

    // Only near ones: orchestrators set variables of their own that begin with a service's name.
    fn warn_of_near_variable(&mut self, name: &str) {
        if !name.starts_with("BRAMAH_") || name == "BRAMAH_ADDRESSES" {
            return;
        }
        let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        let near = known.iter().find(|variable| strsim::damerau_levenshtein(name, variable) <= 2);
        if let Some(variable) = near {
            self.warnings
                .push(format!("{name} is not a setting and is passed over; did you mean {variable}?"));
        }
    }

    /// The value of a key: given, or the default; nothing when neither is there.
    pub fn get(&self, key: &str) -> Option<Given> {
        let setting =
            table::find(key).unwrap_or_else(|| panic!("`{key}` has no row in the table of settings"));
        let given = self.given.iter().find(|given| given.setting.key == key).cloned();
        given.or_else(|| match setting.default {
            Default::Value(text) => Some(Given { setting, value: text.to_owned(), source: Source::Default }),
            Default::Required | Default::Derived(_) => None,
        })
    }

    /// The value of a key that must have one.
    pub fn require(&self, key: &str) -> Result<Given, SettingError> {
        self.get(key).ok_or_else(|| {
            let setting = table::find(key).expect("`get` has found the row");
            SettingError::new(format!(
                "`{key}` is missing: give --{} or {} or `{key}` in the settings file. {}",
                setting.flag(),
                setting.variable(),
                setting.help,
            ))
        })
    }

    /// Parses the value of a key that must have one.
    pub fn parse<T>(&self, key: &str, parser: fn(&str) -> Result<T, String>) -> Result<T, SettingError> {
        let given = self.require(key)?;
        parser(&given.value).map_err(|error| describe(&given, &error))
    }
}

/// An error about a given value: which setting, who gave it, what is wrong.
pub fn describe(given: &Given, error: &str) -> SettingError {
    SettingError::new(format!("`{}` (from {}): {error}", given.setting.key, given.source))
}

/// Collects file and environment; flags come on top.
pub fn collect(
    file: Option<&std::path::Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<Given>,
) -> Result<Values, SettingError> {
    let mut values = Values::default();
    if let Some(path) = file {
        values.override_with(file::read(path)?)?;
    }
    values.override_with_environment(environment)?;
    values.override_with(flags)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, value: &str, source: Source) -> Given {
        Given { setting: table::find(key).expect("a row"), value: value.into(), source }
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let mut values = Values::default();
        let get = |values: &Values| values.get("heartbeat").expect("it has a default").value;
        assert_eq!(values.get("heartbeat").expect("a default").source, Source::Default);

        let file = Source::File { name: "f".into(), line: 1 };
        values.override_with(vec![given("heartbeat", "1s", file)]).expect("a good value");
        assert_eq!(get(&values), "1s");
        let environment = vec![("BRAMAH_HEARTBEAT".to_owned(), "2s".to_owned())];
        values.override_with_environment(environment).expect("a good value");
        assert_eq!(get(&values), "2s");
        values.override_with(vec![given("heartbeat", "3s", Source::Flag)]).expect("a good value");
        assert_eq!(get(&values), "3s");
    }

    #[test]
    fn errors_name_the_source() {
        let mut values = Values::default();
        let environment = vec![("BRAMAH_HEARTBEAT".to_owned(), "2".to_owned())];
        let error = values.override_with_environment(environment).expect_err("no unit").to_string();
        assert!(error.starts_with("`heartbeat` (from the environment): \"2\" is not a duration"), "{error}");
        let error = values.require("cell").expect_err("it has no default").to_string();
        assert!(error.contains("--cell or BRAMAH_CELL or `cell`"), "{error}");
    }

    #[test]
    fn a_misspelt_variable_is_warned_of_and_foreign_ones_are_not() {
        let mut values = Values::default();
        let environment = ["BRAMAH_HARTBEAT", "BRAMAH_SERVICE_HOST", "BRAMAH_ADDRESSES", "HOME"];
        let environment = environment.map(|name| (name.to_owned(), "1s".to_owned()));
        values.override_with_environment(environment).expect("nothing of it is a setting");
        assert_eq!(values.warnings.len(), 1);
        assert!(values.warnings[0].contains("did you mean BRAMAH_HEARTBEAT?"), "{:?}", values.warnings);
    }
}
