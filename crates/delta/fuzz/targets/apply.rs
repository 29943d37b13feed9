//! A whole delta makes the image that it names or is refused. The first byte chooses the pair that it is for.
#![no_main]

#[path = "pairs.rs"]
mod pairs;
#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use trees::Tree;

static PAIRS: LazyLock<Vec<(Option<Tree>, Tree)>> = LazyLock::new(pairs::pairs);

fuzz_target!(|data: &[u8]| {
    let Some((&which, delta)) = data.split_first() else { return };
    let (base, target) = &PAIRS[usize::from(which) % PAIRS.len()];
    if let Ok(made) = trees::apply(base.as_ref(), target, delta) {
        assert_eq!(made, *target);
    }
});
