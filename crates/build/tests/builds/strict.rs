//! Builds in rooms: what they give, what comes from a layer of dependencies, and what never does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use df_build::{BuildError, Built};
use df_core::spec::{BuildSection, BuildTool, Relocatable, Sandbox};
use df_testkit::{Repo, Tree};

use crate::support::{self, Place, bytes, place, strict};

impl Place {
    fn keep(&self) -> PathBuf {
        self.cache().join("build")
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.keep().join("layers")).map_or(0, |entries| entries.count())
    }
}

fn command(line: &str) -> BuildSection {
    strict(support::command(line))
}

fn cargo() -> BuildSection {
    strict(support::cargo())
}

fn said(built: &Built, program: &str) -> String {
    support::said(&built.output.join("bin").join(program))
}

/// The registry by the name that cargo gave it in our own lock file.
fn index() -> String {
    let ours = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock")).expect("our own lock file");
    ours.split("source = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("we have dependencies").to_owned()
}

/// A project `hello` with a member `member` and packages of a registry, which the commit holds vendored: `word`, which has a build script that compiles C when a
/// compiler is asked for, and `shout`, a procedural macro.
struct Project {
    files: BTreeMap<String, String>,
}

const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl Project {
    fn new() -> Self {
        let index = index();
        let foreign = |name: &str| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\nsource = \"{index}\"\nchecksum = \"{SUM}\"\n\n")
        };
        let mut project = Self { files: BTreeMap::new() };
        project
            .set(
                "Cargo.toml",
                "[workspace]\nmembers = [\"member\"]\n[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                 [dependencies]\nmember = { path = \"member\" }\nshout = \"0.1\"\nword = \"0.1\"\n[features]\nloud = [\"word/loud\"]\n",
            )
            .set(
                "Cargo.lock",
                &format!(
                    "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\ndependencies = [\n \"member\",\n \"shout\",\n \"word\",\n]\n\n\
                     [[package]]\nname = \"member\"\nversion = \"0.1.0\"\ndependencies = [\n \"word\",\n]\n\n{}{}",
                    foreign("shout"),
                    foreign("word")
                ),
            )
            .set(".cargo/config.toml", "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = \"vendor\"\n")
            .set("build.rs", "fn main() { println!(\"cargo::rustc-env=BUILT={}\", std::env::var(\"PROFILE\").unwrap()); }")
            .set("src/main.rs", "fn main() { println!(\"{} {} {}\", member::text(), shout::shout!(), env!(\"BUILT\")); }")
            .set("member/Cargo.toml", "[package]\nname = \"member\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nword = \"0.1\"\n")
            .set("member/src/lib.rs", "pub fn text() -> String { format!(\"a-{}\", word::word()) }")
            .set("vendor/word/Cargo.toml", "[package]\nname = \"word\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[features]\nloud = []\n")
            .set(
                "vendor/word/build.rs",
                "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    let run = |program: &str, args: &[&str]| assert!(std::process::Command::new(program).args(args).current_dir(&out).status().unwrap().success());\n    \
                 let here = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n    run(\"cc\", &[\"-c\", &format!(\"{here}/three.c\"), \"-o\", \"three.o\"]);\n    run(\"ar\", &[\"crD\", \"libthree.a\", \"three.o\"]);\n    \
                 std::fs::write(format!(\"{out}/word.rs\"), \"pub const WORD: &str = \\\"word\\\";\").unwrap();\n    println!(\"cargo::rustc-link-search=native={out}\\ncargo::rustc-link-lib=static=three\");\n}\n",
            )
            .set("vendor/word/three.c", "int three(void) { return 3; }\n")
            .set(
                "vendor/word/src/lib.rs",
                "include!(concat!(env!(\"OUT_DIR\"), \"/word.rs\"));\nunsafe extern \"C\" { safe fn three() -> i32; }\n\
                 pub fn word() -> String { format!(\"{WORD}{}{}\", three(), if cfg!(feature = \"loud\") { \"!\" } else { \"\" }) }\n",
            )
            .set("vendor/word/.cargo-checksum.json", &format!("{{\"files\":{{}},\"package\":\"{SUM}\"}}"))
            .set("vendor/shout/Cargo.toml", "[package]\nname = \"shout\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n")
            .set(
                "vendor/shout/src/lib.rs",
                "use proc_macro::TokenStream;\n#[proc_macro]\npub fn shout(_: TokenStream) -> TokenStream { \"\\\"HI\\\"\".parse().unwrap() }\n",
            )
            .set("vendor/shout/.cargo-checksum.json", &format!("{{\"files\":{{}},\"package\":\"{SUM}\"}}"));
        project
    }

    fn set(&mut self, path: &str, text: &str) -> &mut Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn place(&self) -> Place {
        place(&self.rows())
    }

    fn commit_to(&self, place: &Place) {
        place.repo.commit(&self.rows(), "more");
    }

    fn rows(&self) -> Vec<(&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
    }
}

