//! A delta makes the image that it names or is refused. The first byte says for which pair, and what of the delta is given:
//!
//! - below 64: all of it;
//! - below 128: pairs and pieces, behind a good head;
//! - else: the manifest, with its length in the next byte, and then pairs and pieces: an image that is hostile throughout.
#![no_main]

mod pairs;
#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::sync::LazyLock;

use df_core::{Digest, ImageId};
use libfuzzer_sys::fuzz_target;
use pairs::Pair;

static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(pairs::pairs);

/// Up to the digests, and up to the length of the manifest.
const KIND: usize = 5;
const DIGESTS: usize = KIND + 2 * Digest::LEN;

fuzz_target!(|data: &[u8]| {
    let Some((&how, delta)) = data.split_first() else { return };
    let pair = &PAIRS[usize::from(how) % PAIRS.len()];
    let expect = pair.target.image();
    let _ = match how {
        0..64 => pair.apply(expect, delta),
        64..128 => pair.apply(expect, &[&pair.head[..], delta].concat()),
        _ => hostile(pair, delta),
    };
});

fn hostile(pair: &Pair, given: &[u8]) -> Result<df_core::Manifest, df_delta::ApplyError> {
    let (len, rest) = given.split_first().unwrap_or((&0, &[]));
    let (manifest, pieces) = rest.split_at(rest.len().min((*len).into()));
    let expect = ImageId(Digest::of(manifest));
    let mut delta = pair.head[..DIGESTS].to_vec();
    delta[DIGESTS - Digest::LEN..].copy_from_slice(expect.0.as_bytes());
    // A varint, and the manifest as a stored part.
    let len = manifest.len();
    delta.extend(if len < 128 { vec![len as u8] } else { vec![len as u8 | 128, (len >> 7) as u8] });
    delta.extend(if len > 0 { &[0][..] } else { &[] });
    delta.extend_from_slice(manifest);
    delta.extend_from_slice(pieces);
    pair.apply(expect, &delta)
}
