//! `build`.

use df_core::name::PathText;
use df_core::spec::{BuildTool, FetchedDigest, FetchedFile};

use super::*;

#[test]
fn builds_are_cargo_or_a_command_or_files() {
    let build = |text: &str| good(&format!("app: a\nbuild:\n{text}")).build.tool;
    assert!(matches!(build("  command: make dist\n  output: dist\n"),
        BuildTool::Command { command, output } if command == "make dist" && output.as_str() == "dist"));
    assert!(matches!(build("  command: |\n    make\n    make install\n  output: out/x\n"),
        BuildTool::Command { command, .. } if command == "make\nmake install"));
    assert!(matches!(build("  include: { static: share/static }\n"), BuildTool::Files));
    let table = [
        ("  sandbox: off\n", "3:3: build: \"cargo\", or \"command\" with \"output\", or at least one \"include\" is needed"),
        ("  command: make\n", "3:3: build: \"command\" needs \"output\", the directory that it leaves"),
        ("  output: dist\n", "3:11: build.output: stands without \"command\""),
        ("  command: ''\n  output: dist\n", "3:12: build.command: is empty"),
        (
            "  cargo: {}\n  command: make\n  output: dist\n",
            "4:12: build.command: stands beside \"cargo\"; a build is either cargo, or command and output",
        ),
        (
            "  command: make\n  output: dist\n  static: true\n",
            "5:11: build.static: is for cargo builds; a command links its programs itself",
        ),
        ("  cargo:\n  static: yes\n", "4:11: build.static: true or false is needed, not \"yes\""),
        ("  cargo: { bins: [--all] }\n", "3:19: build.cargo.bins[0]: \"--all\" is no name that cargo knows"),
        ("  cargo: { bins: 'a,b' }\n", "3:18: build.cargo.bins: a list is needed, not a single value"),
    ];
    for (text, expected) in table {
        refused(&format!("app: a\nbuild:\n{text}"), expected);
    }
}

#[test]
fn fetched_files_are_read_or_refused() {
    let text = |file: &str| format!("app: a\nbuild:\n  command: make\n  output: dist\n  fetch: [ {{ {file} }} ]\n");
    let (hex, url) = ("0".repeat(64), "https://example.org/a");
    let file = |digest| FetchedFile { url: url.into(), digest, to: PathText::new("data/a").expect("a path") };
    let blake3 = good(&text(&format!("url: '{url}', blake3: {hex}, to: data/a"))).build.fetch;
    assert_eq!(blake3, [file(FetchedDigest::Blake3(hex.clone()))]);
    let sha256 = good(&text(&format!("url: '{url}', sha256: {hex}, to: data/a"))).build.fetch;
    assert_eq!(sha256, [file(FetchedDigest::Sha256(hex.clone()))]);
    let table = [
        (format!("url: '{url}', to: a"), "5:12: build.fetch[0]: exactly one of blake3 and sha256 is needed".to_owned()),
        (
            format!("url: '{url}', to: a, sha256: abc"),
            format!("5:12: build.fetch[0]: \"{url}\" needs a digest of 64 lower-case hexadecimal digits"),
        ),
        (
            format!("url: 'http://example.org/', to: a, sha256: {hex}"),
            "5:12: build.fetch[0]: \"http://example.org/\" is not encrypted; http is for loopback addresses only".to_owned(),
        ),
        (format!("url: '{url}', sha256: {hex}"), "5:12: build.fetch[0]: \"to\" is missing".to_owned()),
        (
            format!("url: '{url}', sha256: {hex}, to: a }}, {{ url: '{url}', sha256: {hex}, to: a"),
            "5:237: build.fetch[1].to: \"a\" stands here already".to_owned(),
        ),
    ];
    for (file, expected) in table {
        refused(&text(&file), &expected);
    }
    refused(
        &format!("app: a\nbuild:\n  cargo:\n  fetch: [ {{ url: '{url}', sha256: {hex}, to: a }} ]\n"),
        "4:10: build.fetch: is for command builds; cargo fetches what Cargo.lock names",
    );
}

#[test]
fn a_static_program_is_asked_for() {
    assert!(good("app: a\nbuild: { cargo: , static: true }\n").build.is_static);
    assert!(!good("app: a\nbuild: { cargo: , static: false }\n").build.is_static);
}
