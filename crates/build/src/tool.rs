//! The middle of a build: its tool runs on the source, and what it leaves goes to the output directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use df_core::name::PathText;
use df_core::spec::{BuildSection, BuildTool, CargoBuild, Sandbox};
use df_core::{Digest, Manifest};

use crate::cargo::{Cargo, CargoError, Compiled, Strict};
use crate::documents::Packages;
use crate::fetch;
use crate::keep::Keep;
use crate::log::Log;
use crate::output;
use crate::process::{self, Order, ProcessError};
use crate::recipe::environment::Host;
use crate::recipe::toolchain::Toolchain;
use crate::rooms::{self, Rooms, SOURCE};
use crate::run::{BuildError, BuildEvent};
use crate::sandbox::Room;

/// What a strict build's machine is called, and what another one is called that has to give the same.
pub(crate) const HOST_NAMES: (&str, &str) = ("df", "elsewhere");

/// What a tool used.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// The dependency layer.
    pub layer: Option<Digest>,
    /// The packages that were compiled or taken from the layer; `None` when that is not known.
    pub packages: Option<Packages>,
}

/// A build at work.
pub(crate) struct Tool<'a> {
    pub section: &'a BuildSection,
    pub toolchain: Option<&'a Toolchain>,
    pub environment: &'a BTreeMap<String, String>,
    pub host: &'a Host,
    pub keep: &'a Keep,
    /// Where strict builds make their rooms.
    pub site: &'a Path,
    /// The source on the host, and what it holds.
    pub source: &'a Path,
    pub manifest: &'a Manifest,
    /// Where cargo works without a sandbox; no path with one.
    pub target_dir: &'a Path,
    /// Build as if nothing was ever compiled here, under other conditions.
    pub from_nothing: bool,
    pub out: &'a Path,
    pub log: &'a mut Log,
    pub events: &'a mut dyn FnMut(BuildEvent),
    pub cancel: &'a AtomicBool,
}

