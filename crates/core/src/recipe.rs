//! All that may change an image, and what changed between two recipes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::RecipeKey;
use crate::spec::BuildSection;

/// All that may change an image.
///
/// Its key is the digest of `"dfr\x01"` and its JSON: fields in this order, maps sorted, no spaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The digest of the source tree's manifest.
    pub source: Digest,
    /// The digests of parts of the source that deserve a name of their own when they change, by path (`Cargo.lock`, `rust-toolchain.toml`).
    pub parts: BTreeMap<String, Digest>,
    /// The build section as the commit has it.
    pub build: BuildSection,
    /// Each tool (`rustc`, `cargo`, `cc`, `ld`, `libc`), by the version that it states and the digest of its files: `1.95.0 (59807616e 2026-04-14) #3fa2b1c09d11`.
    pub toolchain: BTreeMap<String, String>,
    /// The platform that the image is for (`x86_64-unknown-linux-gnu`).
    pub target: String,
    /// The whole environment of the build.
    pub environment: BTreeMap<String, String>,
}

/// One difference between two recipes: why a build is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which part of the recipe.
    pub part: String,
    /// What it was; empty when it is new.
    pub old: String,
    /// What it is; empty when it is gone.
    pub new: String,
}

impl Recipe {
    /// Returns the recipe's name.
    pub fn key(&self) -> RecipeKey {
        let json = serde_json::to_vec(self).expect("a recipe has no map keys that are not strings");
        RecipeKey(Digest::of(&[b"dfr\x01", &json[..]].concat()))
    }

    /// Returns what differs from an older recipe, in the order of the fields; nothing exactly when both have the same key.
    ///
    /// `source` is mentioned only when none of the named parts explains it.
    pub fn changes_since(&self, old: &Self) -> Vec<Change> {
        let mut changes = vec![];
        let digests = |parts: &BTreeMap<String, Digest>| parts.iter().map(|(k, v)| (k.clone(), v.short())).collect();
        compare(&mut changes, "", &digests(&old.parts), &digests(&self.parts));
        if changes.is_empty() && old.source != self.source {
            changes.push(Change { part: "source".into(), old: old.source.short(), new: self.source.short() });
        }
        if old.build != self.build {
            let json = |build: &BuildSection| serde_json::to_string(build).expect("a section is plain data");
            changes.push(Change { part: "build section".into(), old: json(&old.build), new: json(&self.build) });
        }
        compare(&mut changes, "", &old.toolchain, &self.toolchain);
        if old.target != self.target {
            changes.push(Change { part: "target".into(), old: old.target.clone(), new: self.target.clone() });
        }
        compare(&mut changes, "environment ", &old.environment, &self.environment);
        changes
    }
}

fn compare(changes: &mut Vec<Change>, prefix: &str, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let value = |map: &BTreeMap<String, String>| map.get(name).cloned().unwrap_or_default();
        if old.get(name) != new.get(name) {
            changes.push(Change { part: format!("{prefix}{name}"), old: value(old), new: value(new) });
        }
    }
}

impl fmt::Display for Change {
    /// Writes `rustc: 1.94.0 -> 1.95.0`, or `X is new`, or `X is gone`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.old.as_str(), self.new.as_str()) {
            ("", _) => write!(f, "{} is new", self.part),
            (_, "") => write!(f, "{} is gone", self.part),
            (old, new) => write!(f, "{}: {old} -> {new}", self.part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{BuildTool, Relocatable, Sandbox};

    fn recipe() -> Recipe {
        Recipe {
            source: Digest::of(b"source"),
            parts: [("Cargo.lock".to_owned(), Digest::of(b"lock"))].into(),
            build: BuildSection {
                tool: BuildTool::Files,
                include: BTreeMap::new(),
                outside_links: vec![],
                relocatable: Relocatable::Warn,
                sandbox: Sandbox::Off,
                fetch: vec![],
                is_static: false,
            },
            toolchain: [("rustc".to_owned(), "1.94.0".to_owned())].into(),
            target: "x86_64-unknown-linux-gnu".into(),
            environment: [("LC_ALL".to_owned(), "C".to_owned())].into(),
        }
    }

    #[test]
    fn golden_key() {
        let json = serde_json::to_string(&recipe()).expect("plain data");
        assert_eq!(json, include_str!("../testdata/recipe-v1.json").trim());
        assert_eq!(recipe().key().to_string(), include_str!("../testdata/recipe-v1.key").trim());
    }

    type Edit = fn(&mut Recipe);

    #[test]
    fn each_part_changes_the_key_and_is_named() {
        let cases: [(Edit, &str); 6] = [
            (|r| r.source = Digest::of(b"other"), "source: "),
            (|r| r.build.sandbox = Sandbox::Strict, "build section: "),
            (|r| drop(r.toolchain.insert("rustc".into(), "1.95.0".into())), "rustc: 1.94.0 -> 1.95.0"),
            (|r| r.target = "aarch64".into(), "target: x86_64-unknown-linux-gnu -> aarch64"),
            (|r| drop(r.environment.insert("TZ".into(), "UTC".into())), "environment TZ is new"),
            (|r| r.parts.clear(), "Cargo.lock is gone"),
        ];
        for (edit, expected) in cases {
            let mut new = recipe();
            edit(&mut new);
            let changes = new.changes_since(&recipe());
            assert_ne!(new.key(), recipe().key());
            assert_eq!(changes.len(), 1, "{changes:?}");
            let said = changes[0].to_string();
            assert!(said.starts_with(expected), "{said}");
        }
        assert_eq!(recipe().changes_since(&recipe()), vec![]);
    }
}
