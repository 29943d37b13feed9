//! Why something is built: each change of the recipe in the words that a person would use.

use std::collections::BTreeMap;

use df_core::recipe::Change;
use df_core::spec::{BuildSection, Sandbox};
use df_core::{Digest, Recipe};

use crate::recipe::locked::Packages;

/// What a change of a variable is called before its name.
const ENVIRONMENT: &str = "environment ";

/// What is known of the source besides its digests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Files that differ, those left out that have a name of their own in the recipe.
    pub n_files: Option<usize>,
    /// The packages of the old and of the new lock file.
    pub packages: Option<(Packages, Packages)>,
}

/// Returns one text for each change: `rustc 1.94.0 -> 1.95.0`, `Cargo.lock: serde 1.0.228 -> 1.0.229`, `3 source files`.
pub(crate) fn reasons(old: &Recipe, new: &Recipe, known: &Known) -> Vec<String> {
    let mut reasons = vec![];
    let mut n_files = known.n_files.unwrap_or(0);
    let tools: Vec<&String> = old.toolchain.keys().chain(new.toolchain.keys()).collect();
    // Another way to be shut in brings another environment along.
    let sandbox = (old.build.sandbox != new.build.sandbox).then(|| {
        let word = |recipe: &Recipe| if recipe.build.sandbox == Sandbox::Strict { "strict" } else { "off" };
        format!("sandbox {} -> {}", word(old), word(new))
    });
    let only_sandbox = BuildSection { sandbox: new.build.sandbox, ..old.build.clone() } == new.build;
    for change in new.changes_since(old) {
        if sandbox.is_some() && (change.part.starts_with(ENVIRONMENT) || (change.part == "build section" && only_sandbox)) {
            continue;
        }
        match (change.part.as_str(), &known.packages) {
            ("Cargo.lock", Some((before, after))) => match after.changes_since(before) {
                // The commit's own version, or only how the file is written.
                changes if changes.is_empty() => n_files += 1,
                changes => reasons.extend(changes.iter().map(|change| format!("Cargo.lock: {change}"))),
            },
            ("source", _) if n_files > 0 => {}
            ("build section", _) => reasons.push("the build section of df.yaml changed".into()),
            (part, _) if tools.iter().any(|tool| *tool == part) => reasons.push(of_tool(&change)),
            (part, _) if is_part(part, &old.parts, &new.parts) => reasons.push(of_part(&change)),
            (part, _) if part.starts_with(ENVIRONMENT) => reasons.push(of_part(&change)),
            ("source", _) => reasons.push("source files changed".into()),
            _ => reasons.push(change.to_string()),
        }
    }
    reasons.extend(sandbox);
    match n_files {
        0 => {}
        1 => reasons.push("1 source file".into()),
        n => reasons.push(format!("{n} source files")),
    }
    reasons
}

fn is_part(part: &str, old: &BTreeMap<String, Digest>, new: &BTreeMap<String, Digest>) -> bool {
    old.contains_key(part) || new.contains_key(part)
}

/// A digest tells a person nothing, and a whole search path little.
fn of_part(change: &Change) -> String {
    if change.old.is_empty() || change.new.is_empty() { change.to_string() } else { format!("{} changed", change.part) }
}

/// Says of two versions as little as tells them apart: the number, else the whole text, else the digest of the files too.
fn of_tool(change: &Change) -> String {
    if change.old.is_empty() || change.new.is_empty() {
        return change.to_string();
    }
    let shapes: [fn(&str) -> String; 3] = [
        |text| number(text).unwrap_or(text).to_owned(),
        |text| text.split(" #").next().unwrap_or(text).to_owned(),
        |text| {
            let (version, digest) = text.rsplit_once('#').unwrap_or((text, ""));
            let number = number(version).unwrap_or_default();
            format!("{number} #{digest}").trim_start().to_owned()
        },
    ];
    let pair = shapes.iter().map(|shape| (shape(&change.old), shape(&change.new))).find(|(old, new)| old != new);
    let (old, new) = pair.unwrap_or_else(|| (change.old.clone(), change.new.clone()));
    format!("{} {old} -> {new}", change.part)
}

/// Returns the first word that is a number: of `(Debian 12.2.0-14) 12.2.0` the last.
fn number(text: &str) -> Option<&str> {
    text.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && !word.contains(')'))
}

#[cfg(test)]
mod tests {
    use df_core::spec::{BuildTool, Relocatable};

    use super::*;

