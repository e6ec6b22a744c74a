//! Names of nodes inside a cell (spec N-1).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The most bytes a component of a path has.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// The most components a path has.
pub const MAX_DEPTH: usize = 64;
/// The most bytes a path has.
pub const MAX_PATH_BYTES: usize = 4096;

/// First component of the names that say which cell they mean: `/ls/<cell>/...`.
const CELLS: &str = "ls";
/// The cell that the client is configured with, whatever its name.
const LOCAL_CELL: &str = "local";
/// How much of an offending component an error shows.
const SHOWN_CHARACTERS: usize = 64;

/// A valid name of a node inside a cell: `/`, or `/a/b/c`.
///
/// Cloning copies a pointer. The order is by parent, then by name, so the children of a directory stand
/// together in an ordered map, in name order; the root comes first.
#[derive(Clone)]
pub struct Path {
    text: Arc<str>,
    /// Where the last component starts; 0 for the root, so that it is nobody's child.
    name_at: u16,
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidPath {
    /// It does not start with a slash.
    #[error("the name {text:?} does not start with '/'; write it in full, as in /a/b")]
    NotAbsolute {
        /// The name, shortened.
        text: String,
    },
    /// It ends with a slash.
    #[error("the name {text:?} ends with '/'; leave the last '/' out")]
    TrailingSlash {
        /// The name, shortened.
        text: String,
    },
    /// Two slashes stand together.
    #[error("component {position} of the name {text:?} is empty; write one '/' between components")]
    EmptyComponent {
        /// The name, shortened.
        text: String,
        /// Which component, counted from 1.
        position: usize,
    },
    /// A component is `.` or `..`.
    #[error(
        "the component {component:?} is not allowed; names are never relative, so write the name in full"
    )]
    Dots {
        /// The component.
        component: String,
    },
    /// A component holds a character that names can't have.
    #[error("the component {component:?} holds the control character {character:?}; leave it out")]
    ForbiddenCharacter {
        /// The component, shortened.
        component: String,
        /// The character.
        character: char,
    },
    /// A component is too long.
    #[error("the component {component:?} has {bytes} bytes; at most {MAX_COMPONENT_BYTES} are allowed")]
    ComponentTooLong {
        /// The component, shortened.
        component: String,
        /// Its length.
        bytes: usize,
    },
    /// There are too many components.
    #[error("the name {text:?} has {depth} components; at most {MAX_DEPTH} are allowed")]
    TooDeep {
        /// The name, shortened.
        text: String,
        /// How many components it has.
        depth: usize,
    },
    /// The whole name is too long.
    #[error("the name {text:?} has {bytes} bytes; at most {MAX_PATH_BYTES} are allowed")]
    TooLong {
        /// The name, shortened.
        text: String,
        /// Its length.
        bytes: usize,
    },
    /// The first component is `ls` where a name inside a cell is wanted.
    #[error(
        "names under /ls say which cell they mean, so {text:?} can't name a node inside a cell; choose another first component"
    )]
    Reserved {
        /// The name, shortened.
        text: String,
    },
    /// `/ls` alone: no cell is named.
    #[error("the name {text:?} names no cell; write /ls/local/... or /ls/<cell>/...")]
    NoCell {
        /// The name, shortened.
        text: String,
    },
    /// The name is of another cell.
    #[error(
        "the name is of the cell {cell:?}, but this is the cell {this:?}; ask a replica of {cell:?}, or write /ls/local/..."
    )]
    OtherCell {
        /// The cell that the name is of, shortened.
        cell: String,
        /// The cell that was asked.
        this: String,
    },
}

impl Path {
    /// The root directory, `/`.
    pub fn root() -> Path {
        Path { text: Arc::from("/"), name_at: 0 }
    }

    /// Reads a name inside a cell.
    pub fn parse(text: &str) -> Result<Path, InvalidPath> {
        if text == "/" {
            return Ok(Path::root());
        }
        let name_at = check(text)?;
        Ok(Path { text: Arc::from(text), name_at })
    }

