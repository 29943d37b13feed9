//! Writes what the other targets begin with: `seeds CORPUS OLD NEW`, where OLD and NEW are two versions of a small program. No fuzz target itself.

#[allow(dead_code)]
mod pairs;
#[path = "../../tests/delta/trees.rs"]
#[allow(dead_code)]
mod trees;

use std::fs;
use std::path::Path;

use df_delta::fuzzing;
// The coverage counters that all of this is built with live there.
use libfuzzer_sys as _;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, corpus, old, new] = &arguments[..] else { panic!("seeds CORPUS OLD NEW") };
    let (old, new) = (fs::read(old).expect("the old"), fs::read(new).expect("the new"));
    let mut seeds = fuzzing::seeds(&old, &new);
    let pairs = pairs::pairs();
    let n_pairs = pairs.len();
    for (nth, pair) in pairs.into_iter().enumerate() {
        let manifest = pair.target.encode();
        for (at, delta) in pair.deltas.iter().enumerate() {
            let behind = pair.behind_head(delta);
            let number = |from: u8| (from..).find(|number| usize::from(*number) % n_pairs == nth).expect("one of them");
            let (_, head) = pair.head(&manifest);
            seeds.push(("apply", format!("{nth}-{at}"), [&[number(pairs::WHOLE)], &head[..], behind].concat()));
            // One manifest that is packed, too: unpacking it takes most of the time.
            if at == 0 {
                seeds.push(("apply", format!("{nth}-packed-manifest"), [&[number(pairs::WHOLE)], &delta[..]].concat()));
            }
            seeds.push(("apply", format!("{nth}-{at}-behind-a-head"), [&[number(pairs::BEHIND_HEAD)], behind].concat()));
            let hostile = [&[number(pairs::HOSTILE), manifest.len() as u8], &manifest[..], behind].concat();
            seeds.push(("apply", format!("{nth}-{at}-hostile"), hostile));
        }
        seeds.extend(pair.base.as_ref().map(|(base, _)| ("manifest", "base".to_owned(), base.encode())));
        seeds.push(("manifest", "target".to_owned(), manifest));
    }
    for (target, name, bytes) in seeds {
        let dir = Path::new(corpus).join(target);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(name), bytes).expect("written");
    }
}
