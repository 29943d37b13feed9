//! A delta makes the image that it names or is refused. The first byte says for which pair, and what of the delta is given:
//!
//! - below 64: all of it;
//! - below 128: pairs and pieces, behind a good head;
//! - else: the manifest, with its length in the next byte, and then pairs and pieces: an image that is hostile throughout.
#![no_main]

#[allow(dead_code)]
mod pairs;
#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::sync::LazyLock;

use df_core::ImageId;
use libfuzzer_sys::fuzz_target;
use pairs::Pair;

/// The pairs, with how good deltas for them begin.
static PAIRS: LazyLock<Vec<(Pair, ImageId, Vec<u8>)>> = LazyLock::new(|| {
    let with_head = |pair: Pair| {
        let (expect, head) = pair.head(&pair.target.encode());
        (pair, expect, head)
    };
    pairs::pairs().into_iter().map(with_head).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&how, given)) = data.split_first() else { return };
    let (pair, expect, head) = &PAIRS[usize::from(how) % PAIRS.len()];
    let _ = match how {
        0..64 => pair.apply(*expect, given),
        64..128 => pair.apply(*expect, &[&head[..], given].concat()),
        _ => {
            let (len, rest) = given.split_first().unwrap_or((&0, &[]));
            let (manifest, pieces) = rest.split_at(rest.len().min((*len).into()));
            let (expect, head) = pair.head(manifest);
            pair.apply(expect, &[&head[..], pieces].concat())
        }
    };
});
