//! The whole journey on one page: a commit becomes a release, a release becomes what serves.
//!
//! ```text
//! commit -> recipe -> (build -> import -> cache, unless the recipe is known) -> release
//!        -> survey -> plan -> transfer -> rollout (activate, verify, confirm, or revert)
//! ```
//!
//! Each stage takes a value and returns one; none calls the next.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use df_build::{BuildEvent, Builder, Built, Commit, Made, Packages, Repository, Run, Turn};
use df_cache::import::{self, ImportOptions};
use df_cache::store::Store;
use df_core::release::ProgramNeeds;
use df_core::{CommitId, ImageId, Recipe, Release, TreePath};

use crate::building::Building;
use crate::config::{Config, commit_sections_differ};
use crate::documents::{self, Places};
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::session::{Session, now};
use crate::store::Shelf;

/// How long may be spent on finding out whether there are uncommitted changes.
const DIRTY_PATIENCE: Duration = Duration::from_millis(30);

/// A commit, and all that building it needs.
pub struct Journey {
    /// The commit.
    pub commit: Commit,
    /// Its df.yaml.
    pub config: Config,
    /// What it is built by.
    pub recipe: Recipe,
    repository: Repository,
    builder: Builder,
    begun: Instant,
}

/// Finds a commit, its df.yaml and its recipe; builds nothing.
///
/// # Errors
/// There is no such commit, its df.yaml is wrong, or a tool is missing.
pub fn begin(session: &Session, revision: Option<&str>) -> Result<Journey, Failure> {
    let begun = Instant::now();
    let repository = open(session)?;
    let commit = repository.resolve(revision.unwrap_or("HEAD")).map_err(|error| {
        let next =
            if matches!(error, df_build::ResolveError::NoCommits) { "git add . && git commit" } else { "git log --oneline" };
        Failure::usage("source", &error).next(next)
    })?;
    let (config, path) = config_of(session, &repository, &commit)?;
    if revision.is_none() {
        mention_what_is_left_out(session, &repository, &config);
    }
    let builder = Builder::new(&session.cache_dir(), session.app().clone()).map_err(Failure::from)?.configured_by(path);
    let recipe = builder.recipe_of(&repository, &commit, &config.build);
    let recipe = recipe.map_err(|error| Failure::here("build", &error).next("df doctor"))?;
    Ok(Journey { commit, config, recipe, repository, builder, begun })
}

