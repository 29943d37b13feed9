//! `sandbox: strict`: cargo in rooms, over a layer of dependencies that was made by a build that saw nothing of the commit's code.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::AtomicBool;

use df_core::spec::CargoBuild;
use df_core::text::escape;
use df_core::{Digest, Manifest};

use super::arguments::{Build, of_standard_library};
use super::choose::{check_inside, choose_package, choose_programs};
use super::messages::{Listener, MESSAGE_LEN, SAY_JSON};
use super::{CargoError, below, ended, parse};
use crate::documents::Packages;
use crate::fetch::Lock;
use crate::keep::Keep;
use crate::layer;
use crate::layer::stub;
use crate::layer::units::{Ingredients, Units, name_of};
use crate::log::Log;
use crate::process::{self, Order};
use crate::recipe::toolchain::Toolchain;
use crate::rooms::{self, Place, Rooms, SOURCE, TARGET_DIR};
use crate::run::BuildEvent;
use crate::sandbox::Mount;

/// What stands for all paths of a room in a program.
const REMAPPED: (&str, &str) = ("/df", "/built");
/// What leads to parts that a layer cannot know: then there is none. An included file may be anywhere; a path leads to files that a stub lacks.
const UNKNOWABLE: [&str; 3] = ["include", "relative", SOURCE];

/// Where and with what cargo works.
pub(crate) struct Strict<'a> {
    pub keep: &'a Keep,
    pub rooms: &'a Rooms,
    /// The source on the host, and what it holds.
    pub source: &'a Path,
    pub manifest: &'a Manifest,
    /// Directories of vendored packages, below the source.
    pub vendored: &'a [String],
    pub lock: &'a Lock,
    /// cargo's configuration in the room besides the commit's.
    pub config: &'a str,
    pub environment: &'a BTreeMap<String, String>,
    pub toolchain: &'a Toolchain,
    pub is_static: bool,
    /// Build as if nothing was ever compiled here.
    pub from_nothing: bool,
    pub log: &'a mut Log,
    pub cancel: &'a AtomicBool,
    pub events: &'a mut dyn FnMut(BuildEvent),
}

/// What cargo made.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Each program and its file below `dir`.
    pub programs: Vec<(String, PathBuf)>,
    /// What the build wrote of its target directory; it goes with the rooms.
    pub dir: PathBuf,
    /// The dependency layer that was used.
    pub layer: Option<Digest>,
    /// All packages that are in it.
    pub packages: Packages,
}

