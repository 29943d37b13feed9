//! A whole delta makes the image that it names or is refused. The first byte chooses the pair that it is for.
#![no_main]

#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use trees::{Tree, tree};

static PAIRS: LazyLock<Vec<(Option<Tree>, Tree)>> = LazyLock::new(|| {
    let text = b"the old words of a file that will change a little, ".repeat(8);
    let old = tree([("a.txt", text.clone()), ("b", b"kept".to_vec()), ("c", b"gone".to_vec())]);
    let new = tree([("a.txt", [&text[..], b"and grow"].concat()), ("d/b", b"kept".to_vec()), ("e", vec![]), ("f", b"new".to_vec())]);
    vec![(None, new.clone()), (Some(old), new)]
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, delta)) = data.split_first() else { return };
    let (base, target) = &PAIRS[usize::from(which) % PAIRS.len()];
    if let Ok(made) = trees::apply(base.as_ref(), target, delta) {
        assert_eq!(made, *target);
    }
});
