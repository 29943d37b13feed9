//! `build.static`: a program that holds its C library itself, or words that say why there is none.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use df_build::{BuildError, Builder, Built, Repository};
use df_core::AppName;
use df_core::spec::{BuildSection, BuildTool, CargoBuild, Relocatable, Sandbox};
use df_testkit::Repo;

const MANIFEST: &str = "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"macros\"]\n";
const APP: &str =
    "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\nmacros = { path = \"../macros\" }\n";
const MACROS: &str = "[package]\nname = \"macros\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[lib]\nproc-macro = true\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\ndependencies = [\n \"macros\",\n]\n\n[[package]]\nname = \"macros\"\nversion = \"1.0.0\"\n";
const MAIN: &str = "fn main() { println!(\"{} {}\", env!(\"BUILT\"), macros::word!()); }\n";
const BUILD: &str = "fn main() { println!(\"cargo:rustc-env=BUILT=one\"); }\n";
const WORD: &str =
    "#[proc_macro]\npub fn word(_: proc_macro::TokenStream) -> proc_macro::TokenStream { \"\\\"fish\\\"\".parse().unwrap() }\n";

struct Place {
    dir: tempfile::TempDir,
    repo: Repo,
}

impl Place {
    fn new() -> Self {
        Self::of(&[
            ("Cargo.toml", MANIFEST),
            ("Cargo.lock", LOCK),
            ("app/Cargo.toml", APP),
            ("app/build.rs", BUILD),
            ("app/src/main.rs", MAIN),
            ("macros/Cargo.toml", MACROS),
            ("macros/src/lib.rs", WORD),
        ])
    }

    fn of(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = Repo::new(&dir.path().join("repo"));
        let place = Self { dir, repo };
        place.commit(files);
        place
    }

    fn commit(&self, files: &[(&str, &str)]) {
        self.repo.commit(files, "a version");
    }

    fn build(&self, section: &BuildSection) -> Result<Built, BuildError> {
        let app = AppName::new("app").expect("a name");
        let builder = Builder::new(&self.dir.path().join("cache"), app).expect("a builder");
        let repository = Repository::open(self.repo.dir()).expect("a repository");
        let commit = repository.resolve("HEAD").expect("a commit");
        builder.build(&repository, &commit, section, &mut |_| {}, &AtomicBool::new(false))
    }
}

fn section(is_static: bool) -> BuildSection {
    let cargo =
        CargoBuild { package: Some("app".into()), profile: "release".into(), default_features: true, ..CargoBuild::default() };
    BuildSection {
        tool: BuildTool::Cargo(cargo),
        include: [].into(),
        outside_links: vec![],
        relocatable: Relocatable::Warn,
        sandbox: Sandbox::Off,
        fetch: vec![],
        is_static,
    }
}

fn said(built: &Built) -> String {
    let output = Command::new(built.output.join("bin/app")).output().expect("it starts");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn interpreter(output: &Path) -> Option<String> {
    let mut needs = df_build::needs(output).expect("it can be read");
    assert_eq!(needs.iter().map(|needs| needs.path.as_str()).collect::<Vec<_>>(), ["bin/app"]);
    needs.remove(0).interpreter
}

#[test]
fn a_static_program_runs_and_nothing_loads_it() {
    let place = Place::new();
    let dynamic = place.build(&section(false)).expect("built");
    assert_eq!(said(&dynamic), "one fish\n");
    assert!(interpreter(&dynamic.output).is_some_and(|path| path.contains("ld-")));
    drop(dynamic);
    let fixed = place.build(&section(true)).expect("built");
    assert_eq!(said(&fixed), "one fish\n");
    assert_eq!(interpreter(&fixed.output), None);
    assert_eq!(df_build::needs(&fixed.output).expect("it can be read")[0].libc, None);
}

#[test]
fn a_change_reaches_a_static_program_wherever_it_was_made() {
    let place = Place::new();
    assert_eq!(said(&place.build(&section(true)).expect("built")), "one fish\n");
    place.commit(&[("macros/src/lib.rs", &WORD.replace("fish", "bird"))]);
    assert_eq!(said(&place.build(&section(true)).expect("built")), "one bird\n");
    place.commit(&[("app/build.rs", &BUILD.replace("one", "two"))]);
    assert_eq!(said(&place.build(&section(true)).expect("built")), "two bird\n");
    place.commit(&[("app/src/main.rs", &MAIN.replace("{} {}", "{}, {}"))]);
    assert_eq!(said(&place.build(&section(true)).expect("built")), "two, bird\n");
}

#[test]
fn a_change_reaches_a_static_program_that_nothing_else_is_built_for() {
    let place = Place::of(&[
        ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\n"),
        ("src/main.rs", "fn main() { println!(\"one\"); }\n"),
    ]);
    assert_eq!(said(&place.build(&section(true)).expect("built")), "one\n");
    place.commit(&[("src/main.rs", "fn main() { println!(\"two\"); }\n")]);
    assert_eq!(said(&place.build(&section(true)).expect("built")), "two\n");
}

#[test]
fn code_that_needs_a_shared_library_is_refused_in_words() {
    let place = Place::new();
    place.commit(&[("app/build.rs", &BUILD.replace("}\n", "println!(\"cargo:rustc-link-lib=nowhere\"); }\n"))]);
    let refused = place.build(&section(true)).expect_err("there is no such library").to_string();
    assert!(refused.contains("does not allow a static program: it needs libnowhere.a"), "{refused}");
    // The same failure of a program that need not be static is the linker's own.
    assert!(matches!(place.build(&section(false)), Err(BuildError::Failed { .. })));
}

#[test]
fn a_command_is_not_told_how_to_link() {
    let command = BuildTool::Command { command: "mkdir out".into(), output: "out".parse().expect("a path") };
    let refused = Place::new().build(&BuildSection { tool: command, ..section(true) }).expect_err("not for commands");
    assert!(matches!(refused, BuildError::StaticElsewhere), "{refused}");
}
