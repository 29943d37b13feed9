//! What the packages of a lock file say of their licences, as far as they were fetched here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Deserialize;

use crate::fetch::Lock;

/// Bytes of a manifest that are read.
const MANIFEST_LEN: u64 = 1 << 20;
/// Bytes of what is taken for a licence.
const LICENCE_LEN: usize = 500;
/// Registries whose packages are looked for.
const N_REGISTRIES: usize = 20;

/// Licences, by name and version of the package.
pub type Licences = BTreeMap<(String, String), String>;

/// Returns what the fetched packages of a Cargo.lock say of their licences. What cannot be read says nothing.
pub fn licences(cache_dir: &Path, lock: &[u8]) -> Licences {
    let Ok(lock) = Lock::parse(lock) else { return Licences::new() };
    let sources = cache_dir.join("build/cargo/registry/src");
    let registries: Vec<_> =
        fs::read_dir(sources).into_iter().flatten().flatten().map(|entry| entry.path()).take(N_REGISTRIES).collect();
    let licence = |package: &crate::fetch::LockedPackage| {
        let stem = package.file_stem();
        let said = registries.iter().find_map(|registry| of_manifest(&registry.join(&stem).join("Cargo.toml")))?;
        Some(((package.name.clone(), package.version.clone()), said))
    };
    lock.of_registries().filter_map(licence).collect()
}

fn of_manifest(path: &Path) -> Option<String> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let mut text = String::new();
    file.take(MANIFEST_LEN).read_to_string(&mut text).ok()?;
    let manifest: Manifest = toml::from_str(&text).ok()?;
    manifest.package.license.filter(|licence| licence.len() <= LICENCE_LEN && !licence.chars().any(char::is_control))
}

#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    license: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::tests::LOCK;

    #[test]
    fn what_was_fetched_says_its_licence_and_nothing_else_does() {
        let cache = tempfile::tempdir().expect("a directory");
        let write = |stem: &str, text: &str| {
            let dir = cache.path().join("build/cargo/registry/src/index-1").join(stem);
            fs::create_dir_all(&dir).expect("made");
            fs::write(dir.join("Cargo.toml"), text).expect("written");
        };
        assert_eq!(licences(cache.path(), LOCK.as_bytes()), Licences::new());
        write("itoa-1.0.15", "[package]\nname = \"itoa\"\nlicense = \"MIT OR Apache-2.0\"\n");
        write("ryu-1.0.20", "[package\n");
        write("unneeded-9.9.9", "[package]\nlicense = \"a\\u001bb\"\n");
        write("not-locked-1.0.0", "[package]\nlicense = \"MIT\"\n");
        let expected = [(("itoa".to_owned(), "1.0.15".to_owned()), "MIT OR Apache-2.0".to_owned())];
        assert_eq!(licences(cache.path(), LOCK.as_bytes()), expected.into());
        assert_eq!(licences(cache.path(), b"nonsense"), Licences::new());
    }
}