impl Tool<'_> {
    /// Runs the tool; returns what it used.
    pub fn run(&mut self) -> Result<Used, BuildError> {
        let (section, toolchain) = (self.section, self.toolchain);
        if let BuildTool::Command { .. } = section.tool {
            self.fetch_files()?;
        }
        match (&section.tool, section.sandbox, toolchain) {
            (BuildTool::Cargo(wanted), Sandbox::Strict, Some(toolchain)) => self.cargo_in_rooms(wanted, toolchain),
            (BuildTool::Cargo(wanted), Sandbox::Off, Some(toolchain)) => self.cargo(wanted, toolchain).map(|()| Used::default()),
            (BuildTool::Command { command, output }, Sandbox::Strict, toolchain) => {
                self.command_in_room(command, output, toolchain).map(|()| Used::default())
            }
            (BuildTool::Command { command, output }, Sandbox::Off, _) => {
                let source = self.source;
                self.command(command, output, source, None, source).map(|()| Used::default())
            }
            (BuildTool::Cargo(_), _, None) | (BuildTool::Files, ..) => Ok(Used::default()),
        }
    }

    /// Puts the files that a command asks for into the source, before anything of the commit runs.
    fn fetch_files(&mut self) -> Result<(), BuildError> {
        let (files, source, events) = (&self.section.fetch, self.source, &mut *self.events);
        let mut fetching = || events(BuildEvent::Phase("fetch"));
        fetch::files(files, self.host, self.keep, source, self.log, self.cancel, &mut fetching).map_err(|error| match error {
            fetch::FilesError::Process(error) => process_failed(error),
            error => BuildError::Files(error),
        })
    }

    fn cargo(&mut self, wanted: &CargoBuild, toolchain: &Toolchain) -> Result<(), BuildError> {
        let target_dir = self.target_dir;
        let cargo = &mut Cargo {
            source: self.source,
            target_dir,
            host: self.host,
            environment: self.environment,
            toolchain,
            is_static: self.section.is_static,
            log: self.log,
            cancel: self.cancel,
            events: self.events,
        };
        let programs = cargo.build(wanted).map_err(|error| cargo_failed(error, self.log))?;
        Ok(output::programs(&programs, target_dir, self.out)?)
    }

    fn cargo_in_rooms(&mut self, wanted: &CargoBuild, toolchain: &Toolchain) -> Result<Used, BuildError> {
        let lock = fetch::fetch(self.source, toolchain, self.host, self.keep, self.log, self.cancel, self.events);
        let lock = lock.map_err(fetch_failed)?;
        let vendored: Vec<String> =
            fetch::vendored(self.source).map_err(fetch_failed)?.iter().filter_map(|dir| Some(dir.to_str()?.to_owned())).collect();
        let rooms = self.begin_rooms()?;
        let strict = &mut Strict {
            keep: self.keep,
            rooms: &rooms,
            source: self.source,
            manifest: self.manifest,
            vendored: &vendored,
            lock: &lock,
            config: &fetch::room_config(&lock, self.host),
            environment: self.environment,
            toolchain,
            is_static: self.section.is_static,
            from_nothing: self.from_nothing,
            log: self.log,
            cancel: self.cancel,
            events: self.events,
        };
        let Compiled { programs, dir, layer, packages } = strict.build(wanted).map_err(|error| cargo_failed(error, self.log))?;
        output::programs(&programs, &dir, self.out)?;
        Ok(Used { layer, packages: Some(packages) })
    }

    fn command_in_room(&mut self, command: &str, output: &PathText, toolchain: Option<&Toolchain>) -> Result<(), BuildError> {
        let rooms = self.begin_rooms()?;
        let source = rooms.copy_of(self.source, "src", SOURCE).map_err(|source| self.place(source))?;
        let home = rooms::cargo_home(&rooms, &self.keep.dir.join("none"), "").map_err(|source| self.place(source))?;
        let toolchain = rooms::toolchain(toolchain.and_then(|toolchain| toolchain.sysroot.as_deref()));
        let room = rooms.room(toolchain.into_iter().chain([source.mount]).chain(home));
        self.command(command, output, Path::new(SOURCE), Some(&room), &source.written)
    }

    /// Runs a command in a directory, which is `left` on the host.
    fn command(
        &mut self,
        command: &str,
        output: &PathText,
        dir: &Path,
        room: Option<&Room>,
        left: &Path,
    ) -> Result<(), BuildError> {
        (self.events)(BuildEvent::Phase("command"));
        let args = ["-c".to_owned(), command.to_owned()];
        let environment = self.environment;
        let order = Order { program: Path::new("/bin/sh"), args: &args, dir, environment, room };
        let status = process::run(&order, self.log, self.cancel, &mut |bytes, log| log.add(bytes)).map_err(process_failed)?;
        if !status.success() {
            return Err(failed("the build command", process::ending(status), self.log));
        }
        Ok(output::directory_left(left, output, self.out)?)
    }

    fn begin_rooms(&self) -> Result<Rooms, BuildError> {
        let host_name = if self.from_nothing { HOST_NAMES.1 } else { HOST_NAMES.0 };
        Rooms::begin(self.site, host_name).map_err(|source| self.place(source))
    }

    fn place(&self, source: std::io::Error) -> BuildError {
        BuildError::Place { path: self.site.into(), source }
    }
}

fn failed(what: &'static str, how: String, log: &mut Log) -> BuildError {
    BuildError::Failed { what, how, lines: log.last_lines(), log: log.path().into() }
}

fn process_failed(error: ProcessError) -> BuildError {
    match error {
        ProcessError::Cancelled => BuildError::Cancelled,
        ProcessError::Room { lacking } => BuildError::Strict { lacking },
        error => BuildError::Process(error),
    }
}

fn cargo_failed(error: CargoError, log: &mut Log) -> BuildError {
    match error {
        CargoError::Ended { what, how } => failed(what, how, log),
        CargoError::Process(error) => process_failed(error),
        error => BuildError::Cargo(error),
    }
}

fn fetch_failed(error: fetch::FetchError) -> BuildError {
    match error {
        fetch::FetchError::Process(error) => process_failed(error),
        error => BuildError::Fetch(error),
    }
}
