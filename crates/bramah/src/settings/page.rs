//! The reference page `docs/settings.md`, written from the table.

use std::fmt::Write;

use super::table::{Default, SETTINGS, Setting};

const OPENING: &str = "\
# Settings of a replica

<!-- Written by `bramah settings` from crates/bramah/src/settings/table.rs: change it there. -->

`bramah server` takes each setting as a flag, from an environment variable, or from the TOML file named with
`--config`. A flag wins over the environment, the environment over the file, the file over the default. A key that
does not exist is an error.

";

const CLOSING: &str = "\
## A file

```toml
cell = \"west\"
replica = 1
data = \"/var/lib/bramah\"
bootstrap = true

[clients]
listen = \"0.0.0.0:7501\"

[peers]
listen = \"0.0.0.0:7502\"

[[member]]
id = 1
peers = \"10.0.0.1:7502\"
clients = \"10.0.0.1:7501\"

[[member]]
id = 2
peers = \"10.0.0.2:7502\"
clients = \"10.0.0.2:7501\"

[[member]]
id = 3
peers = \"10.0.0.3:7502\"
clients = \"10.0.0.3:7501\"
```

As a flag or a variable, `members` is `1=10.0.0.1:7502/10.0.0.1:7501,2=…`: number, peers' address, clients' address.
";

/// The whole page.
pub fn page() -> String {
    let mut page = OPENING.to_owned();
    page.push_str("| key in the file | flag | variable | value | default |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let (flag, variable) = (setting.flag(), setting.variable());
        let (kind, default) = (setting.kind.name(), default_of(setting));
        writeln!(page, "| `{}` | `--{flag}` | `{variable}` | {kind} | {default} |", setting.key)
            .expect("a String takes all");
    }
    page.push('\n');
    for setting in SETTINGS {
        writeln!(page, "- `{}`: {}.", setting.key, setting.help).expect("a String takes all");
    }
    page.push('\n');
    page.push_str(CLOSING);
    page
}

fn default_of(setting: &Setting) -> String {
    match setting.default {
        Default::Value(text) => format!("`{text}`"),
        Default::Required => "required".into(),
        Default::Derived(words) => words.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, file, source};

    #[test]
    fn the_committed_page_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == page(),
            "docs/settings.md is out of date: run `cargo run -- settings > docs/settings.md`"
        );
    }

    #[test]
    fn the_file_on_the_page_is_a_good_one() {
        let page = page();
        let text =
            page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a TOML block");
        let mut values = source::Values::default();
        values.override_with(file::parse(text, "page").expect("TOML")).expect("values of their kinds");
        let settings = Settings::from_values(values).expect("valid settings");
        assert_eq!(settings.members.len(), 3);
        assert_eq!(settings.members[0].clients, "10.0.0.1:7501");
    }
}