    /// Reads a name as a user writes it to the cell `cell`: `/a/b`, `/ls/local/a/b` or `/ls/<cell>/a/b`.
    pub fn parse_in_cell(text: &str, cell: &str) -> Result<Path, InvalidPath> {
        let Some(qualified) =
            text.strip_prefix("/ls").filter(|rest| rest.is_empty() || rest.starts_with('/'))
        else {
            return Path::parse(text);
        };
        let mut parts = qualified.splitn(3, '/').skip(1);
        let named = parts.next().unwrap_or_default();
        if named.is_empty() {
            return Err(InvalidPath::NoCell { text: shortened(text) });
        }
        if named != LOCAL_CELL && named != cell {
            return Err(InvalidPath::OtherCell { cell: shortened(named), this: cell.to_owned() });
        }
        // What follows the cell's name, with its leading slash; nothing at all is the cell's root.
        match &qualified[1 + named.len()..] {
            "" => Ok(Path::root()),
            rest => Path::parse(rest),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.name_at == 0
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        if self.is_root() { "" } else { &self.text[usize::from(self.name_at)..] }
    }

    /// The directory that holds this node; none for the root.
    pub fn parent(&self) -> Option<Path> {
        match self.name_at {
            0 => None,
            1 => Some(Path::root()),
            name_at => {
                let text = &self.text[..usize::from(name_at) - 1];
                Some(Path { text: Arc::from(text), name_at: name_start(text) })
            }
        }
    }

    /// How many components it has; 0 for the root.
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.text.bytes().filter(|&byte| byte == b'/').count() }
    }

    /// The place of a child called `name` in the order of paths. The name is not checked, so the result is
    /// a bound for a range and never a key: with an empty name it stands before all children.
    pub(crate) fn child_bound(&self, name: &str) -> Path {
        let directory = if self.is_root() { "" } else { &*self.text };
        let text = format!("{directory}/{name}");
        // At most MAX_PATH_BYTES, which fits.
        Path { text: Arc::from(text), name_at: directory.len() as u16 + 1 }
    }

    /// Whether `self` is a child of the directory `directory`.
    pub(crate) fn is_child_of(&self, directory: &Path) -> bool {
        let parent = self.parent_bytes();
        if directory.is_root() {
            return parent == b"/";
        }
        parent.len() == directory.text.len() + 1 && parent.starts_with(directory.text.as_bytes())
    }

    /// Whether `self` is below the directory `directory`, at any depth.
    pub(crate) fn is_below(&self, directory: &Path) -> bool {
        if directory.is_root() {
            return !self.is_root();
        }
        self.text.strip_prefix(&*directory.text).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The parent's name with its closing slash; empty for the root.
    fn parent_bytes(&self) -> &[u8] {
        &self.text.as_bytes()[..usize::from(self.name_at)]
    }

    fn name_bytes(&self) -> &[u8] {
        &self.text.as_bytes()[usize::from(self.name_at)..]
    }
}

/// Checks a name other than `/` and says where its last component starts.
fn check(text: &str) -> Result<u16, InvalidPath> {
    if !text.starts_with('/') {
        return Err(InvalidPath::NotAbsolute { text: shortened(text) });
    }
    if text.len() > MAX_PATH_BYTES {
        return Err(InvalidPath::TooLong { text: shortened(text), bytes: text.len() });
    }
    let mut depth = 0;
    for component in text[1..].split('/') {
        depth += 1;
        if component.is_empty() {
            return Err(empty_component(text, depth));
        }
        check_component(component)?;
    }
    if depth > MAX_DEPTH {
        return Err(InvalidPath::TooDeep { text: shortened(text), depth });
    }
    if text[1..].split('/').next() == Some(CELLS) {
        return Err(InvalidPath::Reserved { text: shortened(text) });
    }
    Ok(name_start(text))
}

