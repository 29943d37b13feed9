//! The build: a commit and its section in, an output directory out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use df_core::recipe::Change;
use df_core::spec::{BuildSection, BuildTool, Relocatable, Sandbox};
use df_core::{AppName, Digest, Recipe, TreePath};

use crate::cargo::{self, CargoError};
use crate::directory;
use crate::documents::Packages;
use crate::fetch::{FetchError, FilesError};
use crate::fit::static_program::{self, StaticError};
use crate::keep::{Keep, drop_oldest, make_dir};
use crate::lock::Lock;
use crate::log::Log;
use crate::output::relocate;
use crate::output::{self, OutputError};
use crate::process::ProcessError;
use crate::recipe::environment::Host;
use crate::recipe::{self, Prepared, RecipeError};
use crate::rooms::{Rooms, SOURCE, TARGET_DIR};
use crate::sandbox::{self, Lacking};
use crate::source::{Commit, Repository, WriteError, write_source};
use crate::tool::{Tool, Used};

/// Logs kept.
const N_LOGS: usize = 50;

/// Builds commits of one application, always below the same directory.
#[derive(Debug, Clone)]
pub struct Builder {
    app: AppName,
    host: Host,
    keep: Keep,
    configuration: TreePath,
}

/// What was built. The directory is there as long as this value: whoever wants it, copies or imports it before.
#[derive(Debug)]
pub struct Built {
    /// The tree that becomes the image.
    pub output: PathBuf,
    /// What it was built by.
    pub recipe: Recipe,
    /// Everything the build said.
    pub log: PathBuf,
    /// Whether a program ran; false when the image is made of the commit's own files.
    pub compiled: bool,
    /// The dependency layer that was used, by its key; `None` when everything was compiled.
    pub layer: Option<Digest>,
    /// The packages that were compiled or taken from that layer; `None` when that is not known.
    pub packages: Option<Packages>,
    _output: tempfile::TempDir,
    // After the directory: no other build may clear it away before.
    _lock: Lock,
}

/// The right to be the only build of this machine's user, until it is dropped or what was built in it is.
#[derive(Debug)]
pub struct Turn<'a> {
    builder: &'a Builder,
    lock: Lock,
}

/// What a build tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// Another build holds the one source directory; this one goes on when it is done.
    Waiting,
    /// `sandbox: off`: what the commit names runs with the rights of who runs df. Said before anything runs.
    Unsandboxed,
    /// A part of the build begins: `source`, `fetch`, `dependencies`, `compile`, `command`, `output`.
    Phase(&'static str),
    /// Something was compiled.
    Compiled {
        /// Calls of the compiler so far in this phase; without a sandbox packages, those counted that were there already.
        done: usize,
        /// All that there will be; without a sandbox at most, because the features chosen may need fewer.
        total: usize,
        /// What was compiled last, fit for a terminal.
        name: String,
    },
    /// These files (at most twenty) hold a path of this machine.
    NotRelocatable {
        /// Their paths in the image, fit for a terminal.
        paths: Vec<String>,
    },
}

impl std::fmt::Display for BuildEvent {
    /// Writes the event as one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another build on this machine"),
            Self::Unsandboxed => f.write_str("sandbox: off — the build runs with your rights"),
            Self::Phase(phase) => f.write_str(phase),
            Self::Compiled { done, total, name } => write!(f, "compiled {name} ({done} of {total})"),
            Self::NotRelocatable { paths } => write!(f, "the image holds paths of this machine: {}", paths.join(", ")),
        }
    }
}

