//! `sandbox: off`: cargo on the host itself, in a target directory that is kept.
//!
//! Freshness: cargo compares times, and here all times are equal. So every package whose files the commit holds, vendored ones too, is cleaned before
//! each build; what a kept target directory contributes are packages of registries and of git revisions, which cannot change under their id.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::AtomicBool;

use cargo_metadata::{Metadata, Package};
use df_core::spec::CargoBuild;

use super::arguments::{Build, of_standard_library, prefixes};
use super::choose::{Programs, check_inside, choose_package, choose_programs, in_source, n_reachable, name_of};
use super::messages::{Listener, MESSAGE_LEN, SAY_JSON};
use super::{CargoError, below, ended, parse};
use crate::fit::static_program;
use crate::log::Log;
use crate::process::{self, Order, ProcessError};
use crate::recipe::TARGET;
use crate::recipe::environment::Host;
use crate::recipe::toolchain::{Toolchain, cargo_config_above};
use crate::run::BuildEvent;

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
    /// Builds the programs that are wanted; returns each one's name and file below the target directory.
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
        let programs = self.compile(&metadata, package, wanted, &programs)?;
        below(self.target_dir, programs)
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
        let room = self.source.parent().unwrap_or(self.source);
        let mut maps = prefixes(self.host, room);
        maps.extend(of_standard_library(self.toolchain.sysroot.as_deref(), self.toolchain.commit_hash.as_deref()));
        let config = self.config();
        let build = Build {
            wanted,
            package: &package.id.repr,
            programs,
            is_static: self.is_static,
            target_dir: self.target_dir,
            maps,
            config: &config,
        };
        let mut args = build.arguments();
        args.push(SAY_JSON.into());
        let total = n_reachable(metadata, &package.id);
        let (mut done, mut listener) = (HashSet::new(), Listener::default());
        let environment = self.environment;
        let order = self.order(&args, environment)?;
        let events = &mut *self.events;
        let status = process::run(&order.as_order(), self.log, self.cancel, &mut |bytes, log| {
            listener.hear(bytes, log, &mut |artifact| {
                if done.insert(artifact.package_id.clone()) {
                    let name = name_of(metadata, &artifact.package_id);
                    events(BuildEvent::Compiled { done: done.len().min(total), total, name });
                }
            });
        })?;
        if !status.success() {
            return Err(ended("cargo build", status));
        }
        listener.programs(&package.id, programs)
    }

    /// Returns the text of all configuration that cargo reads.
    fn config(&self) -> String {
        let mut config = cargo_config_above(self.host, self.source);
        for name in [".cargo/config.toml", ".cargo/config"] {
            config.push(b'\n');
            config.extend(fs::read(self.source.join(name)).unwrap_or_default());
        }
        String::from_utf8_lossy(&config).into_owned()
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
