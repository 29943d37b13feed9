//! Trees, readers and sinks in memory, and the one place that calls the crate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard};

use df_core::{Digest, Entry, Hasher, Kind, Manifest};
use df_delta::{Applied, ApplyError, EncodeError, Encoded, Level, Mark, Options, Sink, Slice};

/// Paths to contents.
pub type Tree = BTreeMap<String, Vec<u8>>;

pub fn tree<const N: usize>(files: [(&str, Vec<u8>); N]) -> Tree {
    files.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect()
}

pub fn manifest(tree: &Tree) -> Manifest {
    let mut directories = BTreeSet::new();
    let mut entries = Vec::new();
    for (path, bytes) in tree {
        directories.extend(path.match_indices('/').map(|(slash, _)| path[..slash].to_owned()));
        let kind = Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(bytes) };
        entries.push(Entry { path: path.parse().expect("a path"), kind });
    }
    entries.extend(directories.iter().map(|path| Entry { path: path.parse().expect("a path"), kind: Kind::Directory }));
    Manifest::new(entries).expect("a tree")
}

/// Contents by digest.
pub struct Blobs(HashMap<Digest, Vec<u8>>);

impl Blobs {
    pub fn of(tree: &Tree) -> Self {
        Self(tree.values().map(|bytes| (Digest::of(bytes), bytes.clone())).collect())
    }

    /// The contents of one tree under the names of another's, path by path.
    pub fn named_as(names: &Tree, contents: Tree) -> Self {
        Self(names.iter().map(|(path, bytes)| (Digest::of(bytes), contents[path].clone())).collect())
    }

    pub fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.get(&digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes.get(offset as usize..offset as usize + len).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    pub fn damage(&mut self) {
        for bytes in self.0.values_mut() {
            bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        }
    }
}

/// Keeps what it gets, and watches the order of calls.
#[derive(Default)]
pub struct Kept {
    got: Mutex<Got>,
}

#[derive(Default)]
pub struct Got {
    pub manifest: Option<Manifest>,
    pub blobs: HashMap<Digest, Vec<u8>>,
    pub marks: Vec<Mark>,
    /// The bytes of a blob that comes in stretches.
    pub unfinished: Option<(Digest, Vec<u8>)>,
}

impl Kept {
    pub fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().expect("nobody panics with it")
    }
}

impl Sink for Kept {
    fn manifest(&self, manifest: &Manifest) -> io::Result<()> {
        assert!(self.got().manifest.replace(manifest.clone()).is_none(), "the manifest came twice");
        Ok(())
    }

    fn blob(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let mut got = self.got();
        assert!(got.manifest.is_some(), "a blob came before the manifest");
        assert_eq!(Digest::of(bytes), digest, "a blob came that is not what its name says");
        assert!(got.blobs.insert(digest, bytes.to_vec()).is_none(), "a blob came twice");
        Ok(())
    }

    fn stretch(&self, stretch: Slice, bytes: &[u8]) -> io::Result<()> {
        let mut got = self.got();
        let (digest, begun) = got.unfinished.get_or_insert_with(|| (stretch.digest, Vec::new()));
        assert!(*digest == stretch.digest && stretch.len == bytes.len() as u64, "stretches of two blobs");
        // What came after the last mark comes again.
        assert!(stretch.offset <= begun.len() as u64, "a stretch was left out");
        begun.truncate(stretch.offset as usize);
        begun.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&self, digest: Digest) -> io::Result<()> {
        let (begun, bytes) = self.got().unfinished.take().expect("a blob began");
        assert_eq!((Digest::of(&bytes), begun), (digest, digest), "a blob was finished that is not what its name says");
        assert!(self.got().blobs.insert(digest, bytes).is_none(), "a blob came twice");
        Ok(())
    }

    fn reached(&self, mark: &Mark) -> io::Result<()> {
        let mut got = self.got();
        assert!(got.marks.last().is_none_or(|last| last.offset < mark.offset), "a mark came out of order");
        got.marks.push(*mark);
        Ok(())
    }

    fn kept(&self, digest: Digest, len: u64) -> Option<Hasher> {
        let got = self.got();
        let begun = got.unfinished.as_ref().filter(|(begun, _)| *begun == digest).map(|(_, bytes)| bytes);
        let mut hasher = Hasher::new();
        hasher.update(got.blobs.get(&digest).or(begun)?.get(..len as usize)?);
        Some(hasher)
    }
}

pub fn encode(base: Option<&Tree>, target: &Tree, level: Level) -> Result<Vec<u8>, EncodeError> {
    Ok(encode_with(base, target, level.into())?.0)
}

pub fn encode_with(base: Option<&Tree>, target: &Tree, options: Options) -> Result<(Vec<u8>, Encoded), EncodeError> {
    let (old, new) = (base.map(|base| (manifest(base), Blobs::of(base))), Blobs::of(target));
    let mut out = Vec::new();
    let read_new = |digest, offset, len| new.read(digest, offset, len);
    let encoded = match &old {
        None => df_delta::encode(None, (&manifest(target), &read_new), options, &mut out),
        Some((base, blobs)) => {
            let read_old = |digest, offset, len| blobs.read(digest, offset, len);
            df_delta::encode(Some((base, &read_old)), (&manifest(target), &read_new), options, &mut out)
        }
    }?;
    assert_eq!(encoded.bytes, out.len() as u64);
    Ok((out, encoded))
}

/// Applies a delta that must make `target`, and returns the tree that came out.
pub fn apply(base: Option<&Tree>, target: &Tree, delta: &[u8]) -> Result<Tree, ApplyError> {
    apply_to(base.map(|base| (manifest(base), Blobs::of(base))), target, delta)
}

pub fn apply_to(base: Option<(Manifest, Blobs)>, target: &Tree, delta: &[u8]) -> Result<Tree, ApplyError> {
    let sink = Kept::default();
    let read_old = |digest, offset, len| base.as_ref().expect("only with a base").1.read(digest, offset, len);
    let given = base.as_ref().map(|(manifest, _)| (manifest, &read_old as df_delta::ReadBlob<'_>));
    let Applied { manifest, .. } = df_delta::apply(given, self::manifest(target).image(), &mut &*delta, &sink)?;
    let sink = sink.got();
    assert_eq!(sink.manifest.as_ref(), Some(&manifest));
    let file = |entry: &Entry| match entry.kind {
        Kind::File { len, digest, .. } => {
            let bytes =
                sink.blobs.get(&digest).cloned().unwrap_or_else(|| read_old(digest, 0, len as usize).expect("the base holds it"));
            Some((entry.path.to_string(), bytes))
        }
        _ => None,
    };
    Ok(manifest.entries().iter().filter_map(file).collect())
}

/// The longest trees that are packed at [`Level::Small`], too: it takes ten times as long.
const SHORT: usize = 4 << 10;

/// Encodes, applies, compares; returns the bytes of the delta at the fast level. Short trees are packed at both.
#[track_caller]
pub fn check(base: Option<&Tree>, target: &Tree) -> usize {
    let len: usize = target.values().chain(base.into_iter().flat_map(Tree::values)).map(Vec::len).sum();
    if len <= SHORT {
        check_at(base, target, Level::Small);
    }
    check_at(base, target, Level::Fast)
}

#[track_caller]
fn check_at(base: Option<&Tree>, target: &Tree, level: Level) -> usize {
    let delta = encode(base, target, level).expect("encodes");
    let made = apply(base, target, &delta).expect("applies");
    assert!(&made == target, "another tree came out at level {level:?}");
    delta.len()
}

/// A seeded source of bytes (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
