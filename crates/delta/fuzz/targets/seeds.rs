//! Writes what the other targets begin with: `seeds CORPUS OLD NEW`, where OLD and NEW are two versions of a small program. No fuzz target itself.

#[path = "pairs.rs"]
mod pairs;
#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::fs;
use std::path::Path;

use df_delta::{Level, fuzzing};
// The coverage counters that all of this is built with live there.
use libfuzzer_sys as _;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, corpus, old, new] = &arguments[..] else { panic!("seeds CORPUS OLD NEW") };
    let (old, new) = (fs::read(old).expect("the old"), fs::read(new).expect("the new"));
    let mut seeds = fuzzing::seeds(&old, &new);
    for (nth, (base, target)) in pairs::pairs().into_iter().enumerate() {
        for level in [Level::Fast, Level::Small] {
            let delta = trees::encode(base.as_ref(), &target, level).expect("encodes");
            seeds.push(("apply", format!("{nth}-{level:?}"), [&[nth as u8], &delta[..]].concat()));
        }
        seeds.push(("manifest", nth.to_string(), trees::manifest(base.as_ref().unwrap_or(&target)).encode()));
    }
    for (target, name, bytes) in seeds {
        let dir = Path::new(corpus).join(target);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(name), bytes).expect("written");
    }
}
