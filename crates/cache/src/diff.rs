//! By what do two trees differ, path by path? A value that people and programs read.

use std::fmt;

use df_core::text;
use df_core::{Entry, Kind, Manifest};

/// One difference at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where in the tree; raw bytes, because what is found need not be a valid path. Empty for the top.
    pub path: Box<[u8]>,
    /// What kind of difference.
    pub kind: DifferenceKind,
    /// What should be there, in words.
    pub expected: String,
    /// What is there, in words.
    pub found: String,
}

/// What kind of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DifferenceKind {
    /// Listed and not there.
    Missing,
    /// There and not listed.
    Extra,
    /// Other bytes.
    Content,
    /// Another executable bit; on disk also another mode, owner or time than an image has.
    Mode,
    /// Something else: a link instead of a file.
    Kind,
    /// A link to somewhere else.
    Target,
    /// It could not be read, so nothing is known about it.
    Unreadable,
}

impl DifferenceKind {
    /// Returns the word that messages use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Kind => "kind",
            Self::Target => "target",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Difference {
    /// Writes one line, safe for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = text::escape(&self.path);
        write!(f, "{} {path}: expected {}, found {}", self.kind, self.expected, self.found)
    }
}

impl Difference {
    pub(crate) fn new(path: &[u8], kind: DifferenceKind, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: path.into(), kind, expected: expected.into(), found: found.into() }
    }
}

/// Lists by what `found` differs from `expected`, in the order of paths; nothing exactly when both are the same image.
pub fn manifests(expected: &Manifest, found: &Manifest) -> Vec<Difference> {
    let (mut a, mut b) = (expected.entries().iter().peekable(), found.entries().iter().peekable());
    let mut differences = vec![];
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return differences,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => x.path.cmp(&y.path),
        };
        match order {
            std::cmp::Ordering::Less => differences.extend(a.next().map(missing)),
            std::cmp::Ordering::Greater => differences.extend(b.next().map(extra)),
            std::cmp::Ordering::Equal => differences.extend(a.next().zip(b.next()).and_then(|(x, y)| entries(x, y))),
        }
    }
}

/// Says in words what an entry is.
pub fn words(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "a directory".to_owned(),
        Kind::File { executable, len, digest } => {
            let what = if *executable { "an executable" } else { "a file" };
            format!("{what} of {len} bytes, {}", digest.short())
        }
        Kind::Symlink { target } => format!("a link to {}", text::shorten(&text::escape(target), 200)),
    }
}

pub(crate) fn missing(entry: &Entry) -> Difference {
    Difference::new(entry.path.as_bytes(), DifferenceKind::Missing, words(&entry.kind), "nothing")
}

fn extra(entry: &Entry) -> Difference {
    Difference::new(entry.path.as_bytes(), DifferenceKind::Extra, "nothing", words(&entry.kind))
}

fn entries(expected: &Entry, found: &Entry) -> Option<Difference> {
    let kind = match (&expected.kind, &found.kind) {
        (a, b) if a == b => return None,
        (Kind::File { len: a_len, digest: a, .. }, Kind::File { len: b_len, digest: b, .. }) => {
            if (a_len, a) == (b_len, b) {
                DifferenceKind::Mode
            } else {
                DifferenceKind::Content
            }
        }
        (Kind::Symlink { .. }, Kind::Symlink { .. }) => DifferenceKind::Target,
        _ => DifferenceKind::Kind,
    };
    Some(Difference::new(expected.path.as_bytes(), kind, words(&expected.kind), words(&found.kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::Digest;

    fn file(path: &str, bytes: &[u8], executable: bool) -> Entry {
        Entry {
            path: path.parse().expect("a path"),
            kind: Kind::File { executable, len: bytes.len() as u64, digest: Digest::of(bytes) },
        }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { path: path.parse().expect("a path"), kind: Kind::Symlink { target: target.as_bytes().into() } }
    }

    #[test]
    fn each_difference_is_named_by_path_and_kind() {
        let tree = |entries| Manifest::new(entries).expect("a tree");
        let a = tree(vec![
            file("a", b"1", false),
            file("b", b"1", false),
            file("c", b"1", false),
            link("d", "x"),
            link("e", "x"),
            link("s", "x"),
        ]);
        let b = tree(vec![
            file("b", b"2", false),
            file("c", b"1", true),
            link("d", "y"),
            file("e", b"", false),
            link("s", "x"),
            link("z", "x"),
        ]);
        let lines: Vec<_> = manifests(&a, &b).iter().map(|d| format!("{} {}", d.kind, text::escape(&d.path))).collect();
        assert_eq!(lines, ["missing a", "content b", "mode c", "target d", "kind e", "extra z"]);
        assert_eq!(manifests(&a, &a), []);
    }
}