/// A commit was not built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BuildError {
    #[error("sandbox: strict needs {}, which this machine lacks; mend it by: {}; or write `sandbox: off` to build with your own rights", lacking.part, lacking.mend)]
    Strict { lacking: Lacking },
    #[error("the build was cancelled")]
    Cancelled,
    /// A program said no: the last 50 lines, fit for a terminal, and where the rest is.
    #[error("{what} ended with {how}; its log is {}", log.display())]
    Failed { what: &'static str, how: String, lines: Vec<String>, log: PathBuf },
    #[error("build.static is for cargo builds; a command links its programs as it likes")]
    StaticElsewhere,
    #[error("{why}; its log is {}", log.display())]
    Static { why: StaticError, log: PathBuf },
    #[error("the image would hold paths of this machine, and build.relocatable is required: {}", paths.join(", "))]
    NotRelocatable { paths: Vec<String> },
    #[error("cannot use {} for building", path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Source(#[from] WriteError),
    #[error(transparent)]
    Fetch(FetchError),
    #[error(transparent)]
    Files(FilesError),
    #[error(transparent)]
    Cargo(CargoError),
    #[error(transparent)]
    Process(ProcessError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Builder {
    /// Makes a builder that works below `<cache_dir>/build`, with the few variables of df's own environment that a build may see.
    ///
    /// # Errors
    /// The directory is made if need be; the error says why it cannot be. Its path has to be UTF-8: compilers get it as text.
    pub fn new(cache_dir: &Path, app: AppName) -> Result<Self, BuildError> {
        let failed = |source| BuildError::Place { path: cache_dir.into(), source };
        make_dir(&cache_dir.join("build")).map_err(failed)?;
        let dir = cache_dir.join("build").canonicalize().map_err(failed)?;
        if dir.to_str().is_none() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8")));
        }
        let configuration = TreePath::new(b"df.yaml").expect("a plain name");
        Ok(Self { app, host: Host::of(&|name| std::env::var(name).ok()), keep: Keep { dir }, configuration })
    }

    /// Says which file of the commit the section came from, if not from `df.yaml` at its top.
    ///
    /// Neither the build nor the recipe sees that file, so that other settings for running a program build nothing; unless the section includes it.
    #[must_use]
    pub fn configured_by(self, configuration: TreePath) -> Self {
        Self { configuration, ..self }
    }

    /// Returns the recipe of a commit without building it.
    ///
    /// Fast when neither the tree nor the tools are new: a handful of small files is read and no program runs. A new tree is read from git's objects, new
    /// tools are asked for their versions.
    ///
    /// # Errors
    /// A tree that cannot be source, or tools that are missing: said before anything is compiled.
    pub fn recipe_of(&self, repository: &Repository, commit: &Commit, section: &BuildSection) -> Result<Recipe, RecipeError> {
        Ok(self.prepare(repository, commit, section)?.recipe)
    }

    /// Returns why a recipe is not the one the application was last built by; empty when it is, `None` when it was never built here.
    ///
    /// Source files are counted (`3 source files`) when the manifest of the last source is still kept.
    pub fn changes(&self, recipe: &Recipe) -> Option<Vec<Change>> {
        recipe::changes(&self.keep, &self.app, recipe)
    }

    /// Returns the same in the words that a person would use, one text for each change: `rustc 1.94.0 -> 1.95.0`,
    /// `Cargo.lock: serde 1.0.228 -> 1.0.229`, `3 source files`.
    pub fn why(&self, repository: &Repository, commit: &Commit, recipe: &Recipe) -> Option<Vec<String>> {
        recipe::why(repository, commit, &self.keep, &self.app, recipe)
    }

    /// Waits until no other build is at work here, and holds up all others until the turn is dropped or what it built is.
    ///
    /// Whoever looks for what is wanted only then, and builds in this very turn, never builds what another has just built.
    ///
    /// # Errors
    /// The lock cannot be had, or waiting was cancelled.
    pub fn turn(&self, events: &mut dyn FnMut(BuildEvent), cancel: &AtomicBool) -> Result<Turn<'_>, BuildError> {
        let path = self.keep.dir.join("lock");
        let lock =
            Lock::take(&path, cancel, || events(BuildEvent::Waiting)).map_err(place(&path))?.ok_or(BuildError::Cancelled)?;
        Ok(Turn { builder: self, lock })
    }

    /// Builds a commit.
    ///
    /// Waits for other builds of this machine's user first. `cancel` may be set from another thread (or a signal handler): then whatever runs is killed.
    /// However it ends, no process of the build is left; without a sandbox, one that made a session of its own is (`sandbox: off` shuts nothing in).
    ///
    /// # Errors
    /// Nothing of a failed build is handed out; its log is kept.
    pub fn build(
        &self,
        repository: &Repository,
        commit: &Commit,
        section: &BuildSection,
        events: &mut dyn FnMut(BuildEvent),
        cancel: &AtomicBool,
    ) -> Result<Built, BuildError> {
        self.turn(events, cancel)?.build(repository, commit, section, events, cancel)
    }

    /// Builds a commit as if nothing was ever compiled here, in other directories, on a machine of another name and with one job at a time: equal bits show
    /// that none of this matters.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn build_from_nothing(
        &self,
        repository: &Repository,
        commit: &Commit,
        section: &BuildSection,
        events: &mut dyn FnMut(BuildEvent),
        cancel: &AtomicBool,
    ) -> Result<Built, BuildError> {
        self.turn(events, cancel)?.perform(repository, commit, section, true, events, cancel)
    }

    fn prepare(&self, repository: &Repository, commit: &Commit, section: &BuildSection) -> Result<Prepared, RecipeError> {
        recipe::prepare(repository, commit, section, &self.configuration, &self.host, &self.keep)
    }

    /// Returns where the build works, free of what killed builds left there.
    fn site(&self, from_nothing: bool) -> Result<PathBuf, BuildError> {
        let elsewhere = self.keep.dir.join("check");
        Rooms::sweep(&self.keep.dir).map_err(place(&self.keep.dir))?;
        sandbox::remove(&elsewhere).map_err(place(&elsewhere))?;
        if !from_nothing {
            return Ok(self.keep.dir.clone());
        }
        make_dir(&elsewhere).map_err(place(&elsewhere))?;
        Ok(elsewhere)
    }

    /// Returns the environment of the build: that of its recipe, unless paths in it are to be others.
    fn environment(&self, section: &BuildSection, prepared: &Prepared, site: &Path) -> BTreeMap<String, String> {
        let mut environment = prepared.recipe.environment.clone();
        if section.sandbox == Sandbox::Off && matches!(section.tool, BuildTool::Cargo(_)) {
            environment.extend(cargo::environment(&self.host, site));
        }
        environment
    }

    fn begin_log(&self, commit: &Commit) -> Result<Log, BuildError> {
        let dir = self.keep.dir.join("log");
        make_dir(&dir).map_err(place(&dir))?;
        drop_oldest(&dir, N_LOGS);
        let path = dir.join(format!("{}-{}.log", self.app, commit.id));
        Log::create(&path).map_err(place(&path))
    }

    /// Makes a new output directory; what builds that were killed left behind goes first, which the lock allows.
    fn make_output(&self) -> Result<tempfile::TempDir, BuildError> {
        let dir = self.keep.dir.join("output");
        make_dir(&dir).map_err(place(&dir))?;
        remove_all(&dir).map_err(place(&dir))?;
        tempfile::Builder::new().prefix(self.app.as_str()).tempdir_in(&dir).map_err(place(&dir))
    }

    /// Returns the application's own target directory, emptied when it was filled by other tools or in another environment.
    fn target_dir(&self, site: &Path, key: Digest) -> Result<PathBuf, BuildError> {
        let (all, name) = (site.join("target"), self.app.as_str());
        let key_file = format!("{name}.key");
        if site != self.keep.dir {
            return Ok(all.join(name));
        }
        if self.keep.read_bytes("target", &key_file).as_deref() != Some(key.as_bytes()) {
            make_dir(&all).and_then(|()| remove_in(&all, name)).map_err(place(&all))?;
            // Only after the old one is gone: a build killed in between empties it again.
            self.keep.write("target", &key_file, key.as_bytes(), usize::MAX);
        }
        Ok(all.join(name))
    }

    fn check_relocatable(
        &self,
        section: &BuildSection,
        out: &Path,
        events: &mut dyn FnMut(BuildEvent),
    ) -> Result<(), BuildError> {
        let needles = match section.sandbox {
            Sandbox::Off => [self.keep.dir.as_path(), &self.host.cargo_home],
            // Equal everywhere, but not there when the program runs.
            Sandbox::Strict => [Path::new(SOURCE), Path::new(TARGET_DIR)],
        };
        let paths = relocate::held_paths(out, &needles).map_err(place(out))?;
        match section.relocatable {
            _ if paths.is_empty() => Ok(()),
            Relocatable::Required => Err(BuildError::NotRelocatable { paths }),
            Relocatable::Warn => {
                events(BuildEvent::NotRelocatable { paths });
                Ok(())
            }
        }
    }
}

