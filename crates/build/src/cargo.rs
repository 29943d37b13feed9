//! A cargo project: what it holds, what is missing, what is stale, what it gave.
//!
//! Path remapping and the project's own flags: `RUSTFLAGS` in the environment would silence `rustflags` of the commit's `.cargo/config.toml`, and so would
//! either of cargo's tables the other. `--config` joins arrays instead, so the remapping goes into `build.rustflags`, and into the target's table as
//! well exactly when some configuration has flags for a target, which is when cargo would not look at `build.rustflags`.
//!
//! Freshness: cargo compares times, and here all times are equal. So every package whose files the commit holds, vendored ones too, is cleaned before
//! each build; what a kept target directory contributes are packages of registries and of git revisions, which cannot change under their id.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::AtomicBool;

use cargo_metadata::{Message, Metadata, MetadataCommand, Package, PackageId};
use df_core::spec::CargoBuild;
use df_core::text::{escape, shorten};

use crate::environment::Host;
use crate::log::Log;
use crate::process::{self, Order, ProcessError};
use crate::recipe::TARGET;
use crate::run::BuildEvent;
use crate::static_program;
use crate::toolchain::{Toolchain, cargo_config_above};

/// Bytes of what `cargo metadata` says, and of one message of `cargo build`.
const MESSAGE_LEN: usize = 256 << 20;

