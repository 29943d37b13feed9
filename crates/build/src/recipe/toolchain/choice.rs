//! What a commit's rust-toolchain file asks for, and whether what is here fits it.

use serde::Deserialize;

use super::ToolchainError;

/// What a rust-toolchain file names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Choice {
    pub channel: Option<String>,
    #[serde(default)]
    pub components: Vec<String>,
    #[serde(default)]
    pub targets: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    toolchain: Choice,
}

/// Reads `rust-toolchain.toml`, or `rust-toolchain`, which may hold nothing but a channel.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Choice, ToolchainError> {
    refuse_path(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|_| ToolchainError::Unreadable)?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let choice = match (name, lines.next(), lines.next()) {
        ("rust-toolchain", Some(channel), None) if !channel.starts_with('[') && !channel.contains('=') => {
            Choice { channel: Some(channel.to_owned()), ..Choice::default() }
        }
        _ => toml::from_str::<File>(text).map_err(|_| ToolchainError::Unreadable)?.toolchain,
    };
    // They are shown in a line that a person is told to type.
    let is_plain = |word: &String| {
        !word.is_empty()
            && word.len() <= 100
            && !word.starts_with('-')
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    };
    let all_plain = choice.channel.iter().chain(&choice.components).chain(&choice.targets).all(is_plain);
    if all_plain { Ok(choice) } else { Err(ToolchainError::Unreadable) }
}

/// Returns whether a compiler that rustup did not choose is what a channel means: `1.95` is any 1.95.x; a date cannot be seen from a version.
pub(super) fn fits(channel: &str, version: &str) -> bool {
    let version = version.split(' ').next().unwrap_or_default();
    match channel {
        "stable" => !version.contains('-'),
        "beta" | "nightly" => version.contains(&format!("-{channel}")),
        _ => version == channel || (channel.split('.').count() == 2 && version.starts_with(&format!("{channel}."))),
    }
}

/// Returns the first component that is named and not among those that the toolchain lists as installed.
pub(super) fn lacking_component<'a>(choice: &'a Choice, installed: &str) -> Option<&'a str> {
    let installed: Vec<&str> = installed.lines().collect();
    let is_there = |name: &str| {
        let bare = name.strip_suffix("-preview").unwrap_or(name);
        let own = |line: &&str| {
            let line = line.strip_suffix(crate::recipe::TARGET).map_or(*line, |rest| rest.trim_end_matches('-'));
            line.strip_suffix("-preview").unwrap_or(line) == bare
        };
        installed.iter().any(own) || installed.contains(&name)
    };
    choice.components.iter().map(String::as_str).find(|name| !is_there(name))
}

/// A toolchain named by a path would run a program of the repository's choice before anyone agreed to run anything.
fn refuse_path(rust_toolchain: &[u8]) -> Result<(), ToolchainError> {
    let text = String::from_utf8_lossy(rust_toolchain);
    let names_a_path = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.contains("path") || line.contains('\\') || line.contains('/')
    };
    if text.lines().any(names_a_path) { Err(ToolchainError::NamedByPath) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_file_that_names_a_program_is_refused() {
        for text in [
            "[toolchain]\npath = \"/tmp/evil\"",
            "toolchain.path='/x'",
            "[toolchain]\n\"p\\u0061th\" = 'x'",
            "toolchain = { path = 'x' }",
            "/opt/x",
        ] {
            assert!(matches!(parse("rust-toolchain", text.as_bytes()), Err(ToolchainError::NamedByPath)), "{text}");
        }
        for text in
            ["[toolchain]\nchannel = \"1.95.0; rm\"", "[toolchain]\nchannel = '-h'", "\u{1b}[2J", "", "[toolchain]\nchannel=1"]
        {
            assert!(matches!(parse("rust-toolchain", text.as_bytes()), Err(ToolchainError::Unreadable)), "{text}");
        }
    }

    #[test]
    fn both_forms_of_the_file_are_read() {
        let text = "[toolchain]\nchannel = \"1.95.0\" # not a path\ncomponents = ['clippy']\ntargets = ['wasm32-wasip1']\nprofile = 'minimal'\n";
        let expected =
            Choice { channel: Some("1.95.0".into()), components: vec!["clippy".into()], targets: vec!["wasm32-wasip1".into()] };
        assert_eq!(parse("rust-toolchain.toml", text.as_bytes()).expect("it reads"), expected);
        assert_eq!(parse("rust-toolchain", text.as_bytes()).expect("it reads"), expected);
        let dated = parse("rust-toolchain", b"\nnightly-2026-01-31\n").expect("it reads");
        assert_eq!(dated.channel.as_deref(), Some("nightly-2026-01-31"));
    }

    #[test]
    fn a_compiler_without_rustup_has_to_be_the_one_that_is_named() {
        let table = [
            ("1.95.0", "1.95.0 (abc 2026-04-14)", true),
            ("1.95", "1.95.0 (abc 2026-04-14)", true),
            ("1.9", "1.95.0 (abc 2026-04-14)", false),
            ("1.94.0", "1.95.0 (abc 2026-04-14)", false),
            ("stable", "1.95.0", true),
            ("stable", "1.97.0-nightly (abc 2026-05-01)", false),
            ("nightly", "1.97.0-nightly (abc 2026-05-01)", true),
            ("nightly-2026-05-01", "1.97.0-nightly (abc 2026-05-01)", false),
        ];
        for (channel, version, expected) in table {
            assert_eq!(fits(channel, version), expected, "{channel} {version}");
        }
    }

    #[test]
    fn a_component_that_is_not_installed_is_found() {
        let choice = |names: &[&str]| Choice { components: names.iter().map(|n| (*n).into()).collect(), ..Choice::default() };
        let installed = "clippy-preview-x86_64-unknown-linux-gnu\nrust-src\nrustc-x86_64-unknown-linux-gnu\n";
        assert_eq!(lacking_component(&choice(&["clippy", "rust-src", "rustc", "clippy-preview"]), installed), None);
        assert_eq!(lacking_component(&choice(&["clippy", "miri"]), installed), Some("miri"));
    }
}
