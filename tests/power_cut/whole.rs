//! Is everything on a node that has a name what the name says? Found by reading all of it back.

use std::fs;
use std::path::{Path, PathBuf};

use df_core::{Digest, Manifest};

/// Lists what has a name on a node and is not whole.
pub fn torn(node: &Path) -> Vec<String> {
    let mut torn: Vec<String> = named(&node.join("store")).iter().flat_map(|image| torn_image(node, image)).collect();
    torn.extend(named(&node.join("manifests")).iter().filter(|path| !is_its_digest(path)).map(|path| says(path, "is torn")));
    torn.extend(named(&node.join("apps")).iter().flat_map(|app| torn_app(app)));
    torn.extend(torn_records(node));
    torn
}

/// Lists what has a name of its own in a directory: what begins with a dot is under way, or on its way out.
pub fn named(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let mut named: Vec<PathBuf> = entries.filter(|path| !name(path).starts_with('.')).collect();
    named.sort();
    named
}

fn torn_image(node: &Path, image: &Path) -> Vec<String> {
    let manifest = node.join("manifests").join(name(image));
    if !is_its_digest(&manifest) {
        return vec![says(image, "has no manifest")];
    }
    let manifest = Manifest::decode(&fs::read(&manifest).expect("just read")).expect("what its digest says");
    let differences = df_cache::check::tree(image, &manifest).expect("a directory");
    let said = differences.iter().map(|it| {
        let path = String::from_utf8_lossy(&it.path);
        says(image, &format!("has a damaged {path}: {:?}, {} and not {}", it.kind, it.found, it.expected))
    });
    said.collect()
}

/// Lists what is torn of an application: its generations, the one that serves, its records.
fn torn_app(app: &Path) -> Vec<String> {
    let mut torn: Vec<String> = torn_records(app);
    for generation in named(&app.join("generations")) {
        torn.extend(torn_records(&generation));
        let is_whole = generation.join("record.json").is_file() && fs::read_link(generation.join("image")).is_ok();
        torn.extend((!is_whole).then(|| says(&generation, "is not whole")));
    }
    for records in ["staged", "attested"] {
        torn.extend(torn_records(&app.join(records)));
    }
    let current = app.join("current");
    if fs::symlink_metadata(&current).is_ok() {
        // It leads through a generation to an image; whether that is whole was asked above.
        let leads = fs::canonicalize(&current).is_ok_and(|image| image.parent().is_some_and(|store| name(store) == "store"));
        torn.extend((!leads).then(|| says(&current, &format!("leads nowhere: {:?}", fs::read_link(&current)))));
    }
    torn
}

/// Lists the records in a directory that are none.
fn torn_records(dir: &Path) -> Vec<String> {
    let records = named(dir).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let is_one = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
    records.filter(|path| !is_one(path)).map(|path| says(&path, "is no record")).collect()
}

fn is_its_digest(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| Digest::of(&bytes).to_string() == name(path))
}

fn says(path: &Path, what: &str) -> String {
    format!("{} {what}", path.display())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