/// A cargo project cannot be built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CargoError {
    #[error("the commit has no Cargo.toml at its top")]
    NoManifest,
    #[error(
        "the commit has no Cargo.lock; run cargo generate-lockfile and commit it, so that each build uses the same dependencies"
    )]
    NoLock,
    #[error("Cargo.lock does not fit Cargo.toml; run cargo check and commit the Cargo.lock that it writes")]
    StaleLock,
    #[error("the package {package} lies outside of the commit, at {path}")]
    Outside { package: String, path: String },
    #[error("there is no package {name} in the commit; it has {known}")]
    NoPackage { name: String, known: String },
    #[error("the commit has several packages ({known}); name one in build.cargo.package")]
    WhichPackage { known: String },
    #[error("the package {package} has no {kind} {name}; it has {known}")]
    NoTarget { package: String, kind: &'static str, name: String, known: String },
    #[error("the package {package} has no programs; name one in build.cargo.bins or build.cargo.examples")]
    NoPrograms { package: String },
    #[error("cargo built no program {name}")]
    NotBuilt { name: String },
    #[error("what {what} said cannot be read")]
    Unreadable { what: &'static str, source: cargo_metadata::Error },
    #[error("{what} ended with {how}")]
    Ended { what: &'static str, how: String },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Where and with what cargo works.
pub(crate) struct Cargo<'a> {
    pub source: &'a Path,
    pub target_dir: &'a Path,
    pub host: &'a Host,
    pub environment: &'a BTreeMap<String, String>,
    pub toolchain: &'a Toolchain,
    /// Whether programs hold their C library themselves.
    pub is_static: bool,
    pub log: &'a mut Log,
    pub cancel: &'a AtomicBool,
    pub events: &'a mut dyn FnMut(BuildEvent),
}

/// Returns the whole environment of cargo: C code gets the same path remapping as Rust code.
pub(crate) fn environment(host: &Host, room: &Path) -> BTreeMap<String, String> {
    let mut environment = host.environment();
    // Incremental compilation gives other bits than compiling at once.
    environment.insert("CARGO_INCREMENTAL".into(), "0".into());
    let maps = prefixes(host, room);
    // Compilers split these variables at blanks and know no quotes: no remapping rather than a broken line; the scan for build paths tells.
    if !maps.iter().any(|(from, _)| from.contains(char::is_whitespace)) {
        let flags: Vec<String> = maps.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
        environment.insert("CFLAGS".into(), flags.join(" "));
        environment.insert("CXXFLAGS".into(), flags.join(" "));
    }
    environment
}

impl Cargo<'_> {
    /// Builds the programs that are wanted; returns each one's name and file.
    pub fn build(&mut self, wanted: &CargoBuild) -> Result<Vec<(String, PathBuf)>, CargoError> {
        for (file, error) in [("Cargo.toml", CargoError::NoManifest), ("Cargo.lock", CargoError::NoLock)] {
            if !self.source.join(file).is_file() {
                return Err(error);
            }
        }
        let metadata = self.metadata()?;
        check_inside(&metadata, self.source)?;
        let package = choose_package(&metadata, wanted)?;
        let programs = choose_programs(package, wanted)?;
        self.clean(&metadata, wanted)?;
        (self.events)(BuildEvent::Phase("compile"));
        self.compile(&metadata, package, wanted, &programs)
    }

    /// Asks what the workspace holds, without network if all dependencies are here, else after fetching exactly what the lock names.
    fn metadata(&mut self) -> Result<Metadata, CargoError> {
        let args = ["metadata", "--format-version=1", "--locked", "--offline", "--all-features", "--filter-platform", TARGET];
        let (status, said) = self.ask(&args)?;
        if status.success() {
            return parse(&said);
        }
        self.refuse_stale_lock()?;
        (self.events)(BuildEvent::Phase("fetch"));
        let mut environment = self.environment.clone();
        environment.extend(self.host.network.clone());
        let fetch = ["fetch", "--locked", "--target", TARGET].map(str::to_owned);
        let status = self.run(&fetch, &environment, &mut |bytes, log| log.add(bytes))?;
        if !status.success() {
            self.refuse_stale_lock()?;
            return Err(ended("cargo fetch", status));
        }
        match self.ask(&args)? {
            (status, said) if status.success() => parse(&said),
            (status, _) => Err(ended("cargo metadata", status)),
        }
    }

    fn refuse_stale_lock(&mut self) -> Result<(), CargoError> {
        let stale = self.log.last_lines().iter().any(|line| line.contains("--locked was passed"));
        if stale { Err(CargoError::StaleLock) } else { Ok(()) }
    }

    fn clean(&mut self, metadata: &Metadata, wanted: &CargoBuild) -> Result<(), CargoError> {
        if !self.target_dir.is_dir() {
            return Ok(());
        }
        let mut args = vec!["clean".to_owned(), "--locked".into(), "--offline".into(), format!("--profile={}", wanted.profile)];
        args.push(format!("--target-dir={}", self.target_dir.display()));
        args.extend(static_program::cargo_args(self.is_static));
        args.extend(in_source(metadata, self.source).map(|package| format!("--package={}", package.id)));
        let status = self.run(&args, self.environment, &mut |bytes, log| log.add(bytes))?;
        if status.success() { Ok(()) } else { Err(ended("cargo clean", status)) }
    }

    fn compile(
        &mut self,
        metadata: &Metadata,
        package: &Package,
        wanted: &CargoBuild,
        programs: &Programs,
    ) -> Result<Vec<(String, PathBuf)>, CargoError> {
        let mut args =
            vec!["build".to_owned(), "--locked".into(), "--offline".into(), "--message-format=json-render-diagnostics".into()];
        args.push(format!("--profile={}", wanted.profile));
        args.push(format!("--package={}", package.id));
        args.push(format!("--target-dir={}", self.target_dir.display()));
        args.extend(static_program::cargo_args(self.is_static));
        args.extend(programs.bins.iter().map(|name| format!("--bin={name}")));
        args.extend(programs.examples.iter().map(|name| format!("--example={name}")));
        args.extend((!wanted.features.is_empty()).then(|| format!("--features={}", wanted.features.join(","))));
        args.extend((!wanted.default_features).then(|| "--no-default-features".to_owned()));
        args.extend(self.remapping());
        let total = n_reachable(metadata, &package.id);
        let (mut done, mut found) = (HashSet::new(), HashMap::new());
        let mut lines = Lines::default();
        let mut heard = vec![];
        let environment = self.environment;
        let order = self.order(&args, environment)?;
        let events = &mut *self.events;
        let status = process::run(&order.as_order(), self.log, self.cancel, &mut |bytes, log| {
            for line in lines.take(bytes) {
                let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_slice::<Message>(&line) else {
                    // Everything else that is a message is rendered on stderr too; what is no message is what some program printed.
                    if !line.starts_with(b"{") {
                        log.add(&[&line[..], b"\n"].concat());
                    }
                    continue;
                };
                if done.insert(artifact.package_id.clone()) {
                    events(BuildEvent::Compiled {
                        done: done.len().min(total),
                        total,
                        name: name_of(metadata, &artifact.package_id),
                    });
                }
                if let Some(executable) = artifact.executable.clone().filter(|_| artifact.package_id == package.id) {
                    heard.push((artifact.target, executable.into_std_path_buf()));
                }
            }
        })?;
        if !status.success() {
            return Err(ended("cargo build", status));
        }
        for (target, executable) in heard {
            if (target.is_bin() && programs.bins.contains(&target.name))
                || (target.is_example() && programs.examples.contains(&target.name))
            {
                found.insert(target.name, executable);
            }
        }
        let take = |name: &String| {
            found.remove(name).map(|file| (name.clone(), file)).ok_or(CargoError::NotBuilt { name: name.clone() })
        };
        programs.bins.iter().chain(&programs.examples).map(take).collect()
    }

    fn remapping(&self) -> Vec<String> {
        let room = self.source.parent().unwrap_or(self.source);
        let mut maps = prefixes(self.host, room);
        // The standard library's own sources: with the rust-src component rustc would name the place where they lie, without it this.
        if let (Some(sysroot), Some(commit)) = (&self.toolchain.sysroot, &self.toolchain.commit_hash) {
            maps.push((format!("{sysroot}/lib/rustlib/src/rust"), format!("/rustc/{commit}")));
        }
        let mut flags: Vec<String> = maps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
        flags.extend(static_program::compiler_flags(self.is_static));
        // A JSON list of strings is a TOML one too.
        let list = serde_json::to_string(&flags).expect("strings");
        let mut args = vec!["--config".to_owned(), format!("build.rustflags={list}")];
        let mut config = cargo_config_above(self.host, self.source);
        for name in [".cargo/config.toml", ".cargo/config"] {
            config.push(b'\n');
            config.extend(fs::read(self.source.join(name)).unwrap_or_default());
        }
        if has_target_flags(&String::from_utf8_lossy(&config)) {
            args.extend(["--config".to_owned(), format!("target.{TARGET}.rustflags={list}")]);
        }
        args
    }

    fn ask(&mut self, args: &[&str]) -> Result<(ExitStatus, Vec<u8>), CargoError> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut said = vec![];
        let status = self.run(&args, self.environment, &mut |bytes, _| {
            if said.len() + bytes.len() <= MESSAGE_LEN {
                said.extend_from_slice(bytes);
            }
        })?;
        Ok((status, said))
    }

    fn run(
        &mut self,
        args: &[String],
        environment: &BTreeMap<String, String>,
        out: &mut dyn FnMut(&[u8], &mut Log),
    ) -> Result<ExitStatus, CargoError> {
        let order = self.order(args, environment)?;
        Ok(process::run(&order.as_order(), self.log, self.cancel, out)?)
    }

    fn order(&self, args: &[String], environment: &BTreeMap<String, String>) -> Result<OwnedOrder, CargoError> {
        let program = self
            .host
            .find("cargo")
            .ok_or_else(|| ProcessError::Start { program: "cargo".into(), source: std::io::ErrorKind::NotFound.into() })?;
        Ok(OwnedOrder { program, args: args.to_vec(), dir: self.source.into(), environment: environment.clone() })
    }
}

