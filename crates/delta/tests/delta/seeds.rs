//! What the fuzzer of `apply` begins with reaches what it is to be thrown at.

use std::fs;
use std::path::Path;

use crate::pairs::{self, Pair, Ready};
use crate::trees::Kept;

#[test]
fn every_seed_of_the_fuzzer_comes_as_far_as_its_pieces() {
    let pairs: Vec<Ready> = pairs::pairs().into_iter().map(Ready::from).collect();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/apply");
    let mut n_applied = [0; 4];
    for entry in fs::read_dir(corpus).expect("a corpus") {
        let path = entry.expect("an entry").path();
        let (bytes, sink) = (fs::read(&path).expect("a seed"), Kept::default());
        let result = Pair::apply_given(&pairs, &bytes, &sink).expect("no empty seed");
        // The first mark is where the pieces begin.
        assert!(!sink.got().marks.is_empty(), "{}: {result:?}", path.display());
        n_applied[usize::from(bytes[0] / 64)] += usize::from(result.is_ok());
    }
    // Of each way to say what is given, there are some that make an image.
    assert!(n_applied[0] > 5 && n_applied[1] > 5 && n_applied[2] > 5, "{n_applied:?}");
}
