//! What a file holds, a page at a time. Copies share pages, so a disk is cheap to copy.

use std::sync::Arc;

const PAGE: u64 = 4096;

#[derive(Clone)]
enum Page {
    /// Reads as zeros and takes no space.
    Hole,
    /// Zeros that were written.
    Zeros,
    Bytes(Arc<[u8; PAGE as usize]>),
}

/// Bytes and their length. What lies behind the length is zero.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pages: Vec<Page>,
    length: u64,
}

impl Contents {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of space that it takes.
    pub(super) fn used(&self) -> u64 {
        self.pages.iter().filter(|page| !matches!(page, Page::Hole)).count() as u64 * PAGE
    }

    /// Bytes of space that writing `from..to` would take besides.
    pub(super) fn missing(&self, from: u64, to: u64) -> u64 {
        let pages = from / PAGE..to.div_ceil(PAGE);
        let held = |page: &u64| !matches!(self.pages.get(*page as usize), None | Some(Page::Hole));
        pages.filter(|page| !held(page)).count() as u64 * PAGE
    }

    /// Fills `buffer` from `offset`, with zeros behind the end.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        each_page(offset, offset + buffer.len() as u64, |page, from, to, at| {
            let piece = &mut buffer[at..at + (to - from)];
            match self.pages.get(page) {
                Some(Page::Bytes(bytes)) => piece.copy_from_slice(&bytes[from..to]),
                _ => piece.fill(0),
            }
        });
    }

    pub(super) fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.grow(end);
        each_page(offset, end, |page, from, to, at| {
            self.page(page)[from..to].copy_from_slice(&bytes[at..at + (to - from)]);
        });
    }

    /// Writes zeros that take space.
    pub(super) fn zero(&mut self, from: u64, to: u64) {
        self.grow(to);
        self.clear(from, to, Page::Zeros);
    }

    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.clear(length, self.length, Page::Hole);
        }
        self.length = length;
        self.pages.resize(length.div_ceil(PAGE) as usize, Page::Hole);
    }

    /// Takes over the pages of `other` that hold `from..to`.
    pub(super) fn take_over(&mut self, other: &Contents, from: u64, to: u64) {
        let last = to.div_ceil(PAGE).min(other.pages.len() as u64).min(self.pages.len() as u64);
        for page in (from / PAGE) as usize..last as usize {
            self.pages[page] = other.pages[page].clone();
        }
    }

    fn grow(&mut self, end: u64) {
        if end > self.length {
            self.set_length(end);
        }
    }

    fn clear(&mut self, from: u64, to: u64, whole: Page) {
        each_page(from, to, |page, begin, end, _| {
            if end - begin == PAGE as usize {
                self.pages[page] = whole.clone();
            } else {
                self.page(page)[begin..end].fill(0);
            }
        });
    }

    fn page(&mut self, page: usize) -> &mut [u8; PAGE as usize] {
        let page = &mut self.pages[page];
        if !matches!(page, Page::Bytes(_)) {
            *page = Page::Bytes(Arc::new([0; PAGE as usize]));
        }
        match page {
            Page::Bytes(bytes) => Arc::make_mut(bytes),
            Page::Hole | Page::Zeros => unreachable!("it was made a page of bytes above"),
        }
    }
}

/// The numbers of the pages that hold `from..to`.
pub(super) fn pages(from: u64, to: u64) -> std::ops::Range<u64> {
    from / PAGE..to.div_ceil(PAGE)
}

/// Where a page begins and ends.
pub(super) fn range_of(page: u64) -> (u64, u64) {
    (page * PAGE, (page + 1) * PAGE)
}

/// Calls `visit` with each page of `from..to`: its number, the range within it, and how far behind `from` it is.
fn each_page(from: u64, to: u64, mut visit: impl FnMut(usize, usize, usize, usize)) {
    let mut at = from;
    while at < to {
        let end = (at / PAGE + 1) * PAGE;
        let end = end.min(to);
        let first = at % PAGE;
        visit((at / PAGE) as usize, first as usize, (first + end - at) as usize, (at - from) as usize);
        at = end;
    }
}