struct OwnedOrder {
    program: PathBuf,
    args: Vec<String>,
    dir: PathBuf,
    environment: BTreeMap<String, String>,
}

impl OwnedOrder {
    fn as_order(&self) -> Order<'_> {
        Order { program: &self.program, args: &self.args, dir: &self.dir, environment: &self.environment, room: None }
    }
}

struct Programs {
    bins: Vec<String>,
    examples: Vec<String>,
}

/// Cuts a stream into lines; a line beyond the bound is dropped.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = vec![];
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            if self.0.len() + part.len() <= MESSAGE_LEN {
                self.0.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.0);
                line.pop();
                lines.push(line);
            }
        }
        lines
    }
}

/// The prefixes that must not reach a program, the most special last, as compilers want it.
fn prefixes(host: &Host, room: &Path) -> Vec<(String, String)> {
    let map = |from: &Path, to: &str| (from.to_string_lossy().into_owned(), to.to_owned());
    vec![map(&host.rustup_home, "/df/rustup"), map(&host.cargo_home, "/df/cargo"), map(room, "/df")]
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

fn ended(what: &'static str, status: ExitStatus) -> CargoError {
    CargoError::Ended { what, how: process::ending(status) }
}

fn name_of(metadata: &Metadata, id: &PackageId) -> String {
    let package = metadata.packages.iter().find(|package| package.id == *id);
    escape(package.map_or(id.repr.as_str(), |package| package.name.as_str()).as_bytes())
}

fn parse(said: &[u8]) -> Result<Metadata, CargoError> {
    MetadataCommand::parse(String::from_utf8_lossy(said))
        .map_err(|source| CargoError::Unreadable { what: "cargo metadata", source })
}

/// Returns the packages whose files the commit holds: its own, and vendored ones. The latter say that a registry is their source, and cargo trusts the
/// checksum of the whole package that stands beside them, which an edited file need not have changed.
fn in_source<'a>(metadata: &'a Metadata, source: &'a Path) -> impl Iterator<Item = &'a Package> {
    metadata.packages.iter().filter(move |package| package.source.is_none() || package.manifest_path.starts_with(source))
}

/// Returns the packages that come from the source: those that have no registry and no git revision.
fn local(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|package| package.source.is_none())
}

