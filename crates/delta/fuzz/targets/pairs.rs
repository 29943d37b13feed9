//! The pairs of trees that deltas are made for.

use crate::trees::{Tree, tree};

pub fn pairs() -> Vec<(Option<Tree>, Tree)> {
    let text = b"the old words of a file that will change a little, ".repeat(8);
    let old = tree([("a.txt", text.clone()), ("b", b"kept".to_vec()), ("c", b"gone".to_vec())]);
    let new = tree([("a.txt", [&text[..], b"and grow"].concat()), ("d/b", b"kept".to_vec()), ("e", vec![]), ("f", b"new".to_vec())]);
    vec![(None, new.clone()), (Some(old), new)]
}