#[test]
fn dependencies_are_compiled_once_and_members_always() {
    let mut project = Project::new();
    let place = project.place();
    let first = place.build(&cargo());
    assert_eq!(first.compiled("dependencies"), ["shout", "word", "word"], "{:?}", first.result);
    assert_eq!(first.compiled("compile"), ["hello", "hello", "member"]);
    let first = first.built();
    assert_eq!(said(&first, "hello"), "a-word3 HI release");
    assert_eq!(place.layers(), 1);
    let program = bytes(&first, "hello");
    assert!(first.layer.is_some());
    drop(first);

    // One byte of a member, under equal times.
    project.set("member/src/lib.rs", "pub fn text() -> String { format!(\"b-{}\", word::word()) }").commit_to(&place);
    let second = place.build(&cargo());
    assert_eq!(second.compiled("dependencies"), [""; 0]);
    assert_eq!(second.compiled("compile"), ["hello", "hello", "member"]);
    let second = second.built();
    assert_eq!(said(&second, "hello"), "b-word3 HI release");
    drop(second);

    // The same from nothing, elsewhere.
    project.set("member/src/lib.rs", "pub fn text() -> String { format!(\"a-{}\", word::word()) }").commit_to(&place);
    let again = place.build_from_nothing(&cargo());
    assert_eq!(again.compiled("compile").len(), 6);
    let again = again.built();
    assert!(again.layer.is_none());
    assert_eq!(bytes(&again, "hello"), program);
    drop(again);
    assert_eq!(bytes(&place.build(&cargo()).built(), "hello"), program, "with the layer");
    let left: Vec<_> = fs::read_dir(place.keep().join("rooms")).map_or(vec![], |entries| entries.flatten().collect());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_command_works_on_a_copy_of_the_commit() {
    let place = place(&[("a.txt", "one\n")]);
    let line = "mkdir out; env | sort > out/env; cp a.txt out; umask > out/umask; pwd > out/pwd; id -u > out/id; hostname > out/host || cat /proc/sys/kernel/hostname > out/host; echo two > a.txt";
    let mut section = command(line);
    // It writes down where it is.
    section.relocatable = Relocatable::Warn;
    let built = place.build(&section).built();
    let read = |name: &str| fs::read_to_string(built.output.join(name)).expect("a file");
    assert_eq!(
        [read("a.txt"), read("umask"), read("pwd"), read("id"), read("host")],
        ["one\n", "0022\n", "/df/src\n", "1000\n", "df\n"]
    );
    let environment: BTreeMap<String, String> =
        read("env").lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    for (name, value) in &built.recipe.environment {
        assert_eq!(environment.get(name), Some(value), "{name}");
    }
    drop(built);
    // What the first one wrote is not there for the second.
    place.build(&command("test \"$(cat a.txt)\" = one && mkdir out && touch out/x")).built();
    assert!(place.build(&command("mkdir real && ln -s real out && touch real/x")).refusal().contains("out is a symbolic link"));
}

#[test]
fn a_change_that_dependencies_can_see_makes_another_layer() {
    let mut project = Project::new();
    let place = project.place();
    place.build(&cargo()).built();
    let check = |project: &Project, section: &BuildSection, layers: usize, said_: &str, why: &str| {
        project.commit_to(&place);
        let built = place.build(section).built();
        assert_eq!((place.layers(), said(&built, "hello").as_str()), (layers, said_), "{why}");
    };
    let old = Project::new();
    project.files.insert("Cargo.toml".into(), old.files["Cargo.toml"].replacen("version = \"0.1.0\"", "version = \"0.2.0\"", 1));
    project.files.insert("Cargo.lock".into(), old.files["Cargo.lock"].replacen("version = \"0.1.0\"", "version = \"0.2.0\"", 1));
    check(&project, &cargo(), 1, "a-word3 HI release", "the version of a member");
    let mut loud = cargo();
    if let BuildTool::Cargo(cargo) = &mut loud.tool {
        cargo.features = vec!["loud".into()];
    }
    check(&project, &loud, 2, "a-word3! HI release", "a feature");
    project.set(
        "Cargo.toml",
        &format!("{}[profile.release]\nopt-level = 1\n", old.files["Cargo.toml"].replacen("0.1.0", "0.2.0", 1)),
    );
    check(&project, &cargo(), 3, "a-word3 HI release", "a profile");
    project.set(".cargo/config.toml", &format!("{}[env]\nX = \"1\"\n", old.files[".cargo/config.toml"]));
    check(&project, &cargo(), 4, "a-word3 HI release", "the configuration");
    project.set("vendor/word/three.c", "int three(void) { return 4; }\n");
    check(&project, &cargo(), 5, "a-word4 HI release", "a vendored file");
}

#[test]
fn a_vendored_package_that_reads_a_file_of_the_commit_gets_the_real_one() {
    let script = &Project::new().files["vendor/word/build.rs"];
    let watching = script.replacen("fn main() {", "fn main() {\n    println!(\"cargo::rerun-if-changed=../../extra.rs\");\n    println!(\"cargo::rustc-env=EXTRA={}\", std::fs::read_to_string(\"../../extra.rs\").unwrap().contains(\"one\"));", 1);
    for (script, word) in [
        (
            script,
            "fn text() -> String { \"stub\".into() }\npub fn word() -> String { use extra::*; #[path = \"../../../extra.rs\"] mod extra; text() }\n",
        ),
        (script, "pub fn word() -> String { include_str!(\"../../../Cargo.toml\").contains(\"one\").to_string() }\n"),
        (&watching, "pub fn word() -> String { env!(\"EXTRA\").into() }\n"),
    ] {
        let mut project = Project::new();
        let manifest = project.files["Cargo.toml"].clone();
        project
            .set("Cargo.toml", &format!("{manifest}# one\n"))
            .set("extra.rs", "pub fn text() -> String { \"true\".into() } // one\n")
            .set("vendor/word/build.rs", script)
            .set("vendor/word/src/lib.rs", word);
        let place = project.place();
        assert_eq!(said(&place.build(&cargo()).built(), "hello"), "a-true HI release", "{word}");
        project
            .set("Cargo.toml", &format!("{manifest}# two\n"))
            .set("extra.rs", "pub fn text() -> String { \"false\".into() } // two\n")
            .commit_to(&place);
        assert_eq!(said(&place.build(&cargo()).built(), "hello"), "a-false HI release", "{word}");
    }
}

#[test]
fn a_directory_that_a_dependency_locked_fails_no_build() {
    let mut project = Project::new();
    let lock = "fn main() {\n    use std::os::unix::fs::PermissionsExt;\n    let locked = std::env::var(\"OUT_DIR\").unwrap() + \"/locked\";\n    \
                std::fs::create_dir(&locked).unwrap();\n    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0)).unwrap();";
    let script = project.files["vendor/word/build.rs"].replacen("fn main() {", lock, 1);
    project.set("vendor/word/build.rs", &script);
    let place = project.place();
    for _ in 0..2 {
        assert_eq!(said(&place.build(&cargo()).built(), "hello"), "a-word3 HI release");
    }
}

#[test]
fn what_needs_a_package_of_the_commit_is_in_no_layer() {
    let mut project = Project::new();
    let old = Project::new();
    // `shout` of the registry needs `word`, which a patch takes from the commit.
    project
        .set("Cargo.toml", &format!("{}[patch.crates-io]\nword = {{ path = \"own\" }}\n", old.files["Cargo.toml"]))
        .set("own/Cargo.toml", &old.files["vendor/word/Cargo.toml"])
        .set("own/src/lib.rs", "pub fn word() -> String { \"own1\".into() }")
        .set("vendor/shout/Cargo.toml", &format!("{}[dependencies]\nword = \"0.1\"\n", old.files["vendor/shout/Cargo.toml"]))
        .set(
            "vendor/shout/src/lib.rs",
            "use proc_macro::TokenStream;\n#[proc_macro]\npub fn shout(_: TokenStream) -> TokenStream { format!(\"{:?}\", word::word()).parse().unwrap() }\n",
        );
    let foreign =
        format!("[[package]]\nname = \"word\"\nversion = \"0.1.0\"\nsource = \"{}\"\nchecksum = \"{SUM}\"\n\n", index());
    let mut lock = old.files["Cargo.lock"].replace(&foreign, "[[package]]\nname = \"word\"\nversion = \"0.1.0\"\n\n");
    lock = lock.replace(&format!("checksum = \"{SUM}\"\n"), &format!("checksum = \"{SUM}\"\ndependencies = [\n \"word\",\n]\n"));
    project.set("Cargo.lock", &lock);
    let place = project.place();
    assert_eq!(said(&place.build(&cargo()).built(), "hello"), "a-own1 own1 release");
    project.set("own/src/lib.rs", "pub fn word() -> String { \"own2\".into() }").commit_to(&place);
    assert_eq!(said(&place.build(&cargo()).built(), "hello"), "a-own2 own2 release");
}

#[test]
fn a_git_dependency_is_fetched_and_layered() {
    let dir = tempfile::tempdir().expect("a directory");
    let dependency = Repo::new(&dir.path().join("word"));
    dependency.commit(
        &[("Cargo.toml", "[package]\nname = \"word\"\nversion = \"0.1.0\"\n"), ("src/lib.rs", "pub const WORD: &str = \"git\";")],
        "one",
    );
    let head = Command::new("git").arg("-C").arg(dependency.dir()).args(["rev-parse", "HEAD"]).output().expect("git runs");
    let head = String::from_utf8(head.stdout).expect("text").trim().to_owned();
    let url = format!("file://{}", dependency.dir().display());
    let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\n";
    let place = place(&[
        ("Cargo.toml", &format!("{manifest}word = {{ git = \"{url}\" }}\n")),
        (
            "Cargo.lock",
            &format!(
                "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\ndependencies = [\n \"word\",\n]\n\n[[package]]\nname = \"word\"\nversion = \"0.1.0\"\nsource = \"git+{url}#{head}\"\n"
            ),
        ),
        ("src/main.rs", "fn main() { println!(\"{}\", word::WORD); }"),
    ]);
    let outcome = place.build(&cargo());
    assert_eq!(
        (outcome.compiled("dependencies"), outcome.compiled("compile")),
        (vec!["word".to_owned()], vec!["hello".to_owned()])
    );
    assert_eq!(said(&outcome.built(), "hello"), "git");
    assert_eq!(place.layers(), 1);
}

#[test]
fn configuration_of_the_commit_counts() {
    let source = "fn main() { println!(\"{}\", if cfg!(ours) { \"ours\" } else { \"lost\" }); }";
    let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[profile.release]\ndebug = true\n";
    let lock = "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\n";
    for config in [
        "[build]\nrustflags = [\"--cfg=ours\"]\n",
        "[target.x86_64-unknown-linux-gnu]\nrustflags = [\"--cfg=ours\"]\nlinker = \"cc\"\n",
        "[build]\nrustflags = [\"--cfg=ours\"]\ntarget = \"x86_64-unknown-linux-gnu\"\n",
        "[build]\nrustflags = [\"--cfg=ours\"]\ntarget-dir = \"elsewhere\"\nbuild-dir = \"more\"\n",
    ] {
        let place =
            place(&[("Cargo.toml", manifest), ("Cargo.lock", lock), ("src/main.rs", source), (".cargo/config.toml", config)]);
        assert_eq!(said(&place.build(&cargo()).built(), "hello"), "ours", "{config}");
    }
}

#[test]
fn an_output_that_a_build_script_replaced_is_refused() {
    let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    let lock = "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\n";
    let place = place(&[("Cargo.toml", manifest), ("Cargo.lock", lock), ("src/main.rs", "fn main() {}")]);
    // A linker of the commit's own leaves something else than a program behind.
    let link = "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = -o ] && out=$2; shift; done\nln -s /etc/passwd \"$out\"\n";
    let table = [(".cargo/config.toml", "[target.x86_64-unknown-linux-gnu]\nlinker = \"./link.sh\"\n"), ("link.sh", link)];
    let mut tree = Tree::of_files(&table);
    tree.0.extend(Tree::of_files(&[("Cargo.toml", manifest), ("Cargo.lock", lock), ("src/main.rs", "fn main() {}")]).0);
    place.repo.commit_over(&Tree::from_table(&[("link.sh", link, df_testkit::Kind::Executable)]), "link");
    place.repo.commit_over(&Tree::of_files(&table[..1]), "config");
    let refusal = place.build(&cargo()).refusal();
    assert!(refusal.contains("hello"), "{refusal}");
    assert!(!place.keep().join("output").read_dir().is_ok_and(|mut entries| entries.next().is_some()), "nothing is left");
}

const HELLO: [(&str, &str); 3] = [
    ("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
    ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\n"),
    ("src/main.rs", "fn main() { println!(\"hello\"); }"),
];

#[test]
fn a_failing_build_shows_the_end_of_its_log_and_leaves_nothing() {
    let place = place(&HELLO);
    place.repo.commit(&[("src/main.rs", "fn main() { let x: u8 = \"\"; }")], "two");
    let BuildError::Failed { what, how, lines, log } = place.build(&cargo()).result.expect_err("it does not compile") else {
        panic!("another error")
    };
    assert_eq!((what, how.as_str()), ("cargo build", "status 101"));
    assert!(lines.iter().any(|line| line.contains("mismatched types")) && log.is_file(), "{lines:?}");
    // What a killed build left is gone after the next one, whoever it belongs to.
    let torn = place.keep().join("rooms/build-torn/target");
    fs::create_dir_all(&torn).expect("made");
    place.build(&command("mkdir out && touch out/x")).built();
    assert!(!torn.exists());
    let refusal = place.build(&command("echo no >&2; exit 3")).refusal();
    assert_eq!(refusal.lines().skip(1).collect::<Vec<_>>(), ["no"], "{refusal}");
    assert!(refusal.starts_with("the build command ended with status 3"), "{refusal}");
    assert_eq!(fs::read_dir(place.keep().join("rooms")).map_or(0, |entries| entries.count()), 0);
}

#[test]
fn a_path_of_the_build_in_a_program_is_refused_when_that_is_asked_for() {
    let place = place(&HELLO);
    place.repo.commit(&[("src/main.rs", "fn main() { println!(\"{}\", env!(\"CARGO_MANIFEST_DIR\")); }")], "two");
    let refusal = place.build(&cargo()).refusal();
    assert!(refusal.contains("bin/hello"), "{refusal}");
    // Where a panic is, and debug information, name no such path.
    let manifest = format!("{}[profile.release]\ndebug = true\n", HELLO[0].1);
    let main = "fn main() { assert!(std::env::args().len() < 2, \"too many\"); println!(\"hello\"); }";
    place.repo.commit(&[("Cargo.toml", &manifest), ("src/main.rs", main)], "three");
    assert_eq!(said(&place.build(&cargo()).built(), "hello"), "hello");
}

#[test]
fn a_build_from_nothing_without_a_sandbox_gives_the_same() {
    let place = place(&HELLO);
    let manifest = format!("{}[profile.release]\ndebug = true\n", HELLO[0].1);
    place.repo.commit(&[("Cargo.toml", &manifest)], "debug");
    let mut off = cargo();
    off.sandbox = Sandbox::Off;
    let program = bytes(&place.build(&off).built(), "hello");
    assert_eq!(bytes(&place.build_from_nothing(&off).built(), "hello"), program);
    // Nothing of the check is left when the next build begins.
    place.build(&off).built();
    assert!(!place.keep().join("check").exists());
}

#[test]
fn a_static_program_is_built_over_a_layer_too() {
    let place = Project::new().place();
    let mut section = cargo();
    section.is_static = true;
    let outcome = place.build(&section);
    if let Err(BuildError::Static { why, .. }) = &outcome.result {
        assert!(why.to_string().contains("static C library"), "{why}");
        return; // It is not here.
    }
    assert_eq!(said(&outcome.built(), "hello"), "a-word3 HI release");
    assert_eq!(place.build(&section).compiled("dependencies"), [""; 0]);
}
