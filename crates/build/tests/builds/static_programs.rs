//! `build.static`: a program that holds its C library itself, or words that say why there is none.

use std::path::Path;
use std::process::Command;

use df_build::{BuildError, Built};
use df_core::spec::{BuildSection, BuildTool, CargoBuild};

use crate::support::{Place, off, place};

const MANIFEST: &str = "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"macros\"]\n";
const APP: &str =
    "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\nmacros = { path = \"../macros\" }\n";
const MACROS: &str = "[package]\nname = \"macros\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[lib]\nproc-macro = true\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\ndependencies = [\n \"macros\",\n]\n\n[[package]]\nname = \"macros\"\nversion = \"1.0.0\"\n";
const MAIN: &str = "fn main() { println!(\"{} {}\", env!(\"BUILT\"), macros::word!()); }\n";
const BUILD: &str = "fn main() { println!(\"cargo:rustc-env=BUILT=one\"); }\n";
const WORD: &str =
    "#[proc_macro]\npub fn word(_: proc_macro::TokenStream) -> proc_macro::TokenStream { \"\\\"fish\\\"\".parse().unwrap() }\n";

fn project() -> Place {
    place(&[
        ("Cargo.toml", MANIFEST),
        ("Cargo.lock", LOCK),
        ("app/Cargo.toml", APP),
        ("app/build.rs", BUILD),
        ("app/src/main.rs", MAIN),
        ("macros/Cargo.toml", MACROS),
        ("macros/src/lib.rs", WORD),
    ])
}

fn section(is_static: bool) -> BuildSection {
    let package = Some("app".into());
    let cargo = CargoBuild { package, profile: "release".into(), default_features: true, ..CargoBuild::default() };
    BuildSection { is_static, ..off(BuildTool::Cargo(cargo)) }
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
    let place = project();
    let dynamic = place.build(&section(false)).built();
    assert_eq!(said(&dynamic), "one fish\n");
    assert!(interpreter(&dynamic.output).is_some_and(|path| path.contains("ld-")));
    drop(dynamic);
    let fixed = place.build(&section(true)).built();
    assert_eq!(said(&fixed), "one fish\n");
    assert_eq!(interpreter(&fixed.output), None);
    assert_eq!(df_build::needs(&fixed.output).expect("it can be read")[0].libc, None);
}

#[test]
fn a_change_reaches_a_static_program_wherever_it_was_made() {
    let place = project();
    assert_eq!(said(&place.build(&section(true)).built()), "one fish\n");
    place.repo.commit(&[("macros/src/lib.rs", &WORD.replace("fish", "bird"))], "a version");
    assert_eq!(said(&place.build(&section(true)).built()), "one bird\n");
    place.repo.commit(&[("app/build.rs", &BUILD.replace("one", "two"))], "a version");
    assert_eq!(said(&place.build(&section(true)).built()), "two bird\n");
    place.repo.commit(&[("app/src/main.rs", &MAIN.replace("{} {}", "{}, {}"))], "a version");
    assert_eq!(said(&place.build(&section(true)).built()), "two, bird\n");
}

#[test]
fn a_change_reaches_a_static_program_that_nothing_else_is_built_for() {
    let place = place(&[
        ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\n"),
        ("src/main.rs", "fn main() { println!(\"one\"); }\n"),
    ]);
    assert_eq!(said(&place.build(&section(true)).built()), "one\n");
    place.repo.commit(&[("src/main.rs", "fn main() { println!(\"two\"); }\n")], "a version");
    assert_eq!(said(&place.build(&section(true)).built()), "two\n");
}

#[test]
fn code_that_needs_a_shared_library_is_refused_in_words() {
    let place = project();
    place.repo.commit(&[("app/build.rs", &BUILD.replace("}\n", "println!(\"cargo:rustc-link-lib=nowhere\"); }\n"))], "a version");
    let refused = place.build(&section(true)).refusal();
    assert!(refused.contains("does not allow a static program: it needs libnowhere.a"), "{refused}");
    // The same failure of a program that need not be static is the linker's own.
    assert!(matches!(place.build(&section(false)).result, Err(BuildError::Failed { .. })));
}

#[test]
fn a_command_is_not_told_how_to_link() {
    let command = BuildTool::Command { command: "mkdir out".into(), output: "out".parse().expect("a path") };
    let refused = project().build(&BuildSection { tool: command, ..section(true) }).result;
    assert!(matches!(refused, Err(BuildError::StaticElsewhere)));
}