impl Turn<'_> {
    /// Builds a commit, as [`Builder::build`] does.
    ///
    /// # Errors
    /// Nothing of a failed build is handed out; its log is kept.
    pub fn build(
        self,
        repository: &Repository,
        commit: &Commit,
        section: &BuildSection,
        events: &mut dyn FnMut(BuildEvent),
        cancel: &AtomicBool,
    ) -> Result<Built, BuildError> {
        self.perform(repository, commit, section, false, events, cancel)
    }

    fn perform(
        self,
        repository: &Repository,
        commit: &Commit,
        section: &BuildSection,
        from_nothing: bool,
        events: &mut dyn FnMut(BuildEvent),
        cancel: &AtomicBool,
    ) -> Result<Built, BuildError> {
        let builder = self.builder;
        let compiled = section.tool != BuildTool::Files;
        if section.is_static && !matches!(section.tool, BuildTool::Cargo(_)) {
            return Err(BuildError::StaticElsewhere);
        }
        if compiled && section.sandbox == Sandbox::Off {
            events(BuildEvent::Unsandboxed);
        }
        let prepared = builder.prepare(repository, commit, section)?;
        let mut log = builder.begin_log(commit)?;
        let output = builder.make_output()?;
        let site = builder.site(from_nothing)?;
        events(BuildEvent::Phase("source"));
        let mut used = Used::default();
        if compiled {
            let source = site.join("src");
            make_dir(&source).map_err(place(&source))?;
            let left_out = prepared.left_out.as_ref();
            let manifest = write_source(repository, commit, &builder.keep, prepared.recipe.source, left_out, &source)?;
            let target_dir = match section.sandbox {
                Sandbox::Off => builder.target_dir(&site, prepared.target_key)?,
                Sandbox::Strict => PathBuf::new(),
            };
            let tool = &mut Tool {
                section,
                toolchain: prepared.toolchain.as_ref(),
                environment: &builder.environment(section, &prepared, &site),
                host: &builder.host,
                keep: &builder.keep,
                site: &site,
                source: &source,
                manifest: &manifest,
                target_dir: &target_dir,
                from_nothing,
                out: output.path(),
                log: &mut log,
                events: &mut *events,
                cancel,
            };
            used = tool.run().map_err(|error| explained(section, error))?;
        }
        if section.is_static {
            let why = static_program::check(output.path()).map_err(place(output.path()))?;
            why.map_err(|why| BuildError::Static { why, log: log.path().into() })?;
        }
        events(BuildEvent::Phase("output"));
        output::include(repository, commit, section, output.path())?;
        output::refuse_empty(output.path())?;
        if compiled {
            builder.check_relocatable(section, output.path(), events)?;
        }
        if !from_nothing {
            recipe::remember(repository, commit, &builder.keep, &builder.app, &prepared.recipe);
        }
        let path = output.path().to_owned();
        Ok(Built {
            output: path,
            recipe: prepared.recipe,
            log: log.path().into(),
            compiled,
            layer: used.layer,
            packages: used.packages,
            _output: output,
            _lock: self.lock,
        })
    }
}

fn place(path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Place { path, source }
}

/// Removes everything in a directory.
fn remove_all(dir: &Path) -> io::Result<()> {
    let open = directory::open(dir)?;
    directory::names(&open)?.iter().try_for_each(|name| directory::remove(open.as_fd(), name))
}

/// Removes one name in a directory, with all it holds.
fn remove_in(dir: &Path, name: &str) -> io::Result<()> {
    directory::remove(directory::open(dir)?.as_fd(), name.as_bytes())
}

/// Says of a build that was to give a static program whether it failed because of that.
fn explained(section: &BuildSection, error: BuildError) -> BuildError {
    match error {
        BuildError::Failed { what, how, lines, log } if section.is_static => {
            match static_program::explain(lines.iter().map(String::as_str)) {
                Some(why) => BuildError::Static { why, log },
                None => BuildError::Failed { what, how, lines, log },
            }
        }
        error => error,
    }
}