impl Strict<'_> {
    /// Builds the programs that are wanted.
    pub fn build(&mut self, wanted: &CargoBuild) -> Result<Compiled, CargoError> {
        let source = self.rooms.over(self.source, "src", SOURCE).map_err(place)?;
        let asked = self.rooms.fresh("target", TARGET_DIR).map_err(place)?;
        let home = rooms::cargo_home(self.rooms, &self.keep.dir.join("cargo"), self.config).map_err(place)?;

        let metadata = parse(&self.ask("cargo metadata", &METADATA.map(str::to_owned), &source, &asked, &home)?)?;
        check_inside(&metadata, Path::new(SOURCE))?;
        let package = choose_package(&metadata, wanted)?;
        let programs = choose_programs(package, wanted)?;
        let config = self.own_config();
        let build = Build {
            wanted,
            package: &package.id.repr,
            programs: &programs,
            is_static: self.is_static,
            target_dir: Path::new(TARGET_DIR),
            maps: self.maps(),
            config: &config,
        };
        let mut arguments = build.arguments();
        // Where a configuration may move everything but the programs to.
        arguments.extend(["--config".to_owned(), format!("build.build-dir=\"{TARGET_DIR}\"")]);

        let units = self.units(&arguments, &source, &asked, &home)?;
        let layer = match &units {
            Some(units) if !self.from_nothing => self.layer(units, &arguments, &config, &home)?,
            _ => None,
        };
        let (target, total) = match (&layer, &units) {
            (Some((_, lower)), Some(units)) => {
                (self.rooms.put_over(lower, asked, "target").map_err(place)?, units.n_compiled().1)
            }
            (_, Some(units)) => (asked, units.n_compiled().0 + units.n_compiled().1),
            (_, None) => (asked, self.lock.packages.len()),
        };
        (self.events)(BuildEvent::Phase("compile"));
        let is_new = |id: &str| layer.is_none() || units.as_ref().is_none_or(|units| !units.is_layered(id));
        let (status, listener, _) = self.compile(&arguments, &source.mount, &target, &home, total, &is_new)?;
        if !status.success() {
            return Err(ended("cargo build", status));
        }
        let packages = listener.packages().clone();
        let programs = listener.programs(&package.id, &programs)?;
        let programs = below(Path::new(TARGET_DIR), programs)?;
        Ok(Compiled { programs, dir: target.written, layer: layer.map(|(key, _)| key), packages })
    }

    /// Asks for the unit graph; `None` when cargo has none to tell: building without says why, if it is an error.
    fn units(
        &mut self,
        arguments: &[String],
        source: &Place,
        target: &Place,
        home: &[Mount],
    ) -> Result<Option<Units>, CargoError> {
        let mut args = arguments.to_vec();
        args.extend(["-Zunstable-options", "--unit-graph"].map(str::to_owned));
        let mut environment = self.environment.clone();
        // The graph is not yet a stable part of cargo; nothing is compiled with this.
        environment.insert("RUSTC_BOOTSTRAP".into(), "1".into());
        let mut said = vec![];
        let mounts = [source.mount.clone(), target.mount.clone()];
        let status = self.run(&args, &environment, mounts, home, &mut |bytes, _| take(&mut said, bytes))?;
        Ok(status.success().then(|| Units::parse(&said)).flatten())
    }

    /// Finds or makes the layer of dependencies.
    fn layer(
        &mut self,
        units: &Units,
        arguments: &[String],
        config: &str,
        home: &[Mount],
    ) -> Result<Option<(Digest, PathBuf)>, CargoError> {
        if units.n_compiled().0 == 0 || UNKNOWABLE.iter().any(|word| config.contains(word)) {
            return Ok(None);
        }
        let has_vendored = self.vendored.iter().any(|dir| units.has_layered_below(&format!("{SOURCE}/{dir}")));
        let vendored = if has_vendored { self.vendored } else { &[] };
        if !stub::are_whole(self.manifest, vendored) {
            return Ok(None);
        }
        let mut files = stub::files_that_count(self.manifest, vendored);
        files.push(self.config.to_owned());
        // Which package and which of its programs is of no matter to a dependency; the units tell what is.
        let flags: Vec<String> = arguments.iter().filter(|arg| !is_choice(arg)).cloned().collect();
        let key = units.layer_key(&Ingredients {
            toolchain: &self.toolchain.versions,
            environment: self.environment,
            arguments: &flags,
            files: &files,
            lock: self.lock,
        });
        let Some(key) = key else { return Ok(None) };
        if let Some(target) = layer::find(self.keep, key) {
            return Ok(Some((key, target)));
        }
        if layer::is_impossible(self.keep, key) {
            return Ok(None);
        }
        let made = self.make_layer(units, key, arguments, vendored, home)?;
        if made.is_none() {
            layer::note_impossible(self.keep, key);
            self.log.add(b"df: the dependencies cannot be compiled apart; all is compiled together\n");
        }
        Ok(made.map(|target| (key, target)))
    }

    /// Compiles the dependencies of a stub; `None` when not all of them could be.
    fn make_layer(
        &mut self,
        units: &Units,
        key: Digest,
        arguments: &[String],
        vendored: &[String],
        home: &[Mount],
    ) -> Result<Option<PathBuf>, CargoError> {
        (self.events)(BuildEvent::Phase("dependencies"));
        let stub = self.rooms.make("stub").map_err(place)?;
        // A tree that no stub can be made of is a tree without a layer.
        if stub::write(&stub::plan(self.manifest, vendored), vendored, self.source, &stub).is_err() {
            return Ok(None);
        }
        let target = self.rooms.fresh("dependencies", TARGET_DIR).map_err(place)?;
        let total = units.n_compiled().0;
        let mut mounts = home.to_vec();
        mounts.extend(
            vendored.iter().map(|dir| Mount::ReadOnly { host: self.source.join(dir), inside: Path::new(SOURCE).join(dir) }),
        );
        let mut args = arguments.to_vec();
        // What needs a stub of the commit's own packages fails, and is compiled with them later.
        args.push("--keep-going".into());
        let source = Mount::ReadOnly { host: stub, inside: SOURCE.into() };
        let is_layered = |id: &str| units.is_layered(id);
        let (_, _, n_made) = self.compile(&args, &source, &target, &mounts, total, &is_layered)?;
        if n_made < total {
            return Ok(None);
        }
        match layer::put(self.keep, key, &target.written, &units.layered_names(), vendored) {
            // A build script may leave what even we cannot read; no reason to fail.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            made => made.map_err(place),
        }
    }

    /// Runs a build; tells of each call of the compiler that `counts`, by the id of its package.
    fn compile(
        &mut self,
        arguments: &[String],
        source: &Mount,
        target: &Place,
        home: &[Mount],
        total: usize,
        counts: &dyn Fn(&str) -> bool,
    ) -> Result<(ExitStatus, Listener, usize), CargoError> {
        let mut args = arguments.to_vec();
        args.push(SAY_JSON.into());
        let (mut listener, mut done) = (Listener::default(), 0);
        let mut seen = HashSet::new();
        let room = self.rooms.room(self.mounts([source.clone(), target.mount.clone()], home));
        let program = self.program();
        let mut environment = self.environment.clone();
        if self.from_nothing {
            // Another number than any machine's: nothing may depend on it.
            environment.insert("CARGO_BUILD_JOBS".into(), "1".into());
        }
        let order =
            Order { program: &program, args: &args, dir: Path::new(SOURCE), environment: &environment, room: Some(&room) };
        let events = &mut *self.events;
        let status = process::run(&order, self.log, self.cancel, &mut |bytes, log| {
            listener.hear(bytes, log, &mut |artifact| {
                let what = (artifact.package_id.clone(), artifact.target.clone(), artifact.filenames.clone());
                if counts(&artifact.package_id.repr) && seen.insert(what) {
                    done += 1;
                    let name = escape(name_of(&artifact.package_id.repr).as_bytes());
                    events(BuildEvent::Compiled { done: done.min(total), total, name });
                }
            });
        })?;
        Ok((status, listener, done))
    }

    fn ask(
        &mut self,
        what: &'static str,
        args: &[String],
        source: &Place,
        target: &Place,
        home: &[Mount],
    ) -> Result<Vec<u8>, CargoError> {
        let (mut said, environment) = (vec![], self.environment.clone());
        let mounts = [source.mount.clone(), target.mount.clone()];
        let status = self.run(args, &environment, mounts, home, &mut |bytes, _| take(&mut said, bytes))?;
        match status.success() {
            true => Ok(said),
            false if self.log.last_lines().iter().any(|line| line.contains("--locked was passed")) => Err(CargoError::StaleLock),
            false => Err(ended(what, status)),
        }
    }

    fn run(
        &mut self,
        args: &[String],
        environment: &BTreeMap<String, String>,
        mounts: [Mount; 2],
        home: &[Mount],
        out: &mut dyn FnMut(&[u8], &mut Log),
    ) -> Result<ExitStatus, CargoError> {
        let (room, program) = (self.rooms.room(self.mounts(mounts, home)), self.program());
        let order = Order { program: &program, args, dir: Path::new(SOURCE), environment, room: Some(&room) };
        Ok(process::run(&order, self.log, self.cancel, out)?)
    }

    fn mounts(&self, places: [Mount; 2], home: &[Mount]) -> Vec<Mount> {
        let toolchain = rooms::toolchain(self.toolchain.sysroot.as_deref());
        // The home comes last: parts of it may lie in the source.
        toolchain.into_iter().chain(places).chain(home.iter().cloned()).collect()
    }

    /// Returns cargo, as it is called inside.
    fn program(&self) -> PathBuf {
        let (sysroot, bin) = (self.toolchain.sysroot.as_deref().unwrap_or_default(), self.toolchain.bin.as_deref());
        match bin.and_then(|bin| Some((bin, bin.strip_prefix(sysroot).ok()?))) {
            Some((_, below)) => Path::new(rooms::sysroot_inside(sysroot)).join(below).join("cargo"),
            None => bin.unwrap_or(Path::new("/usr/bin")).join("cargo"),
        }
    }

    fn maps(&self) -> Vec<(String, String)> {
        let (from, to) = REMAPPED;
        let sysroot = self.toolchain.sysroot.as_deref().map(rooms::sysroot_inside);
        let standard = of_standard_library(sysroot, self.toolchain.commit_hash.as_deref());
        std::iter::once((from.to_owned(), to.to_owned())).chain(standard).collect()
    }

    /// Returns the text of all configuration that cargo reads.
    fn own_config(&self) -> String {
        let read = |name: &str| std::fs::read(self.source.join(".cargo").join(name)).unwrap_or_default();
        let bytes = [read("config.toml"), b"\n".to_vec(), read("config"), b"\n".to_vec()].concat();
        String::from_utf8_lossy(&bytes).into_owned() + self.config
    }
}

/// Which packages the workspace has; what they need, the unit graph says.
const METADATA: [&str; 5] = ["metadata", "--format-version=1", "--locked", "--offline", "--no-deps"];

fn is_choice(arg: &str) -> bool {
    ["--package=", "--bin=", "--example=", "--features=", "--no-default-features"].iter().any(|choice| arg.starts_with(choice))
}

fn take(said: &mut Vec<u8>, bytes: &[u8]) {
    if said.len() + bytes.len() <= MESSAGE_LEN {
        said.extend_from_slice(bytes);
    }
}

fn place(source: io::Error) -> CargoError {
    CargoError::Place { source }
}
