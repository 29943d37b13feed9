//! Which packages a lock file brings from elsewhere, and how two of them differ.
//!
//! It is only read to say why something is built: a file that cannot be read gives no answer and stops nothing, and formats of any age will do.

use std::collections::{BTreeMap, BTreeSet};

use df_core::text::{escape, shorten};
use serde::{Deserialize, Serialize};

/// Packages by name, each with its versions; one of a git repository has the beginning of its revision: `0.3.1 (1a2b3c4d)`.
///
/// The commit's own packages are not among them: their versions are part of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packages(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
}

impl Packages {
    /// Reads a Cargo.lock; `None` when it is none.
    pub fn parse(lock: &[u8]) -> Option<Self> {
        let file: File = toml::from_str(std::str::from_utf8(lock).ok()?).ok()?;
        let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in file.package {
            let Some(source) = package.source else { continue };
            let revision = source.rsplit_once('#').filter(|_| source.starts_with("git+")).map(|(_, revision)| revision);
            let mark = revision
                .map(|revision| format!(" ({})", escape(revision.chars().take(8).collect::<String>().as_bytes())))
                .unwrap_or_default();
            let version = format!("{}{mark}", shown(&package.version, 60));
            packages.entry(shown(&package.name, 60)).or_default().insert(version);
        }
        Some(Self(packages))
    }

    /// Returns what differs from older packages, one text for each name: `serde 1.0.228 -> 1.0.229`, `syn 2.0.1 is new`, `rand 0.8.5 is gone`.
    pub fn changes_since(&self, old: &Self) -> Vec<String> {
        let none = BTreeSet::new();
        let names: BTreeSet<&String> = self.0.keys().chain(old.0.keys()).collect();
        let change = |name: &String| {
            let (before, after) = (old.0.get(name).unwrap_or(&none), self.0.get(name).unwrap_or(&none));
            let list = |some: &BTreeSet<String>, other: &BTreeSet<String>| {
                some.difference(other).map(String::as_str).collect::<Vec<_>>().join(", ")
            };
            match (list(before, after), list(after, before)) {
                (gone, new) if gone.is_empty() && new.is_empty() => None,
                (gone, new) if gone.is_empty() => Some(format!("{name} {new} is new")),
                (gone, new) if new.is_empty() => Some(format!("{name} {gone} is gone")),
                (gone, new) => Some(format!("{name} {gone} -> {new}")),
            }
        };
        names.into_iter().filter_map(change).collect()
    }
}

fn shown(text: &str, len: usize) -> String {
    shorten(&escape(text.as_bytes()), len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(list: &[(&str, &str, &str)]) -> Packages {
        let text: String = list
            .iter()
            .map(|(name, version, source)| {
                let source = if source.is_empty() { String::new() } else { format!("source = \"{source}\"\n") };
                format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n{source}\n")
            })
            .collect();
        Packages::parse(format!("version = 4\n\n{text}").as_bytes()).expect("a lock file")
    }

    #[track_caller]
    fn check(old: &[(&str, &str, &str)], new: &[(&str, &str, &str)], expected: &[&str]) {
        assert_eq!(packages(new).changes_since(&packages(old)), expected);
    }

    const R: &str = "registry+x";

    #[test]
    fn packages_are_compared_by_name_and_version() {
        check(&[("serde", "1.0.228", R)], &[("serde", "1.0.229", R)], &["serde 1.0.228 -> 1.0.229"]);
        check(&[("a", "1.0.0", R)], &[("b", "2.0.0", R)], &["a 1.0.0 is gone", "b 2.0.0 is new"]);
        check(
            &[("syn", "1.0.1", R), ("syn", "2.0.1", R)],
            &[("syn", "2.0.1", R), ("syn", "2.0.2", R), ("syn", "3.0.0", R)],
            &["syn 1.0.1 -> 2.0.2, 3.0.0"],
        );
        check(&[("a", "1.0.0", R)], &[("a", "1.0.0", R)], &[]);
    }

    #[test]
    fn a_version_of_the_commits_own_is_no_dependency() {
        check(&[("own", "0.1.0", ""), ("a", "1.0.0", R)], &[("own", "0.2.0", ""), ("a", "1.0.0", R)], &[]);
    }

    #[test]
    fn a_git_package_is_told_by_its_revision() {
        let at = |revision: &str| format!("git+https://example.org/a?branch=main#{revision}");
        check(
            &[("a", "0.1.0", &at("aaaaaaaaaaaaaaaa"))],
            &[("a", "0.1.0", &at("bbbbbbbbbbbbbbbb"))],
            &["a 0.1.0 (aaaaaaaa) -> 0.1.0 (bbbbbbbb)"],
        );
    }

    #[test]
    fn what_is_no_lock_file_gives_no_answer() {
        for bytes in [&b"\xff"[..], b"[[package]]", b"package = 1"] {
            assert_eq!(Packages::parse(bytes), None);
        }
        let hostile =
            Packages::parse(b"[[package]]\nname = \"a\\u001b[2J\"\nversion = \"1\"\nsource = \"x\"\n").expect("it reads");
        assert_eq!(hostile.changes_since(&Packages::default()), ["a\\u{1b}[2J 1 is new"]);
    }
}
