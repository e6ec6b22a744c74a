//! Settings files and single values of any text: settings, or an error that names the file or the setting.

use bramah_fuzz::{fuzz, within_bytes};

use super::source::{Given, Source, Values};
use super::{Settings, file, table, value};

fn in_proportion(bytes: &[u8]) -> usize {
    (128 << 10) + 512 * bytes.len()
}

#[test]
fn files() {
    fuzz!("settings-file", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let parsed = within_bytes(in_proportion(bytes), || file::parse(&text, "bramah.toml"));
        match parsed {
            Err(error) => assert!(error.to_string().starts_with("bramah.toml:"), "{error}"),
            Ok(given) => settle(given),
        }
    });
}

/// Each line is a variable of the environment and its value.
#[test]
fn environments() {
    fuzz!("settings-values", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let variables = lines.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut values = Values::default();
        within_bytes(in_proportion(bytes), || match values.override_with_environment(variables) {
            Err(error) => assert!(error.to_string().starts_with('`'), "{error}"),
            Ok(()) => finish(values),
        });
    });
}

/// With good values for all that is not given.
fn settle(given: Vec<Given>) {
    let mut values = Values::default();
    for (key, value) in [("cell", "west"), ("replica", "1"), ("data", "/x"), ("members", "1=a:2/a:1")] {
        let setting = table::find(key).expect("a row");
        let good = Given { setting, value: value.to_owned(), source: Source::Default };
        values.override_with(vec![good]).expect("it is good");
    }
    match values.override_with(given) {
        Err(error) => assert!(error.to_string().contains("(from bramah.toml:"), "{error}"),
        Ok(()) => finish(values),
    }
}

fn finish(values: Values) {
    match Settings::from_values(values) {
        Err(error) => assert!(error.to_string().starts_with('`'), "{error}"),
        Ok(settings) => {
            // What the replica does with them.
            let now = std::time::Instant::now();
            let _ = now + settings.stop_timeout + 10 * settings.election_max;
            assert!(settings.election_max > 2 * settings.heartbeat);
        }
    }
}

/// Values of each kind: a message says what would be right.
#[test]
fn values() {
    fuzz!("value", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for setting in table::SETTINGS {
            if let Err(error) = within_bytes(in_proportion(bytes), || value::check(setting.kind, &text)) {
                assert!(!error.is_empty());
            }
        }
        if let Ok(length) = value::duration(&text) {
            let _ = std::time::Instant::now() + 100 * length;
        }
    });
}

/// Else nothing but refusals would be tested.
#[test]
fn the_corpus_has_good_settings() {
    let given = file::parse(include_str!("../../__fuzz__/settings-file/corpus/good"), "bramah.toml");
    let mut values = Values::default();
    values.override_with(given.expect("it is TOML")).expect("each value is good");
    assert_eq!(Settings::from_values(values).expect("they are good").members.len(), 2);
}
