//! The settings file: TOML with the table's keys, and nothing else.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::source::{Given, SettingError, Source};
use super::table::{self, Kind, SETTINGS};

/// Reads the file at `path`.
pub fn read(path: &Path) -> Result<Vec<Given>, SettingError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        SettingError::new(format!("cannot read the settings file {}: {error}", path.display()))
    })?;
    parse(&text, &path.display().to_string())
}

/// Parses the text of a settings file; `name` is what errors call it.
pub fn parse(text: &str, name: &str) -> Result<Vec<Given>, SettingError> {
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        SettingError::new(format!("{name}:{line}: not TOML: {}", error.message()))
    })?;
    let mut reader = Reader { text, name, found: Vec::new() };
    reader.table("", document.get_ref())?;
    Ok(reader.found)
}

struct Reader<'a> {
    text: &'a str,
    name: &'a str,
    found: Vec<Given>,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) -> Result<(), SettingError> {
        for (key, value) in table {
            let path = if prefix.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{prefix}.{}", key.get_ref())
            };
            let line = line_of(self.text, key.span().start);
            self.entry(&path, line, value.get_ref())?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, line: usize, value: &DeValue<'_>) -> Result<(), SettingError> {
        let value_text = match (value, table::find(path)) {
            (DeValue::Array(items), _) if path == "member" => {
                let members: Result<Vec<String>, SettingError> = items
                    .iter()
                    .map(|item| self.member(line_of(self.text, item.span().start), item.get_ref()))
                    .collect();
                return self.keep("members", line, members?.join(","));
            }
            (DeValue::Table(inner), None) if is_group(path) => return self.table(path, inner),
            (_, None) => return Err(self.unknown(path, line)),
            (value, Some(setting)) => scalar(value).ok_or_else(|| {
                let name = setting.kind.name();
                self.error(line, format!("`{path}` must be {name}, not {}", article(value.type_str())))
            })?,
        };
        if let (Some(setting), DeValue::Integer(_) | DeValue::Float(_)) = (table::find(path), value)
            && setting.kind == Kind::Text
        {
            return Err(self.error(line, format!("`{path}` is text: put it in quotes")));
        }
        self.keep(path, line, value_text)
    }

    fn member(&self, line: usize, value: &DeValue<'_>) -> Result<String, SettingError> {
        let table = value
            .as_table()
            .ok_or_else(|| self.error(line, "`member` is a list of tables: write [[member]]".into()))?;
        for key in table.keys() {
            if !MEMBER_KEYS.contains(&key.get_ref().as_ref()) {
                return Err(
                    self.unknown(&format!("member.{}", key.get_ref()), line_of(self.text, key.span().start))
                );
            }
        }
        let part = |key: &str| {
            table.get(key).and_then(|value| scalar(value.get_ref())).ok_or_else(|| {
                self.error(line, format!("this [[member]] has no `{key}`; it needs id = 1, peers = \"HOST:PORT\", clients = \"HOST:PORT\""))
            })
        };
        Ok(format!("{}={}/{}", part("id")?, part("peers")?, part("clients")?))
    }

    fn keep(&mut self, key: &str, line: usize, value: String) -> Result<(), SettingError> {
        let setting = table::find(key).expect("only keys of the table are kept");
        let source = Source::File { name: self.name.to_owned(), line };
        if let Some(earlier) = self.found.iter().find(|given| given.setting.key == key) {
            return Err(
                self.error(line, format!("`{key}` is given already by {}; keep one of them", earlier.source))
            );
        }
        self.found.push(Given { setting, value, source });
        Ok(())
    }

    fn unknown(&self, path: &str, line: usize) -> SettingError {
        let known =
            SETTINGS.iter().map(|setting| setting.key).chain(["member.id", "member.peers", "member.clients"]);
        let advice = match nearest(path, known) {
            Some(key) => format!("did you mean `{key}`?"),
            None => "`bramah settings` lists all of them".into(),
        };
        self.error(line, format!("`{path}` is not a setting; {advice}"))
    }

    fn error(&self, line: usize, message: String) -> SettingError {
        SettingError::new(format!("{}:{line}: {message}", self.name))
    }
}

const MEMBER_KEYS: [&str; 3] = ["id", "peers", "clients"];

/// Whether some key lies inside a table of this name.
fn is_group(path: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// A single value as a flag would write it; nothing for lists, tables and dates.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|n| n.to_string())
        }
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// The known word that is nearest to `word`, if any is near.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A misspelt last part (`clients.lisen`) and a forgotten table (`listen`) should both find their key.
    let likeness = |key: &str| {
        let last = key.rsplit('.').next().unwrap_or(key);
        strsim::jaro_winkler(word, key).max(strsim::jaro_winkler(word, last))
    };
    let best = known.into_iter().map(|key| (likeness(key), key)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness > 0.8).map(|(_, key)| key)
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(&'static str, String)> {
        let given = parse(text, "bramah.toml").unwrap_or_else(|error| panic!("{error}"));
        given.into_iter().map(|given| (given.setting.key, given.value)).collect()
    }

    fn error(text: &str) -> String {
        parse(text, "bramah.toml").expect_err("the file should be refused").to_string()
    }

    #[test]
    fn tables_dots_and_members_are_read() {
        let text = r#"
            cell = "west"
            replica = 2
            bootstrap = true
            log.segment_bytes = 1_048_576
            [clients]
            listen = "0.0.0.0:7501"
            [[member]]
            id = 1
            peers = "a:7502"
            clients = "a:7501"
            [[member]]
            id = 2
            peers = "b:7502"
            clients = "b:7501"
        "#;
        let mut read = values(text);
        read.sort();
        let expected = [
            ("bootstrap", "true"),
            ("cell", "west"),
            ("clients.listen", "0.0.0.0:7501"),
            ("log.segment_bytes", "1048576"),
            ("members", "1=a:7502/a:7501,2=b:7502/b:7501"),
            ("replica", "2"),
        ];
        assert_eq!(read, expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn an_unknown_key_names_line_and_nearest_key() {
        assert_eq!(
            error("\nhartbeat = \"1s\""),
            "bramah.toml:2: `hartbeat` is not a setting; did you mean `heartbeat`?"
        );
        assert!(
            error("[clients]\nlisten_on = \"a:1\"")
                .contains("2: `clients.listen_on` is not a setting; did you mean `clients.listen`?")
        );
        assert!(
            error("[[member]]\nidd = 1").contains("`member.idd` is not a setting; did you mean `member.id`?")
        );
        assert!(error("zzzqqq = 1").contains("`bramah settings` lists all"));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        assert!(error("heartbeat = [1]").contains("must be duration, not an array"));
        assert!(error("cell = 7").contains("put it in quotes"));
        assert!(error("member = [1]").contains("write [[member]]"));
        assert!(error("[[member]]\nid = 1").contains("has no `peers`"));
        assert!(error("cell = ").contains("bramah.toml:1: not TOML"));
        assert!(
            error("members = \"1=a:2/a:1\"\n[[member]]\nid=1\npeers=\"a:2\"\nclients=\"a:1\"")
                .contains("given already")
        );
    }
}
