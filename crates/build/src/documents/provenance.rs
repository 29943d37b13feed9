//! How an image was built, said so that other programs understand it: SLSA provenance in an in-toto statement.
//!
//! # Format
//!
//! One JSON text: an in-toto Statement v1 (`https://in-toto.io/Statement/v1`) whose predicate is SLSA Provenance v1
//! (`https://slsa.dev/provenance/v1`). `testdata/provenance-v1.json` is a worked example; `docs/builds.md` explains its fields and what they promise.
//!
//! - `subject`: the image (the digest of its manifest: BLAKE3, which is its name, and SHA-256), then each executable file of it by its BLAKE3.
//! - `externalParameters`: the commit and its build section, nothing else can be chosen. `internalParameters`: what df adds.
//! - `resolvedDependencies`: the commit, each package by package URL with its checksum, files that were fetched, each tool.
//!
//! Equal builds say the same, but for `runDetails.metadata`. It names no place of the machine and no user: of an environment that has such things (`sandbox: off`) only
//! the constant variables are told. It is not signed; whoever signs it vouches for it.

use df_core::spec::{FetchedDigest, Sandbox};
use df_core::{Digest, Kind};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::documents::{Made, Parts, encoded};

/// The page that explains how builds go.
const PAGE: &str = "https://github.com/distributive-flow/distributive-flow/blob/main/docs/builds.md";
/// Executable files named; an image of more is named by its manifest alone.
const N_SUBJECTS: usize = 1000;
/// Variables whose values are the same on every machine, also without a sandbox.
const CONSTANT: [&str; 6] = ["CARGO_INCREMENTAL", "LANG", "LC_ALL", "RUSTUP_AUTO_INSTALL", "SOURCE_DATE_EPOCH", "TZ"];

/// Returns the provenance of a release.
pub fn provenance(made: &Made<'_>) -> Vec<u8> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects(made),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{PAGE}#build-type-v1"),
                "externalParameters": { "commit": made.release.commit, "build": made.recipe.build },
                "internalParameters": {
                    "recipe": made.recipe.key(),
                    "source": made.recipe.source,
                    "target": made.recipe.target,
                    "sandbox": made.release.sandbox,
                    "environment": environment(made),
                },
                "resolvedDependencies": dependencies(made),
            },
            "runDetails": run(made),
        },
    });
    let mut bytes = serde_json::to_vec_pretty(&statement).expect("a JSON value");
    bytes.push(b'\n');
    bytes
}

fn subjects(made: &Made<'_>) -> Vec<Value> {
    let manifest = made.manifest.encode();
    let sha256: String = Sha256::digest(&manifest).iter().map(|byte| format!("{byte:02x}")).collect();
    let image = json!({ "name": made.release.app, "digest": { "blake3": Digest::of(&manifest), "sha256": sha256 } });
    let programs = made.manifest.entries().iter().filter_map(|entry| match &entry.kind {
        Kind::File { executable: true, digest, .. } => {
            let name = df_core::text::escape(entry.path.as_bytes());
            Some(json!({ "name": name, "digest": { "blake3": digest } }))
        }
        _ => None,
    });
    let programs: Vec<Value> = programs.take(N_SUBJECTS + 1).collect();
    let mut subjects = vec![image];
    if programs.len() <= N_SUBJECTS {
        subjects.extend(programs);
    }
    subjects
}

fn environment(made: &Made<'_>) -> Map<String, Value> {
    let is_told = |name: &str| made.release.sandbox == Sandbox::Strict || CONSTANT.contains(&name);
    made.recipe
        .environment
        .iter()
        .filter(|(name, _)| is_told(name))
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect()
}

