//! Each mistake in the settings gets an error that says what to do.

use super::source::{Given, Source};
use super::{Settings, Values, table};

const GOOD: &[(&str, &str)] = &[
    ("cell", "west"),
    ("replica", "1"),
    ("data", "/tmp/x"),
    ("bootstrap", "true"),
    ("members", "1=a:7502/a:7501,2=b:7502/b:7501,3=c:7502/c:7501"),
];

fn settings_with(changes: &[(&str, &str)]) -> Result<Settings, String> {
    let mut values = Values::default();
    for list in [GOOD, changes] {
        let given = list.iter().map(|(key, value)| Given {
            setting: table::find(key).expect("a row"),
            value: (*value).into(),
            source: Source::Flag,
        });
        values.override_with(given.collect()).map_err(|error| error.to_string())?;
    }
    Settings::from_values(values).map_err(|error| error.to_string())
}

#[test]
fn good_settings_pass_without_a_warning() {
    let settings = settings_with(&[]).expect("they are good");
    assert_eq!(settings.warnings, Vec::<String>::new());
    settings_with(&[("clients.advertise", "a:7501"), ("peers.advertise", "a:7502")])
        .expect("they are those in the list");
}

#[test]
fn each_mistake_is_named_with_the_way_out() {
    let mistakes: &[(&[(&str, &str)], &str)] = &[
        (&[("replica", "4")], "not this one, 4: add it"),
        (&[("replica", "0")], "is not a whole number from 1"),
        (&[("members", "1=a:2/a:1,1=b:2/b:1")], "two replicas 1: give each its own number"),
        (&[("members", "1=a:2/a:1,2=b:2/a:1")], "a:1 twice"),
        (&[("members", "1=0.0.0.0:2/a:1")], "0.0.0.0:2 cannot be dialled"),
        (&[("members", "")], "list every replica, this one among them"),
        (
            &[("clients.advertise", "z:7501")],
            "is not this replica's address in `members`, a:7501: make them one",
        ),
        (&[("clients.advertise", "0.0.0.0:7501")], "cannot be dialled by others"),
        (&[("clients.listen", "127.0.0.1:7502")], "give the peers a port of their own"),
        (&[("election_min", "50ms")], "must be at least twice `heartbeat`"),
        (&[("election_max", "100ms")], "must be longer than `election_min`"),
        (&[("heartbeat", "1ms")], "at least 5ms"),
        (&[("stop_timeout", "0s")], "as 10s"),
        (&[("log.segment_bytes", "4KiB")], "from 1MiB to 1GiB"),
        (&[("log.segment_bytes", "1048577")], "a multiple of 4KiB"),
        (&[("snapshot.log_bytes", "1")], "at least 1MiB"),
        (&[("cell", "West!")], "cannot name a cell"),
        (&[("cell", "local")], "cannot name a cell"),
        (&[("log_format", "xml")], "is not one of text, json"),
        (&[("data", "")], "it is empty"),
        (&[("join", "0.0.0.0:7502")], "cannot be dialled"),
        (&[("join", " , ")], "at least one replica"),
        (&[("join", "a:7502")], "either begins a new cell or joins one"),
    ];
    for (changes, expected) in mistakes {
        match settings_with(changes) {
            Ok(_) => panic!("{changes:?} was taken"),
            Err(error) => assert!(error.contains(expected), "{changes:?}: {error}"),
        }
    }
}

#[test]
fn an_even_number_of_members_is_warned_of() {
    let settings = settings_with(&[("members", "1=a:2/a:1,2=b:2/b:1")]).expect("it is allowed");
    assert!(
        settings.warnings[0].contains("2 members survive no more failures than 1"),
        "{:?}",
        settings.warnings
    );
}
