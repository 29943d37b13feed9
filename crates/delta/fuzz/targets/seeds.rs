//! Writes what the other targets begin with: `seeds CORPUS OLD NEW`, where OLD and NEW are two versions of a small program. No fuzz target itself.

use std::fs;
use std::path::Path;

use df_delta::fuzzing;
// The coverage counters that all of this is built with live there.
use libfuzzer_sys as _;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, corpus, old, new] = &arguments[..] else { panic!("seeds CORPUS OLD NEW") };
    let (old, new) = (fs::read(old).expect("the old"), fs::read(new).expect("the new"));
    for (target, name, bytes) in fuzzing::seeds(&old, &new) {
        let dir = Path::new(corpus).join(target);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(name), bytes).expect("written");
    }
}