fn empty_component(text: &str, position: usize) -> InvalidPath {
    let text_shown = shortened(text);
    if text.ends_with('/') && !text.contains("//") {
        InvalidPath::TrailingSlash { text: text_shown }
    } else {
        InvalidPath::EmptyComponent { text: text_shown, position }
    }
}

fn check_component(component: &str) -> Result<(), InvalidPath> {
    if component == "." || component == ".." {
        return Err(InvalidPath::Dots { component: component.to_owned() });
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(InvalidPath::ComponentTooLong {
            component: shortened(component),
            bytes: component.len(),
        });
    }
    // Nearly all names are printable ASCII, which one pass over the bytes shows.
    if component.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(());
    }
    match component.chars().find(|character| character.is_control()) {
        Some(character) => {
            Err(InvalidPath::ForbiddenCharacter { component: shortened(component), character })
        }
        None => Ok(()),
    }
}

/// Where the last component of a checked name starts.
fn name_start(text: &str) -> u16 {
    // At most MAX_PATH_BYTES, which fits.
    text.rfind('/').map_or(0, |slash| slash as u16 + 1)
}

pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.text == other.text
    }
}

impl Eq for Path {}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Path) -> Ordering {
        self.parent_bytes().cmp(other.parent_bytes()).then_with(|| self.name_bytes().cmp(other.name_bytes()))
    }
}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Path) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, formatter)
    }
}

impl std::str::FromStr for Path {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Path, InvalidPath> {
        Path::parse(text)
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Path, D::Error> {
        deserializer.deserialize_str(PathVisitor)
    }
}

struct PathVisitor;

impl Visitor<'_> for PathVisitor {
    type Value = Path;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a node, as in /a/b")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Path, E> {
        Path::parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    /// Spec N-1: the limits themselves are allowed.
    #[test]
    fn accepts_names_up_to_every_limit() {
        for text in ["/", "/a", "/a/b/c", "/ä/ß/漢字", "/...", "/.a/a.", "/a b", "/lsx", "/a/ls"] {
            assert_eq!(path(text).as_str(), text);
        }
        path(&format!("/{}", "x".repeat(MAX_COMPONENT_BYTES)));
        path(&"/x".repeat(MAX_DEPTH));
        let longest = format!("/{}", "x".repeat(255)).repeat(16);
        assert_eq!(longest.len(), MAX_PATH_BYTES);
        path(&longest);
    }

    /// Spec N-1: a bad name is refused with the reason and the offending component.
    #[test]
    fn refuses_bad_names_with_reason_and_component() {
        let refused = |text: &str| Path::parse(text).unwrap_err();
        assert_eq!(refused(""), InvalidPath::NotAbsolute { text: String::new() });
        assert_eq!(refused("a/b"), InvalidPath::NotAbsolute { text: "a/b".into() });
        assert_eq!(refused("/a/"), InvalidPath::TrailingSlash { text: "/a/".into() });
        assert_eq!(refused("//"), InvalidPath::EmptyComponent { text: "//".into(), position: 1 });
        assert_eq!(refused("/a//b"), InvalidPath::EmptyComponent { text: "/a//b".into(), position: 2 });
        assert_eq!(refused("/a/./b"), InvalidPath::Dots { component: ".".into() });
        assert_eq!(refused("/.."), InvalidPath::Dots { component: "..".into() });
        for character in ['\0', '\n', '\u{7f}', '\u{85}'] {
            let component = format!("x{character}y");
            assert_eq!(
                refused(&format!("/a/{component}/b")),
                InvalidPath::ForbiddenCharacter { component, character }
            );
        }
        assert!(matches!(
            refused(&format!("/{}", "x".repeat(256))),
            InvalidPath::ComponentTooLong { bytes: 256, .. }
        ));
        assert!(matches!(refused(&"/x".repeat(65)), InvalidPath::TooDeep { depth: 65, .. }));
        let too_long = format!("{}/y", format!("/{}", "x".repeat(255)).repeat(16));
        assert!(matches!(refused(&too_long), InvalidPath::TooLong { bytes: 4098, .. }));
        assert!(refused("/a/./b").to_string().contains("\".\""));
    }

