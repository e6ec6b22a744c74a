//! Corpus files with damage done to them: what random bytes would never look like.

use std::fmt;
use std::fs;

use bolero::{Driver, TargetLocation, ValueGenerator};

/// The most that is done to one file.
const MOST_CHANGES: u8 = 6;
/// Numbers at which decoders break, as they lie on the disk.
const EXTREMES: [u64; 8] = [0, 1, 0x7f, 0xff, 0xffff, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// A damaged file. When a test fails it shows the bytes such that `xxd -r -p` makes a corpus file of them.
#[derive(Clone)]
pub(crate) struct Input(pub(crate) Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes, in hex: ", self.0.len())?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Makes [`Input`]s.
pub(crate) struct Damage {
    corpus: Vec<Vec<u8>>,
}

impl Damage {
    pub(crate) fn to_corpus_of(location: &TargetLocation) -> Damage {
        let folder = location.work_dir().expect("the crate's folder is there").join("corpus");
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.sort();
        let corpus: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a readable file")).collect();
        assert!(!corpus.is_empty(), "{} is empty; put valid encodings there", folder.display());
        Damage { corpus }
    }

    pub(crate) fn corpus_files(&self) -> usize {
        self.corpus.len()
    }

    fn file<D: Driver>(&self, driver: &mut D) -> Option<&[u8]> {
        let which: u16 = driver.produce()?;
        Some(&self.corpus[usize::from(which) % self.corpus.len()])
    }

    fn change<D: Driver>(&self, bytes: &mut Vec<u8>, driver: &mut D) -> Option<()> {
        let (how, place, value): (u8, u32, u8) = (driver.produce()?, driver.produce()?, driver.produce()?);
        let at = place as usize % (bytes.len() + 1);
        match how % 8 {
            0 => change_byte(bytes, at, |byte| byte ^ (1 << (value % 8))),
            1 => change_byte(bytes, at, |_| value),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, value),
            4 => drop(bytes.drain(at..bytes.len().min(at + usize::from(value)))),
            5 => overwrite_number(bytes, at, value),
            6 => repeat(bytes, at, usize::from(value)),
            _ => splice(bytes, at, self.file(driver)?),
        }
        Some(())
    }
}

impl ValueGenerator for Damage {
    type Output = Input;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Input> {
        let mut bytes = self.file(driver)?.to_vec();
        let changes: u8 = driver.produce()?;
        for _ in 0..=changes % MOST_CHANGES {
            self.change(&mut bytes, driver)?;
        }
        Some(Input(bytes))
    }
}

fn change_byte(bytes: &mut [u8], at: usize, change: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte);
    }
}

/// Puts an extreme number of 1, 2, 4 or 8 bytes over what is there.
fn overwrite_number(bytes: &mut [u8], at: usize, choice: u8) {
    let number = EXTREMES[usize::from(choice % 8)].to_le_bytes();
    let width = (1 << (choice / 8 % 4)).min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&number[..width]);
}

fn repeat(bytes: &mut Vec<u8>, at: usize, length: usize) {
    let again = bytes[at..bytes.len().min(at + length)].to_vec();
    bytes.splice(at..at, again);
}

/// The end of another file in the place of this one's.
fn splice(bytes: &mut Vec<u8>, at: usize, other: &[u8]) {
    bytes.truncate(at);
    bytes.extend_from_slice(&other[at.min(other.len())..]);
}
