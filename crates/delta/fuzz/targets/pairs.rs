//! The images that deltas are made for, and what is hashed of them once.

use df_core::{Digest, ImageId, Manifest};
use df_delta::format::{Header, IdPrefix, Kind};
use df_delta::{ApplyError, Codec, Level, Options, ReadBlob, signature};

use crate::trees::{self, Blobs, Kept, Tree, tree};

/// A delta's two ends.
pub struct Pair {
    pub base: Option<(Manifest, Blobs)>,
    pub target: Manifest,
    /// What good deltas begin with.
    header: Header,
    /// Good deltas.
    pub deltas: Vec<Vec<u8>>,
}

/// First bytes of an input, each up to the next: all of a delta is given;
pub const WHOLE: u8 = 0;
/// pairs and pieces, behind a good head;
pub const BEHIND_HEAD: u8 = 64;
/// the manifest, with its length in the next byte, and then pairs and pieces: an image that is hostile throughout.
pub const HOSTILE: u8 = 128;

/// A pair, and how good deltas for it begin.
pub struct Ready {
    pair: Pair,
    expect: ImageId,
    head: Vec<u8>,
}

impl From<Pair> for Ready {
    fn from(pair: Pair) -> Self {
        let (expect, head) = pair.head(&pair.target.encode());
        Self { pair, expect, head }
    }
}

/// Whole, as a patch, and by rsync.
pub fn pairs() -> Vec<Pair> {
    let text = b"the old words of a file that will change a little, ".repeat(8);
    let old = tree([("a.txt", text.clone()), ("b", b"kept".to_vec()), ("c", b"gone".to_vec())]);
    let new =
        tree([("a.txt", [&text[..], b"and grow"].concat()), ("d/b", b"kept".to_vec()), ("e", vec![]), ("f", b"new".to_vec())]);
    vec![
        Pair::of(None, &new, by_codecs(None, &new)),
        Pair::of(Some(&old), &new, by_codecs(Some(&old), &new)),
        Pair::of(Some(&old), &new, vec![by_rsync(&old, &new)]),
    ]
}

impl Pair {
    fn of(base: Option<&Tree>, target: &Tree, deltas: Vec<Vec<u8>>) -> Self {
        let base = base.map(|base| (trees::manifest(base), Blobs::of(base)));
        let target = trees::manifest(target);
        let header = deltas[0].first_chunk().expect("a delta has a header");
        Self { base, header: Header::decode(header).expect("a good one"), target, deltas }
    }

    /// Applies what is given as the target `apply` does: its first byte says how the rest is meant, and for which pair.
    pub fn apply_given(pairs: &[Ready], data: &[u8], sink: &Kept) -> Option<Result<Manifest, ApplyError>> {
        let (&how, given) = data.split_first()?;
        let Ready { pair, expect, head } = &pairs[usize::from(how) % pairs.len()];
        Some(match how {
            WHOLE..BEHIND_HEAD => pair.apply(*expect, given, sink),
            BEHIND_HEAD..HOSTILE => pair.apply(*expect, &[&head[..], given].concat(), sink),
            HOSTILE.. => {
                let (len, rest) = given.split_first().unwrap_or((&0, &[]));
                let (manifest, pieces) = rest.split_at(rest.len().min((*len).into()));
                let (expect, head) = pair.head(manifest);
                pair.apply(expect, &[&head[..], pieces].concat(), sink)
            }
        })
    }

    /// How a delta begins whose manifest is stored; with the image that it says it makes.
    pub fn head(&self, manifest: &[u8]) -> (ImageId, Vec<u8>) {
        let expect = ImageId(Digest::of(manifest));
        let mut head = Header { target: IdPrefix::of(expect), ..self.header }.encode().to_vec();
        let len = manifest.len();
        head.extend(if len < 128 { vec![len as u8] } else { vec![len as u8 | 128, (len >> 7) as u8] });
        // No part of no bytes.
        head.extend((len > 0).then_some(Codec::Stored as u8));
        head.extend_from_slice(manifest);
        (expect, head)
    }

    /// The pairs and pieces of a good delta.
    pub fn behind_head<'a>(&self, delta: &'a [u8]) -> &'a [u8] {
        let sink = Kept::default();
        self.run(self.target.image(), delta, &sink).expect("a good delta");
        let pieces = sink.got().marks[0].offset as usize;
        // Of a patch without pairs, their number is the last byte before the pieces.
        let is_patch = self.header.kind == Kind::Patch;
        assert!(!is_patch || delta[pieces - 1] == 0, "no pairs");
        &delta[pieces - usize::from(is_patch)..]
    }

    /// Applies; what comes out is what the manifest lists.
    fn apply(&self, expect: ImageId, delta: &[u8], sink: &Kept) -> Result<Manifest, ApplyError> {
        let manifest = self.run(expect, delta, sink)?;
        assert_eq!(manifest.image(), expect);
        let got = sink.got();
        for (digest, len) in manifest.blobs() {
            let is_here = got.blobs.get(&digest).is_some_and(|bytes| bytes.len() as u64 == len);
            assert!(is_here || self.read_old(digest, 0, len as usize).is_ok(), "a blob is missing");
        }
        Ok(manifest)
    }

    fn run(&self, expect: ImageId, delta: &[u8], sink: &Kept) -> Result<Manifest, ApplyError> {
        let read_old = |digest, offset, len| self.read_old(digest, offset, len);
        let base = self.base.as_ref().map(|(manifest, _)| (manifest, &read_old as ReadBlob<'_>));
        df_delta::apply(base, expect, &mut &*delta, sink).map(|applied| applied.manifest)
    }

    fn read_old(&self, digest: Digest, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let (_, blobs) = self.base.as_ref().ok_or(std::io::ErrorKind::NotFound)?;
        blobs.read(digest, offset, len)
    }
}

fn by_codecs(base: Option<&Tree>, target: &Tree) -> Vec<Vec<u8>> {
    let codecs = [None, Some(df_delta::Codec::Copy), Some(df_delta::Codec::Zstd)];
    let options = codecs.into_iter().flat_map(|codec| [Level::Fast, Level::Small].map(|level| Options { level, codec }));
    options.map(|options| trees::encode_with(base, target, options).expect("encodes").0).collect()
}

fn by_rsync(base: &Tree, target: &Tree) -> Vec<u8> {
    let (old, new) = (Blobs::of(base), Blobs::of(target));
    let (base, target) = (trees::manifest(base), trees::manifest(target));
    let plan = df_delta::choose::plan(Some(&base), &target, &[]);
    let read = |slice: &df_delta::Slice| old.read(slice.digest, slice.offset, slice.len as usize).expect("the base holds it");
    let sign =
        |stretch: &[df_delta::Slice]| signature(&stretch.iter().flat_map(read).collect::<Vec<u8>>(), 256).expect("a length");
    let signatures: Vec<Vec<u8>> = plan.stretches().map(sign).collect();
    let mut out = Vec::new();
    let read_new = |digest, offset, len| new.read(digest, offset, len);
    df_delta::encode_rsync(&base, &signatures, (&target, &read_new), Level::Fast, &mut out).expect("encodes");
    out
}
