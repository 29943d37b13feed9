//! A delta makes the image that it names or is refused. The first byte says for which pair, and what of the delta is given: see [`Pair::apply_given`].
#![no_main]

#[allow(dead_code)]
mod pairs;
#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pairs::{Pair, Ready};
use trees::Kept;

static PAIRS: LazyLock<Vec<Ready>> = LazyLock::new(|| pairs::pairs().into_iter().map(Ready::from).collect());

fuzz_target!(|data: &[u8]| {
    let _ = Pair::apply_given(&PAIRS, data, &Kept::default());
});
