//! The one table of settings. The TOML keys, the flags of `bramah server`, the environment variables, the reference
//! page and the validation of single values all come from these rows.

/// What a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number from 1.
    Number,
    /// A path in the file system.
    Path,
    /// `HOST:PORT`, where HOST is a name, an IPv4 address or an IPv6 address in brackets.
    Address,
    /// A number with a unit: `50ms`, `2s`, `1m`.
    Duration,
    /// A number of bytes, plain or with a unit: `65536`, `64MiB`.
    Bytes,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Several addresses, separated by commas.
    Addresses,
    /// Several IP addresses with ports, separated by commas.
    SocketAddresses,
    /// The replicas of the cell: `ID=PEER_ADDRESS/CLIENT_ADDRESS`, separated by commas.
    Members,
}

impl Kind {
    /// The kind as the reference page and the help name it.
    pub fn name(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Number => "number".into(),
            Kind::Path => "path".into(),
            Kind::Address => "HOST:PORT".into(),
            Kind::Duration => "duration".into(),
            Kind::Bytes => "bytes".into(),
            Kind::Switch => "true or false".into(),
            Kind::Choice(words) => words.join(", "),
            Kind::Addresses => "HOST:PORT,…".into(),
            Kind::SocketAddresses => "IP:PORT,…".into(),
            Kind::Members => "ID=PEERS/CLIENTS,…".into(),
        }
    }
}

