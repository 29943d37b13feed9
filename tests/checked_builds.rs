//! `df build --check` tells builds that give the same again from those that do not, and shows why; what was built is written down beside each release.

use std::path::Path;

use df_testkit::process::{Output, Run};
use df_testkit::repo::Repo;
use serde_json::Value;

use crate::support;

const LOCK: &str = "version = 4\n\n[[package]]\nname = \"greeter\"\nversion = \"0.1.0\"\n";
const MANIFEST: &str = "[package]\nname = \"greeter\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
const CARGO: &str = "app: greeter\nbuild:\n  cargo: { package: greeter }\n";

/// A repository, and a cache of its own.
struct Place {
    dir: tempfile::TempDir,
    repo: Repo,
}

impl Place {
    fn of(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("df-check").tempdir().expect("a directory");
        let repo = Repo::new(&dir.path().join("repo"));
        repo.commit(files, "one");
        Self { dir, repo }
    }

    /// A commit that a command builds.
    fn command(command: &str) -> Self {
        let text = format!("app: greeter\nbuild:\n  command: {command:?}\n  output: out\n");
        Self::of(&[("df.yaml", &text), ("words.txt", "hello\n")])
    }

    fn df(&self, words: &[&str]) -> Run {
        let run = support::df(self.repo.dir(), &self.dir.path().join("state")).args(words);
        run.env("XDG_CACHE_HOME", self.dir.path().join("cache"))
    }

    /// Builds and checks; returns what people and what scripts are told.
    #[track_caller]
    fn check(&self, code: i32) -> (Output, Value) {
        let told = self.df(&["build", "--check"]).output().expect_code(code);
        let mut events = self.df(&["build", "--check", "--json"]).output().expect_code(code).events("checked");
        (told, events.pop().expect("checked"))
    }
}

#[test]
fn a_build_that_gives_the_same_again_is_reproducible() {
    let place = Place::command("mkdir out && cp words.txt out/ && env | sort > out/environment && id > out/who");
    let image = place.df(&["build"]).ok().stdout.trim().to_owned();
    let (told, checked) = place.check(0);
    assert_eq!(told.stdout, format!("{image}\nreproducible: image {} was built twice\n", &image[..12]));
    assert_eq!((&checked["image"], &checked["reproducible"]), (&Value::from(image), &Value::from(true)));
    assert_eq!(checked["differs"], Value::from(Vec::<String>::new()));
}

#[test]
fn a_build_that_writes_down_when_it_was_is_told_with_the_file_and_what_stands_there() {
    let place = Place::command("mkdir out && date +%s%N > out/stamp && cp words.txt out/");
    let (told, checked) = place.check(8);
    for part in ["not reproducible: ", "  stamp: differs, 20 bytes (looks like a time)\n", "      here   1", "      there  1"] {
        assert!(told.stdout.contains(part), "{part:?} is missing:\n{}", told.stdout);
    }
    assert_eq!(checked["reproducible"], Value::from(false));
    assert_eq!(checked["differs"], serde_json::json!(["stamp"]));
    assert_eq!(checked["differences"][0]["guess"], "time");
    place.df(&["build"]).ok();
}