    /// Spec N-1: `local` and the cell's own name mean this cell, any other is an error that says so.
    #[test]
    fn resolves_names_that_say_their_cell() {
        let here = |text: &str| Path::parse_in_cell(text, "berlin");
        assert_eq!(here("/a/b").unwrap(), path("/a/b"));
        assert_eq!(here("/ls/local/a/b").unwrap(), path("/a/b"));
        assert_eq!(here("/ls/berlin/a/b").unwrap(), path("/a/b"));
        assert_eq!(here("/ls/berlin").unwrap(), Path::root());
        assert_eq!(here("/ls/local/").unwrap(), Path::root());
        assert_eq!(here("/").unwrap(), Path::root());
        assert_eq!(here("/lsx").unwrap(), path("/lsx"));
        assert_eq!(
            here("/ls/paris/a"),
            Err(InvalidPath::OtherCell { cell: "paris".into(), this: "berlin".into() })
        );
        assert!(matches!(here("/ls"), Err(InvalidPath::NoCell { .. })));
        assert!(matches!(here("/ls/"), Err(InvalidPath::NoCell { .. })));
        assert!(matches!(here("/ls//a"), Err(InvalidPath::NoCell { .. })));
        assert!(matches!(here("/ls/local/ls/a"), Err(InvalidPath::Reserved { .. })));
        assert!(matches!(here("/ls/local/a/"), Err(InvalidPath::TrailingSlash { .. })));
        assert!(matches!(Path::parse("/ls/local/a"), Err(InvalidPath::Reserved { .. })));
        assert!(matches!(Path::parse("/ls"), Err(InvalidPath::Reserved { .. })));
    }

    /// Spec N-7: children stand together, in name order, whatever sorts between the texts.
    #[test]
    fn sorts_children_of_a_directory_together() {
        let mut paths: Vec<Path> =
            ["/b", "/a/b", "/", "/a/a/z", "/a", "/a/c", "/a.b", "/a/b/c", "/a/a", "/a!", "/a!/q"]
                .map(path)
                .into();
        paths.sort();
        let sorted: Vec<&str> = paths.iter().map(Path::as_str).collect();
        assert_eq!(
            sorted,
            ["/", "/a", "/a!", "/a.b", "/b", "/a!/q", "/a/a", "/a/b", "/a/c", "/a/a/z", "/a/b/c"]
        );
        for directory in &paths {
            let children: Vec<&Path> =
                paths.iter().filter(|other| other.parent().as_ref() == Some(directory)).collect();
            for child in &paths {
                assert_eq!(child.is_child_of(directory), children.contains(&child), "{child} in {directory}");
                assert_eq!(
                    *child >= directory.child_bound("") && child.is_child_of(directory),
                    children.contains(&child)
                );
            }
        }
    }

    #[test]
    fn takes_names_apart() {
        let deep = path("/a/b/c");
        assert_eq!((deep.name(), deep.depth()), ("c", 3));
        assert_eq!(deep.parent(), Some(path("/a/b")));
        assert_eq!(path("/a").parent(), Some(Path::root()));
        assert_eq!((Path::root().name(), Path::root().depth(), Path::root().parent()), ("", 0, None));
    }

    #[test]
    fn checks_names_that_arrive_encoded() {
        let encoded = postcard::to_stdvec(&path("/a/b")).unwrap();
        assert_eq!(postcard::from_bytes::<Path>(&encoded).unwrap(), path("/a/b"));
        let bad = postcard::to_stdvec("/a/../b").unwrap();
        assert!(postcard::from_bytes::<Path>(&bad).is_err());
    }
}