impl Journey {
    /// Returns the release when its image is in the cache already; remembers it there under this commit.
    ///
    /// # Errors
    /// The cache cannot be used.
    pub fn known(&self, session: &Session, store: &dyn Store) -> Result<Option<Release>, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::here("cache", error).next("df cache repair");
        let stored = store.release_by_recipe(session.app(), self.recipe.key()).map_err(|error| failed(&error))?;
        let Some(stored) = stored else { return Ok(None) };
        if !store.has(stored.release.image).map_err(|error| failed(&error))? {
            return Ok(None);
        }
        let release = self.release(session, stored.release.image, stored.release.image_len, stored.release.needs);
        Ok(Some(release))
    }

    /// Returns the release, built if need be, and tells how it came about.
    ///
    /// # Errors
    /// The build fails, or what it made is no image, or the cache cannot be written.
    pub fn release_it(&self, session: &Session, shelf: &Shelf) -> Result<Release, Failure> {
        let output = session.output();
        // Two that build the same commit at once compile it once: whoever comes second finds it when its turn comes.
        let found = match self.known(session, shelf.store())? {
            Some(release) => Ok(release),
            None => {
                let turn = self.turn(session)?;
                self.known(session, shelf.store())?.ok_or(turn)
            }
        };
        let (release, why) = match found {
            Ok(release) => {
                let remembered = shelf.releases(session.app())?.last().is_some_and(|newest| newest.release == release);
                if !remembered {
                    shelf.store().put_release(&release, now()).map_err(|error| Failure::here("cache", &error))?;
                }
                (release, None)
            }
            Err(turn) => {
                let why = self.why();
                (self.build(session, shelf, turn)?, Some(why))
            }
        };
        let documents = match documents::kept(shelf, &release) {
            Some(documents) => documents,
            None => self.document(session, shelf, &release, None, None)?,
        };
        output.step(&Event::Built {
            app: release.app.clone(),
            commit: release.commit.clone(),
            recipe_key: release.recipe_key,
            image: release.image,
            release: release.id(),
            reused: why.is_none(),
            why: why.unwrap_or_default(),
            seconds: self.begun.elapsed().as_secs_f64(),
            provenance: Some(documents.provenance.to_string_lossy().into_owned()),
            sbom: Some(documents.sbom.to_string_lossy().into_owned()),
        });
        if session.call.globals.verbose > 0 {
            output.note(format!("  its provenance is {}", documents.provenance.display()));
            output.note(format!("  its bill of materials is {}", documents.sbom.display()));
        }
        Ok(release)
    }

    /// Waits until no other build of this machine's user is at work.
    ///
    /// # Errors
    /// The lock cannot be had, or Ctrl-C came.
    pub fn turn(&self, session: &Session) -> Result<Turn<'_>, Failure> {
        let mut tell = |event: BuildEvent| session.output().note(event.to_string());
        Ok(self.builder.turn(&mut tell, session.call.interrupt.flag())?)
    }

    /// Returns what changed since the last build of the application here.
    pub fn why(&self) -> Vec<String> {
        match self.builder.why(&self.repository, &self.commit, &self.recipe) {
            None => vec!["never built here".into()],
            Some(changes) if changes.is_empty() => vec!["its image is not in the cache".into()],
            Some(changes) => changes,
        }
    }

    /// Builds the commit and puts its image into the cache, without naming a release. Used by repairs, too.
    ///
    /// # Errors
    /// As [`Journey::release_it`].
    pub fn build(&self, session: &Session, shelf: &Shelf, turn: Turn<'_>) -> Result<Release, Failure> {
        let label = format!("building {}", self.commit.id.short());
        let building = Building::begin(session.output(), &label, session.call.globals.verbose > 0);
        let mut tell = |event: BuildEvent| building.tell(&event);
        let section = &self.config.build;
        let started = now();
        let built = turn.build(&self.repository, &self.commit, section, &mut tell, session.call.interrupt.flag())?;
        let options = ImportOptions { outside_links: &section.outside_links };
        let located = import::located(&built.output, options).map_err(|error| Failure::here("import", &error))?;
        let needs = df_build::needs(&built.output).map_err(|error| Failure::here("import", &error))?;
        let release = self.release(session, located.manifest.image(), located.manifest.total_len(), needs);
        let put = shelf.store().put(&release, &located.manifest, &located.files, now());
        put.map_err(|error| Failure::here("cache", &error).next("df cache status"))?;
        self.document(session, shelf, &release, built.packages.as_ref(), Some(Run { started, finished: now() }))?;
        Ok(release)
    }

    /// Says beside a release how it was built, and what of.
    fn document(
        &self,
        session: &Session,
        shelf: &Shelf,
        release: &Release,
        compiled: Option<&Packages>,
        run: Option<Run>,
    ) -> Result<Places, Failure> {
        let manifest = shelf.store().manifest(release.image);
        let manifest = manifest.map_err(|error| Failure::here("cache", &error).next("df cache repair"))?;
        let lock = committed(&self.repository, &self.commit, Path::new("Cargo.lock"))?;
        let licences = lock.as_deref().map(|lock| df_build::licences(&session.cache_dir(), lock)).unwrap_or_default();
        let (recipe, version) = (&self.recipe, env!("CARGO_PKG_VERSION"));
        documents::keep(
            shelf,
            &Made { release, manifest: &manifest, recipe, lock: lock.as_deref(), compiled, licences: &licences, run, version },
        )
    }

    /// Builds the commit once more, from nothing and under other conditions; puts nothing anywhere.
    ///
    /// # Errors
    /// The build fails.
    pub fn build_from_nothing(&self, session: &Session) -> Result<Built, Failure> {
        let label = format!("building {} again", self.commit.id.short());
        let building = Building::begin(session.output(), &label, session.call.globals.verbose > 0);
        let mut tell = |event: BuildEvent| building.tell(&event);
        let (section, cancel) = (&self.config.build, session.call.interrupt.flag());
        Ok(self.builder.build_from_nothing(&self.repository, &self.commit, section, &mut tell, cancel)?)
    }

    fn release(&self, session: &Session, image: ImageId, image_len: u64, needs: Vec<ProgramNeeds>) -> Release {
        Release {
            format: 1,
            app: session.app().clone(),
            commit: self.commit.id.clone(),
            committed: self.commit.committed,
            recipe_key: self.recipe.key(),
            sandbox: self.config.build.sandbox,
            image,
            image_len,
            needs,
            run: self.config.run.clone(),
            verify: self.config.verify.clone(),
        }
    }
}

/// Returns the release that a command is about: the version that is named, else that of the commit that is named, else HEAD's; built if need be.
///
/// # Errors
/// As its parts.
pub fn release(session: &Session, shelf: &Shelf, version: Option<&str>, revision: Option<&str>) -> Result<Release, Failure> {
    match version {
        None => begin(session, revision)?.release_it(session, shelf),
        Some(word) => version_or_revision(session, shelf, word),
    }
}