fn dependencies(made: &Made<'_>) -> Vec<Value> {
    let mut all = vec![json!({ "name": "source", "digest": { "gitCommit": made.release.commit } })];
    for part in Parts::of(made).packages.iter().filter(|part| !part.is_local) {
        let mut digest = Map::new();
        digest.extend(part.sha256.iter().map(|sha256| ("sha256".to_owned(), Value::from(sha256.as_str()))));
        digest.extend(part.revision.iter().map(|revision| ("gitCommit".to_owned(), Value::from(revision.as_str()))));
        all.push(json!({ "name": part.name, "uri": part.purl, "digest": digest }));
    }
    for file in &made.recipe.build.fetch {
        let digest = match &file.digest {
            FetchedDigest::Blake3(digest) => json!({ "blake3": digest }),
            FetchedDigest::Sha256(digest) => json!({ "sha256": digest }),
        };
        all.push(json!({ "name": file.to, "uri": file.url, "digest": digest }));
    }
    for (tool, version) in &made.recipe.toolchain {
        let number = version.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let uri = match number {
            Some(number) => format!("pkg:generic/{}@{}", encoded(tool), encoded(number)),
            None => format!("pkg:generic/{}", encoded(tool)),
        };
        all.push(json!({ "name": tool, "uri": uri, "annotations": { "version": version } }));
    }
    all
}

fn run(made: &Made<'_>) -> Value {
    let mode = match made.release.sandbox {
        Sandbox::Strict => "sandbox-strict",
        Sandbox::Off => "sandbox-off",
    };
    // Modes with other promises are other builders, says the specification.
    let mut run = json!({ "builder": { "id": format!("{PAGE}#{mode}"), "version": { "df": made.version } } });
    if let Some(times) = made.run {
        let invocation = Digest::of(format!("{} {}", made.release.id(), times.started).as_bytes());
        run["metadata"] = json!({
            "invocationId": invocation.short(),
            "startedOn": times.started.to_string(),
            "finishedOn": times.finished.to_string(),
        });
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::tests::Example;

    fn said(made: &Made<'_>) -> Value {
        serde_json::from_slice(&provenance(made)).expect("JSON")
    }

    #[test]
    fn golden_bytes() {
        let bytes = provenance(&Example::new().made());
        assert_eq!(String::from_utf8(bytes).expect("text"), include_str!("../../testdata/provenance-v1.json"));
    }

    /// The names of the two specifications; a reader ignores any other, so a wrong one would be silent.
    #[test]
    fn all_names_are_those_of_in_toto_and_slsa() {
        let statement = said(&Example::new().made());
        let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&statement), ["_type", "predicate", "predicateType", "subject"]);
        let predicate = &statement["predicate"];
        assert_eq!(names(predicate), ["buildDefinition", "runDetails"]);
        let definition = &predicate["buildDefinition"];
        assert_eq!(names(definition), ["buildType", "externalParameters", "internalParameters", "resolvedDependencies"]);
        assert_eq!(names(&predicate["runDetails"]), ["builder", "metadata"]);
        assert_eq!(names(&predicate["runDetails"]["builder"]), ["id", "version"]);
        assert_eq!(names(&predicate["runDetails"]["metadata"]), ["finishedOn", "invocationId", "startedOn"]);
        let described =
            statement["subject"].as_array().into_iter().chain(definition["resolvedDependencies"].as_array()).flatten();
        for resource in described {
            let known = ["annotations", "digest", "name", "uri"];
            assert!(names(resource).iter().all(|name| known.contains(&name.as_str())), "{resource}");
            assert!(resource.get("uri").is_some() || resource.get("digest").is_some(), "{resource}");
        }
    }

    #[test]
    fn the_image_is_named_by_its_id() {
        let example = Example::new();
        assert_eq!(said(&example.made())["subject"][0]["digest"]["blake3"], example.release.image.to_string());
    }

    #[test]
    fn a_build_without_a_sandbox_is_another_builder_and_tells_no_path() {
        let mut example = Example::new();
        example.release.sandbox = Sandbox::Off;
        example.recipe.environment.insert("HOME".into(), "/home/ada".into());
        let text = String::from_utf8(provenance(&example.made())).expect("text");
        assert!(text.contains("#sandbox-off") && text.contains("\"TZ\": \"UTC\""), "{text}");
        assert!(!text.contains("/home/ada"), "{text}");
    }

    #[test]
    fn only_the_run_differs_from_build_to_build() {
        let example = Example::new();
        let without = |mut value: Value| {
            value["predicate"]["runDetails"].as_object_mut().expect("an object").remove("metadata");
            value
        };
        let other = Made { run: None, ..example.made() };
        assert_eq!(without(said(&example.made())), said(&other));
    }
}