    fn recipe(edit: impl FnOnce(&mut Recipe)) -> Recipe {
        let mut recipe = Recipe {
            source: Digest::of(b"source"),
            parts: ["Cargo.lock", "Cargo.toml"].map(|name| (name.to_owned(), Digest::of(name.as_bytes()))).into(),
            build: BuildSection {
                tool: BuildTool::Files,
                include: BTreeMap::new(),
                outside_links: vec![],
                relocatable: Relocatable::Warn,
                sandbox: Sandbox::Off,
                fetch: vec![],
                is_static: false,
            },
            toolchain: [("rustc", "1.94.0 (abc 2026-03-05) #aaa"), ("cc", "(Debian 12.2.0-14) 12.2.0 #ccc")]
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
            target: "x86_64-unknown-linux-gnu".into(),
            environment: BTreeMap::new(),
        };
        edit(&mut recipe);
        recipe
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&mut Recipe), known: &Known, expected: &[&str]) {
        assert_eq!(reasons(&recipe(|_| ()), &recipe(edit), known), expected);
    }

    fn packages(serde: &str) -> Packages {
        let text = format!("[[package]]\nname = \"serde\"\nversion = \"{serde}\"\nsource = \"registry\"\n");
        Packages::parse(text.as_bytes()).expect("a lock file")
    }

    fn set_home(recipe: &mut Recipe, home: &str) {
        recipe.environment.insert("HOME".into(), home.into());
    }

    fn set_part(recipe: &mut Recipe, part: &str) {
        recipe.parts.insert(part.into(), Digest::of(b"x"));
    }

    fn set(recipe: &mut Recipe, tool: &str, version: &str) {
        recipe.toolchain.insert(tool.into(), version.into());
    }

    #[test]
    fn dependencies_come_by_name_and_files_by_number() {
        let known = Known { n_files: Some(3), packages: Some((packages("1.0.228"), packages("1.0.229"))) };
        let edit = |recipe: &mut Recipe| {
            recipe.source = Digest::of(b"other");
            recipe.parts.insert("Cargo.lock".into(), Digest::of(b"other"));
        };
        check(edit, &known, &["Cargo.lock: serde 1.0.228 -> 1.0.229", "3 source files"]);
        check(edit, &Known::default(), &["Cargo.lock changed"]);
        let own_version = Known { n_files: Some(0), packages: Some((packages("1.0.0"), packages("1.0.0"))) };
        check(edit, &own_version, &["1 source file"]);
    }

    #[test]
    fn source_is_said_even_when_its_files_cannot_be_counted() {
        let edit = |recipe: &mut Recipe| recipe.source = Digest::of(b"other");
        check(edit, &Known { n_files: Some(1), packages: None }, &["1 source file"]);
        check(edit, &Known::default(), &["source files changed"]);
        check(|recipe| set_part(recipe, "Cargo.toml"), &Known::default(), &["Cargo.toml changed"]);
        check(|recipe| set_part(recipe, "build.rs"), &Known::default(), &["build.rs is new"]);
        check(|_| (), &Known::default(), &[]);
    }

    #[test]
    fn another_sandbox_is_one_change_with_all_that_it_brings() {
        let none = Known::default();
        let strict = |recipe: &mut Recipe| {
            recipe.build.sandbox = Sandbox::Strict;
            recipe.environment.insert("HOME".into(), "/df/home".into());
        };
        check(strict, &none, &["sandbox off -> strict"]);
        let and_more = |recipe: &mut Recipe| {
            strict(recipe);
            recipe.build.is_static = true;
        };
        check(and_more, &none, &["the build section of df.yaml changed", "sandbox off -> strict"]);
        check(|recipe| drop(recipe.environment.insert("TZ".into(), "UTC".into())), &none, &["environment TZ is new"]);
        let (old, new) = (recipe(|r| set_home(r, "/a")), recipe(|r| set_home(r, "/b")));
        assert_eq!(reasons(&old, &new, &none), ["environment HOME changed"]);
    }

    #[test]
    fn tools_are_told_apart_in_as_few_words_as_do() {
        let none = Known::default();
        check(|r| set(r, "rustc", "1.95.0 (def 2026-04-14) #bbb"), &none, &["rustc 1.94.0 -> 1.95.0"]);
        check(
            |r| set(r, "rustc", "1.94.0 (def 2026-04-14) #bbb"),
            &none,
            &["rustc 1.94.0 (abc 2026-03-05) -> 1.94.0 (def 2026-04-14)"],
        );
        check(|r| set(r, "rustc", "1.94.0 (abc 2026-03-05) #bbb"), &none, &["rustc 1.94.0 #aaa -> 1.94.0 #bbb"]);
        check(|r| set(r, "cc", "(Debian 14.2.0-1) 14.2.0 #ddd"), &none, &["cc 12.2.0 -> 14.2.0"]);
        check(|r| drop(r.toolchain.remove("cc")), &none, &["cc is gone"]);
    }
}