fn check_inside(metadata: &Metadata, source: &Path) -> Result<(), CargoError> {
    let outside = |path: &Path| !path.starts_with(source);
    if outside(metadata.workspace_root.as_std_path()) {
        return Err(CargoError::Outside {
            package: "the workspace".into(),
            path: escape(metadata.workspace_root.as_str().as_bytes()),
        });
    }
    match local(metadata).find(|package| outside(package.manifest_path.as_std_path())) {
        Some(package) => {
            let path = escape(package.manifest_path.as_str().as_bytes());
            Err(CargoError::Outside { package: escape(package.name.as_bytes()), path })
        }
        None => Ok(()),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| escape(name.as_bytes())).collect();
    if names.is_empty() { "none".to_owned() } else { shorten(&names.join(", "), 400) }
}

fn choose_package<'a>(metadata: &'a Metadata, wanted: &CargoBuild) -> Result<&'a Package, CargoError> {
    let members = metadata.workspace_packages();
    let known = || list(members.iter().map(|package| package.name.as_str()));
    match &wanted.package {
        Some(name) => members
            .iter()
            .find(|package| package.name.as_str() == name)
            .copied()
            .ok_or_else(|| CargoError::NoPackage { name: escape(name.as_bytes()), known: known() }),
        None => match (metadata.root_package(), &members[..]) {
            (Some(root), _) => Ok(root),
            (None, [only]) => Ok(only),
            (None, _) => Err(CargoError::WhichPackage { known: known() }),
        },
    }
}

fn choose_programs(package: &Package, wanted: &CargoBuild) -> Result<Programs, CargoError> {
    let bins: Vec<String> = package.targets.iter().filter(|target| target.is_bin()).map(|target| target.name.clone()).collect();
    let examples: Vec<String> =
        package.targets.iter().filter(|target| target.is_example()).map(|target| target.name.clone()).collect();
    let check = |kind, names: &[String], known: &[String]| match names.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(CargoError::NoTarget {
            package: escape(package.name.as_bytes()),
            kind,
            name: escape(name.as_bytes()),
            known: list(known.iter().map(String::as_str)),
        }),
        None => Ok(()),
    };
    check("program", &wanted.bins, &bins)?;
    check("example", &wanted.examples, &examples)?;
    if !wanted.bins.is_empty() || !wanted.examples.is_empty() {
        return Ok(Programs { bins: wanted.bins.clone(), examples: wanted.examples.clone() });
    }
    if bins.is_empty() {
        return Err(CargoError::NoPrograms { package: escape(package.name.as_bytes()) });
    }
    Ok(Programs { bins, examples: vec![] })
}

/// Returns how many packages the chosen one needs at most, itself counted: with all features and what only tests need, so often fewer are compiled.
fn n_reachable(metadata: &Metadata, from: &PackageId) -> usize {
    let Some(resolve) = &metadata.resolve else { return metadata.packages.len() };
    let nodes: HashMap<&PackageId, &[PackageId]> = resolve.nodes.iter().map(|node| (&node.id, &node.dependencies[..])).collect();
    let (mut seen, mut open) = (HashSet::from([from]), vec![from]);
    while let Some(id) = open.pop() {
        open.extend(nodes.get(id).into_iter().flat_map(|dependencies| dependencies.iter()).filter(|&id| seen.insert(id)));
    }
    seen.len()
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

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let mut lines = Lines::default();
        assert!(lines.take(b"ab").is_empty());
        assert_eq!(lines.take(b"c\nd\n\ne"), [b"abc".to_vec(), b"d".to_vec(), vec![]]);
    }
}