#[test]
fn a_program_that_holds_a_random_order_is_told_with_its_section_and_the_words() {
    let build = r#"
        fn main() {
            let words: std::collections::HashSet<&str> =
                "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda".split(' ').collect();
            println!("cargo::rustc-env=WORDS={}", words.into_iter().collect::<Vec<_>>().join(" "));
        }"#;
    let main = r#"fn main() { println!("the words are {}", env!("WORDS")); }"#;
    let files = [("df.yaml", CARGO), ("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("build.rs", build), ("src/main.rs", main)];
    let place = Place::of(&files);
    let (told, checked) = place.check(8);
    for part in ["  bin/greeter: differs, ", "    in .rodata", "    .rodata at 0x", "      here   ", "lambda"] {
        assert!(told.stdout.contains(part), "{part:?} is missing:\n{}", told.stdout);
    }
    assert_eq!(checked["differs"], serde_json::json!(["bin/greeter"]));
    assert_eq!(checked["differences"][0]["guess"], "order");
}

#[test]
fn a_program_that_knows_how_many_jobs_built_it_is_told_with_the_cause() {
    let build = r#"fn main() { println!("cargo::rustc-env=JOBS={}", std::env::var("NUM_JOBS").expect("cargo says")); }"#;
    let main = r#"fn main() { println!("built by {} jobs", env!("JOBS")); }"#;
    let files = [("df.yaml", CARGO), ("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("build.rs", build), ("src/main.rs", main)];
    let place = Place::of(&files);
    if std::thread::available_parallelism().map_or(1, usize::from) == 1 {
        place.check(0);
        return;
    }
    let (_, checked) = place.check(8);
    let difference = &checked["differences"][0];
    assert_eq!((&difference["path"], &difference["guess"]), (&Value::from("bin/greeter"), &Value::from("cores")));
}

#[test]
fn a_program_is_the_same_whatever_is_other_in_the_second_build() {
    let main = r#"fn main() { println!("{} {}", env!("CARGO_MANIFEST_DIR"), file!()); panic!("somewhere"); }"#;
    let place = Place::of(&[("df.yaml", CARGO), ("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("src/main.rs", main)]);
    let built = place.df(&["build", "--json"]).ok().events("built").pop().expect("built");
    place.check(0);
    let sbom = std::fs::read(built["sbom"].as_str().expect("a path")).expect("a file");
    let sbom: Value = serde_json::from_slice(&sbom).expect("JSON");
    assert_eq!(sbom["metadata"]["properties"][0]["value"], "compiled", "what was compiled is known");
    assert_eq!(sbom["components"][0]["purl"], "pkg:cargo/greeter@0.1.0");
}

#[test]
fn what_was_built_is_written_down_once_and_names_no_place_of_this_machine() {
    let place = Place::command("mkdir out && cp words.txt out/");
    let commit = place.repo.head_commit().expect("a commit");
    let built = |words: &[&str]| place.df(words).ok().events("built").pop().expect("built");
    let first = built(&["build", "--json"]);
    let read = |event: &Value, name: &str| std::fs::read_to_string(event[name].as_str().expect("a path")).expect("a file");
    let provenance: Value = serde_json::from_str(&read(&first, "provenance")).expect("JSON");
    let definition = &provenance["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["commit"], *commit);
    assert_eq!(definition["resolvedDependencies"][0]["digest"]["gitCommit"], *commit);
    assert_eq!(provenance["subject"][0]["digest"]["blake3"], first["image"]);
    assert!(provenance["predicate"]["runDetails"]["metadata"]["startedOn"].is_string());
    let sbom: Value = serde_json::from_str(&read(&first, "sbom")).expect("JSON");
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&Value::from("CycloneDX"), &Value::from("1.6")));
    assert_eq!(sbom["metadata"]["component"]["version"], *commit);
    for text in [read(&first, "provenance"), read(&first, "sbom")] {
        for secret in [place.dir.path(), Path::new(&std::env::var("HOME").expect("a home"))] {
            assert!(!text.contains(&format!("{}/", secret.display())), "{} is named in {text}", secret.display());
        }
    }

    let again = built(&["build", "--json"]);
    assert_eq!((&again["provenance"], &again["reused"]), (&first["provenance"], &Value::from(true)));
    let sbom_file = first["sbom"].as_str().expect("a path");
    let before = read(&first, "sbom");
    std::fs::remove_file(sbom_file).expect("removed");
    assert_eq!(read(&built(&["build", "--json"]), "sbom"), before, "what is missing is made again, the same");
    assert!(place.df(&["build", "-v"]).ok().stderr.contains(sbom_file), "people are told with -v");
    assert!(!place.df(&["build"]).ok().stderr.contains("sbom"), "and not without");
}
