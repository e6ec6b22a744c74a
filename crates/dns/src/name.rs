//! Names as they travel: length-prefixed labels, ended by an empty one (RFC 1035 §3.1).

use std::borrow::Cow;

use twox_hash::XxHash3_64;

/// Longest label in bytes.
pub(crate) const LONGEST_LABEL: usize = 63;
/// Longest name in bytes, with the length of each label and the root.
pub(crate) const LONGEST_NAME: usize = 255;
/// How much of an id stays readable in a label that is made for it; then come `-` and 8 digits.
const READABLE: usize = LONGEST_LABEL - 9;

/// A name in lower case, in wire format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Box<[u8]>);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has a label that can't be one.
    #[error("`{0}` is no part of a domain name: take 1 to 63 letters, digits, `-` or `_`")]
    Label(String),
    /// It is too long.
    #[error("the name has {0} bytes, more than 255: take a shorter one")]
    Length(usize),
}

impl Name {
    /// Reads labels with dots between; a dot at the end may stand or be left out.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            let label = label.to_ascii_lowercase();
            if !is_label(&label) {
                return Err(NameError::Label(label));
            }
            push_label(&mut wire, &label);
        }
        wire.push(0);
        if wire.len() > LONGEST_NAME { Err(NameError::Length(wire.len())) } else { Ok(Name(wire.into())) }
    }

    /// As it travels, with the root's empty label.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

pub(crate) fn push_label(wire: &mut Vec<u8>, label: &str) {
    debug_assert!((1..=LONGEST_LABEL).contains(&label.len()), "{label}");
    wire.push(label.len() as u8);
    wire.extend_from_slice(label.as_bytes());
}

/// Whether it can be a label as it is. Capitals can't: DNS doesn't tell them from small letters.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&text.len()) && text.bytes().all(is_label_byte)
}

fn is_label_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')
}

/// The label of an instance: its id, or for one that is no label what is readable of it and a hash, so that
/// `10.0.0.7:80` and `10.0.0.78:0` are not the same.
pub(crate) fn label_of_id(id: &str) -> Cow<'_, str> {
    if is_label(id) {
        return Cow::Borrowed(id);
    }
    let readable = |letter: char| {
        let small = letter.to_ascii_lowercase();
        if u8::try_from(small).is_ok_and(is_label_byte) { small } else { '-' }
    };
    let part: String = id.chars().take(READABLE).map(readable).collect();
    let part = Some(part.trim_matches('-')).filter(|part| !part.is_empty()).unwrap_or("id");
    Cow::Owned(format!("{part}-{:08x}", XxHash3_64::oneshot(id.as_bytes()) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_lower_case() {
        assert_eq!(Name::parse("Berlin.example.").unwrap().wire(), b"\x06berlin\x07example\x00");
        assert_eq!(Name::parse("a..b"), Err(NameError::Label(String::new())));
        assert_eq!(Name::parse("a b"), Err(NameError::Label("a b".to_owned())));
        assert_eq!(Name::parse(&"a.".repeat(128)), Err(NameError::Length(257)));
    }

    /// Spec F-3: each instance has a name.
    #[test]
    fn every_id_has_a_label_of_its_own() {
        assert_eq!(label_of_id("web-1"), "web-1");
        let long = "x".repeat(400);
        let ids = ["10.0.0.7:80", "10.0.0.78:0", "Web-1", "web 1", "", "ä", &long];
        let mut labels: Vec<_> = ids.iter().map(|id| label_of_id(id)).collect();
        assert!(labels.iter().all(|label| is_label(label)), "{labels:?}");
        assert!(labels[0].starts_with("10-0-0-7-80-"), "{}", labels[0]);
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), ids.len());
    }
}
