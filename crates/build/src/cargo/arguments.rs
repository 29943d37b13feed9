//! What cargo is told: the same words for the same build, wherever it runs.
//!
//! Path remapping and the project's own flags: `RUSTFLAGS` in the environment would silence `rustflags` of the commit's `.cargo/config.toml`, and so would
//! either of cargo's tables the other. `--config` joins arrays instead, so the remapping goes into `build.rustflags`, and into the target's table as
//! well exactly when some configuration has flags for a target, which is when cargo would not look at `build.rustflags`.

use std::path::Path;

use df_core::spec::CargoBuild;

use super::choose::Programs;
use crate::fit::static_program;
use crate::recipe::TARGET;
use crate::recipe::environment::Host;

/// One `cargo build`.
pub(super) struct Build<'a> {
    pub wanted: &'a CargoBuild,
    pub package: &'a str,
    pub programs: &'a Programs,
    pub is_static: bool,
    pub target_dir: &'a Path,
    /// Prefixes of paths and what a program holds in their place.
    pub maps: Vec<(String, String)>,
    /// All configuration that cargo reads, in any order.
    pub config: &'a str,
}

impl Build<'_> {
    /// Returns the arguments, without those that choose what cargo says.
    pub fn arguments(&self) -> Vec<String> {
        let wanted = self.wanted;
        let mut args = vec!["build".to_owned(), "--locked".into(), "--offline".into()];
        args.push(format!("--profile={}", wanted.profile));
        args.push(format!("--package={}", self.package));
        args.push(format!("--target-dir={}", self.target_dir.display()));
        args.extend(static_program::cargo_args(self.is_static));
        args.extend(self.programs.bins.iter().map(|name| format!("--bin={name}")));
        args.extend(self.programs.examples.iter().map(|name| format!("--example={name}")));
        args.extend((!wanted.features.is_empty()).then(|| format!("--features={}", wanted.features.join(","))));
        args.extend((!wanted.default_features).then(|| "--no-default-features".to_owned()));
        args.extend(self.flags());
        args
    }

    fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = self.maps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
        flags.extend(static_program::compiler_flags(self.is_static));
        // A JSON list of strings is a TOML one too.
        let list = serde_json::to_string(&flags).expect("strings");
        let mut args = vec!["--config".to_owned(), format!("build.rustflags={list}")];
        if has_target_flags(self.config) {
            args.extend(["--config".to_owned(), format!("target.{TARGET}.rustflags={list}")]);
        }
        args
    }
}

/// Returns the prefixes that must not reach a program, the most special last, as compilers want it.
pub(super) fn prefixes(host: &Host, room: &Path) -> Vec<(String, String)> {
    let map = |from: &Path, to: &str| (from.to_string_lossy().into_owned(), to.to_owned());
    vec![map(&host.rustup_home, "/df/rustup"), map(&host.cargo_home, "/df/cargo"), map(room, "/df")]
}

/// Returns the prefix of the standard library's own sources: with the rust-src component rustc would name the place where they lie, without it this.
pub(super) fn of_standard_library(sysroot: Option<&str>, commit_hash: Option<&str>) -> Option<(String, String)> {
    Some((format!("{}/lib/rustlib/src/rust", sysroot?), format!("/rustc/{}", commit_hash?)))
}

/// Returns whether a cargo configuration has flags for a target: then cargo does not look at `build.rustflags`.
fn has_target_flags(config: &str) -> bool {
    let mut in_target = false;
    config.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            in_target = line.trim_start_matches(['[', ' ', '"', '\'']).starts_with("target");
        }
        let key = line.split('=').next().unwrap_or_default();
        let names_flags = key.trim().trim_matches(['"', '\'']).ends_with("rustflags");
        (in_target && names_flags) || (line.starts_with("target") && line.contains("rustflags"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_for_a_target_are_noticed() {
        for config in [
            "[target.x86_64-unknown-linux-gnu]\nrustflags = ['-g']",
            "[target.'cfg(unix)']\nlinker = 'x'\nrustflags=['-g']",
            "target.x86_64-unknown-linux-gnu.rustflags = ['-g']",
        ] {
            assert!(has_target_flags(config), "{config}");
        }
        for config in ["", "[build]\nrustflags = ['-g']", "build.rustflags = []", "[target.x]\nlinker='c'\n[build]\nrustflags=[]"]
        {
            assert!(!has_target_flags(config), "{config}");
        }
    }
}