/// What holds when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This value, written as a flag would write it.
    Value(&'static str),
    /// There is none, and the server cannot start without the setting.
    Required,
    /// Left out; the words say what happens then.
    Derived(&'static str),
}

/// One row.
#[derive(Debug)]
pub struct Setting {
    /// The key in the TOML file, with dots between tables. The flag and the variable follow from it.
    pub key: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What holds without it.
    pub default: Default,
    /// One line: the help of the flag, and how the reference page begins.
    pub help: &'static str,
}

impl Setting {
    /// The flag without its dashes: `clients.listen` is `clients-listen`.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment variable: `clients.listen` is `BRAMAH_CLIENTS_LISTEN`.
    pub fn variable(&self) -> String {
        format!("BRAMAH_{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// The row of a key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// All settings, in the order of the reference page.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "cell",
        kind: Kind::Text,
        default: Default::Required,
        help: "Name of the cell: 1 to 64 of a-z, 0-9, '-' and '.'. A data folder belongs to one cell for good",
    },
    Setting {
        key: "replica",
        kind: Kind::Number,
        default: Default::Required,
        help: "This replica's number in the cell. Never give a number to another data folder",
    },
    Setting {
        key: "data",
        kind: Kind::Path,
        default: Default::Required,
        help: "Folder of the log, the vote and the snapshots; made when it is missing",
    },
    Setting {
        key: "clients.listen",
        kind: Kind::Address,
        default: Default::Value("127.0.0.1:7501"),
        help: "Where clients are listened for. Port 0 takes a free one",
    },
    Setting {
        key: "clients.advertise",
        kind: Kind::Address,
        default: Default::Derived("this replica's in `members`"),
        help: "Where clients find this replica. Must be its address in `members`: given per machine, it catches a wrong list",
    },
    Setting {
        key: "peers.listen",
        kind: Kind::Address,
        default: Default::Value("127.0.0.1:7502"),
        help: "Where the other replicas are listened for. Keep it from everybody else",
    },
    Setting {
        key: "peers.advertise",
        kind: Kind::Address,
        default: Default::Derived("this replica's in `members`"),
        help: "Where the other replicas find this one. Must be its address in `members`",
    },
    Setting {
        key: "members",
        kind: Kind::Members,
        default: Default::Derived("required without `join`"),
        help: "The replicas the cell begins with, this one among them; the same list at each. The cell itself keeps later changes. In the file: [[member]]",
    },
    Setting {
        key: "bootstrap",
        kind: Kind::Switch,
        default: Default::Value("false"),
        help: "Start a new cell of `members` if the data folder is empty. Leave it out once the cell lives",
    },
    Setting {
        key: "join",
        kind: Kind::Addresses,
        default: Default::Derived("no cell is joined"),
        help: "Join a cell that lives if the data folder is empty: peers' addresses of some of its replicas. This one waits until `bramah member add` names it. May stay",
    },
    Setting {
        key: "replace",
        kind: Kind::Switch,
        default: Default::Value("false"),
        help: "Begin with an empty data folder and be repaired from the other replicas: after this one's folder was lost, or damaged and moved away. Leave it out afterwards",
    },
    Setting {
        key: "heartbeat",
        kind: Kind::Duration,
        default: Default::Value("50ms"),
        help: "How often the leader tells the others that it lives",
    },
    Setting {
        key: "election_min",
        kind: Kind::Duration,
        default: Default::Value("150ms"),
        help: "A follower that hears no leader waits between this long and `election_max` before it stands for election",
    },
    Setting {
        key: "election_max",
        kind: Kind::Duration,
        default: Default::Value("250ms"),
        help: "See `election_min`; the width between them keeps two followers from standing at once",
    },
    Setting {
        key: "slow_disk",
        kind: Kind::Duration,
        default: Default::Value("1s"),
        help: "A leader whose log has waited so long for its disk hands over to a replica whose disk is well; 0s: never",
    },
    Setting {
        key: "digest_interval",
        kind: Kind::Duration,
        default: Default::Value("1m"),
        help: "How often the leader has the replicas' states compared; one that differs from a majority stops. 0s: never",
    },
    Setting {
        key: "log.segment_bytes",
        kind: Kind::Bytes,
        default: Default::Value("64MiB"),
        help: "Size of one file of the log, allocated ahead",
    },
    Setting {
        key: "snapshot.log_bytes",
        kind: Kind::Bytes,
        default: Default::Value("64MiB"),
        help: "Log written since the last snapshot that starts the next one; bounds the log on disk and the time to restart",
    },
    Setting {
        key: "max_connections",
        kind: Kind::Number,
        default: Default::Value("4096"),
        help: "Client connections at once; one more is closed at once",
    },
    Setting {
        key: "token_key_file",
        kind: Kind::Path,
        default: Default::Derived("everybody is anonymous"),
        help: "Key that clients' tokens are signed with: at least 32 random bytes, the same at each replica, in a file that nobody but its owner may read (chmod 600). Without it a token is refused",
    },
    Setting {
        key: "dns.listen",
        kind: Kind::SocketAddresses,
        default: Default::Derived("no DNS is served"),
        help: "Where DNS queries for services are answered, over UDP and TCP. Name addresses, not 0.0.0.0, on a machine that has several",
    },
    Setting {
        key: "dns.domain",
        kind: Kind::Text,
        default: Default::Value("internal"),
        help: "A service is found as <service>.service.<cell>.<this>",
    },
    Setting {
        key: "dns.ttl",
        kind: Kind::Duration,
        default: Default::Value("0s"),
        help: "How long others may keep an answer, in whole seconds",
    },
    Setting {
        key: "dns.forward",
        kind: Kind::SocketAddresses,
        default: Default::Derived("other domains are refused"),
        help: "Resolvers that are asked about other domains, for clients with private addresses",
    },
    Setting {
        key: "stop_timeout",
        kind: Kind::Duration,
        default: Default::Value("10s"),
        help: "After SIGTERM or SIGINT: time to finish what is under way and to hand leadership over. A second signal exits at once",
    },
    Setting {
        key: "log_level",
        kind: Kind::Text,
        default: Default::Value("info,openraft=error"),
        help: "What is written to standard error: error, warn, info, debug, trace, or a filter such as `info,openraft=warn`",
    },
    Setting {
        key: "log_format",
        kind: Kind::Choice(&["text", "json"]),
        default: Default::Value("text"),
        help: "How it is written",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_key_and_are_unique() {
        let setting = find("clients.listen").expect("a row");
        assert_eq!(setting.flag(), "clients-listen");
        assert_eq!(setting.variable(), "BRAMAH_CLIENTS_LISTEN");

        let mut flags: Vec<String> = SETTINGS.iter().map(Setting::flag).collect();
        flags.sort();
        flags.dedup();
        assert_eq!(flags.len(), SETTINGS.len(), "two rows would share a flag");
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for setting in SETTINGS {
            if let Default::Value(text) = setting.default {
                super::super::value::check(setting.kind, text)
                    .unwrap_or_else(|error| panic!("{}: {error}", setting.key));
            }
        }
    }
}