/// As [`release`], but builds nothing: the journey tells what would be built.
///
/// # Errors
/// As its parts.
pub fn planned(
    session: &Session,
    shelf: &Shelf,
    version: Option<&str>,
    revision: Option<&str>,
) -> Result<Result<Release, Box<Journey>>, Failure> {
    if let Some(word) = version {
        return version_or_revision(session, shelf, word).map(Ok);
    }
    let journey = begin(session, revision)?;
    Ok(journey.known(session, shelf.store())?.ok_or_else(|| Box::new(journey)))
}

/// Returns the commit that a revision is now.
///
/// # Errors
/// There is no repository, or no such commit.
pub fn commit(session: &Session, revision: &str) -> Result<CommitId, Failure> {
    let commit = open(session)?.resolve(revision);
    commit.map(|commit| commit.id).map_err(|error| Failure::usage("source", &error).next("git log --oneline"))
}

/// A version is named by the beginning of an id, or by a tag or branch whose commit is known here.
fn version_or_revision(session: &Session, shelf: &Shelf, word: &str) -> Result<Release, Failure> {
    let failure = match shelf.version(session.app(), word) {
        Ok(release) => return Ok(release),
        Err(failure) => failure,
    };
    let commit = open(session).ok().and_then(|repository| repository.resolve(word).ok());
    match commit {
        Some(commit) => shelf
            .version(session.app(), &commit.id.to_string())
            .map_err(|failure| failure.next(format!("df build --commit-hash {}", commit.id.short()))),
        None => Err(failure),
    }
}

/// Opens the repository: that of df.yaml, or with `--config`, which may lie anywhere, that of the current directory.
fn open(session: &Session) -> Result<Repository, Failure> {
    let dir = if session.call.globals.config.is_some() { &session.call.here } else { &session.top };
    Repository::open(dir).map_err(|error| Failure::usage("source", &error).next(error.mend()))
}

/// Reads df.yaml as it is in a commit, and says where it is there.
fn config_of(session: &Session, repository: &Repository, commit: &Commit) -> Result<(Config, TreePath), Failure> {
    let candidates = candidates(session, repository);
    for path in &candidates {
        if let Some(bytes) = committed(repository, commit, path)? {
            let origin = format!("{} in {}", path.display(), commit.id.short());
            let config = Config::parse(&bytes, &origin).map_err(|error| Failure::usage("configuration", &error))?;
            return Ok((config, tree_path(path)?));
        }
    }
    let name = candidates.first().map_or_else(|| "df.yaml".to_owned(), |path| path.display().to_string());
    let message = format!("{name} is not in commit {}; build, run and verify are read from the commit", commit.id.short());
    Err(Failure::new(Exit::Usage, "configuration", message).next(format!("git add {name} && git commit {name}")))
}

fn committed(repository: &Repository, commit: &Commit, path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    repository.file(commit, &tree_path(path)?).map_err(|error| Failure::new(Exit::Usage, "configuration", chain(&error)))
}

fn tree_path(path: &Path) -> Result<TreePath, Failure> {
    TreePath::new(path.as_os_str().as_bytes()).map_err(|error| Failure::usage("configuration", &error))
}

/// Returns where df.yaml may be in the commit, the likeliest first: where the one on disk is; for one that `--config` brought from elsewhere, in the
/// current directory or one above it.
fn candidates(session: &Session, repository: &Repository) -> Vec<PathBuf> {
    let Some(work_dir) = repository.work_dir().and_then(|dir| dir.canonicalize().ok()) else { return vec!["df.yaml".into()] };
    let inside = |dir: &Path| dir.canonicalize().ok().and_then(|dir| dir.strip_prefix(&work_dir).map(Path::to_owned).ok());
    let given = session.call.globals.config.as_deref().and_then(Path::file_name);
    let mut candidates: Vec<PathBuf> = vec![];
    candidates.extend(inside(&session.top).map(|top| top.join(given.unwrap_or("df.yaml".as_ref()))));
    if given.is_some() {
        let here = inside(&session.call.here).unwrap_or_default();
        candidates.extend(here.ancestors().map(|dir| dir.join("df.yaml")));
    }
    candidates
}

fn mention_what_is_left_out(session: &Session, repository: &Repository, committed: &Config) {
    if commit_sections_differ(committed, &session.config) {
        session.output().note("df.yaml here differs from the commit's in build, run or verify; the commit's counts");
    }
    if session.call.globals.quiet {
        return;
    }
    match repository.n_uncommitted(DIRTY_PATIENCE) {
        Some(1) => session.output().note("1 file is not committed, and left out"),
        Some(n @ 2..) => session.output().note(format!("{n} files are not committed, and left out")),
        _ => {}
    }
}
