//! The small language of `bramah txn`: one guard or one operation a text.

use bramah_client::Comparison;

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    Exists(String),
    Absent(String),
    Generation(String, u64),
    Held(String),
    Counter(String, Comparison, i64),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Set(String, String),
    MakeDirectory(String),
    Remove(String),
    RemoveTree(String),
    Increment(String, i64),
    Reset(String, i64),
}

/// Words at the beginning of a text.
struct Words<'text>(&'text str);

impl<'text> Words<'text> {
    fn next(&mut self, what: &str) -> Result<&'text str, String> {
        let text = self.0.trim_start();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        self.0 = rest;
        if word.is_empty() { Err(format!("{what} is missing")) } else { Ok(word) }
    }

    fn path(&mut self) -> Result<String, String> {
        self.next("the path").map(str::to_owned)
    }

    fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_| format!("{word:?} is no number, and {what} is one"))
    }

    fn end(&self) -> Result<(), String> {
        match self.0.trim() {
            "" => Ok(()),
            rest => Err(format!("{rest:?} is too much")),
        }
    }
}

pub(crate) fn guard(text: &str) -> Result<Guard, String> {
    parse(text, "a guard", |verb, words| {
        Ok(Some(match verb {
            "exists" => Guard::Exists(words.path()?),
            "absent" => Guard::Absent(words.path()?),
            "generation" => Guard::Generation(words.path()?, words.number("the generation")?),
            "held" => Guard::Held(words.next("the sequencer")?.to_owned()),
            "counter" => Guard::Counter(words.path()?, comparison(words)?, words.number("the value")?),
            _ => return Ok(None),
        }))
    })
}

fn comparison(words: &mut Words<'_>) -> Result<Comparison, String> {
    Ok(match words.next("the comparison")? {
        "<" => Comparison::Less,
        "<=" => Comparison::AtMost,
        "=" | "==" => Comparison::Equal,
        "!=" => Comparison::NotEqual,
        ">=" => Comparison::AtLeast,
        ">" => Comparison::Greater,
        other => return Err(format!("{other:?} is no comparison; there are < <= = != >= >")),
    })
}

pub(crate) fn operation(text: &str) -> Result<Operation, String> {
    parse(text, "an operation", |verb, words| {
        Ok(Some(match verb {
            "set" => Operation::Set(words.path()?, std::mem::take(&mut words.0).to_owned()),
            "mkdir" => Operation::MakeDirectory(words.path()?),
            "rm" => Operation::Remove(words.path()?),
            "rm-tree" => Operation::RemoveTree(words.path()?),
            "incr" => Operation::Increment(words.path()?, words.number("what to add")?),
            "reset" => Operation::Reset(words.path()?, words.number("the value")?),
            _ => return Ok(None),
        }))
    })
}

/// The verb decides how the rest is read.
fn parse<T>(
    text: &str,
    what: &str,
    read: impl FnOnce(&str, &mut Words<'_>) -> Result<Option<T>, String>,
) -> Result<T, String> {
    let mut words = Words(text);
    let found = words.next("the first word").and_then(|verb| {
        read(verb, &mut words)?
            .ok_or_else(|| format!("{verb:?} is none that there is; see `bramah txn --help`"))
    });
    let found = found.and_then(|found| words.end().map(|()| found));
    found.map_err(|why| format!("{text:?} is not {what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_read() {
        assert_eq!(guard("exists /a"), Ok(Guard::Exists("/a".into())));
        assert_eq!(guard("absent  /a "), Ok(Guard::Absent("/a".into())));
        assert_eq!(guard("generation /a 3"), Ok(Guard::Generation("/a".into(), 3)));
        assert_eq!(guard("held /a#x1.2"), Ok(Guard::Held("/a#x1.2".into())));
        assert_eq!(guard("counter /n >= -3"), Ok(Guard::Counter("/n".into(), Comparison::AtLeast, -3)));
        for (text, why) in [
            ("", "first word is missing"),
            ("exist /a", "--help"),
            ("exists", "path is missing"),
            ("exists /a /b", "too much"),
            ("generation /a three", "no number"),
            ("counter /n ~ 3", "no comparison"),
        ] {
            let error = guard(text).expect_err(text);
            assert!(error.contains(why) && error.contains("is not a guard"), "{error}");
        }
    }

    #[test]
    fn operations_are_read() {
        let set = |contents: &str| Operation::Set("/a".into(), contents.into());
        assert_eq!(operation("set /a  b c "), Ok(set(" b c ")));
        assert_eq!(operation("set /a"), Ok(set("")));
        assert_eq!(operation("mkdir /a"), Ok(Operation::MakeDirectory("/a".into())));
        assert_eq!(operation("rm-tree /a"), Ok(Operation::RemoveTree("/a".into())));
        assert_eq!(operation("incr /n -1"), Ok(Operation::Increment("/n".into(), -1)));
        assert!(operation("incr /n").is_err_and(|error| error.contains("what to add is missing")));
    }
}
