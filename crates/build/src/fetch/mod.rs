//! Fetching: the one part of a build that may use the network, and it runs no code of the commit.
//!
//! cargo itself brings what Cargo.lock names for the target into `<keep>/cargo`, a home of df's own. It works from `/`, where no configuration of the
//! commit is found, hears a cleaned one, and gets the toolchain's compiler, which it asks what the target is. What the user's own cargo holds already is
//! copied after its checksum was compared, so that most fetches need no network; it is tried without before it is tried with. Afterwards every packed package
//! was compared with the lock, cargo unpacked from those alone, and a marker makes the next fetch a matter of looking at times.

mod config;
mod files;
mod lock;
mod said;
mod seed;
mod verify;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use df_core::Digest;

pub(crate) use self::config::FetchConfigError;
pub use self::files::FilesError;
pub(crate) use self::files::files;
#[allow(unused_imports, reason = "the strict build is being put together")]
pub(crate) use self::lock::{Lock, LockError, LockedPackage, LockedSource};

use self::config::Cleaned;
use self::said::Said;
use self::verify::{Marker, Seen};
use crate::directory;
use crate::keep::Keep;
use crate::log::Log;
use crate::process::{self, Order, ProcessError};
use crate::recipe::TARGET;
use crate::recipe::environment::Host;
use crate::recipe::toolchain::Toolchain;
use crate::run::BuildEvent;

/// Raise it when a marker of an earlier df means less.
const MARKER_VERSION: &str = "3";
/// Markers kept.
const N_MARKERS: usize = 1000;
/// Bytes of a lock file that are read; the lock's own bound is below.
const LOCK_LEN: u64 = 32 << 20;
/// Directories of a source that manifests are looked for in.
const N_DIRECTORIES: usize = 1_000_000;

/// What the lock names could not be brought.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error("the commit has no Cargo.toml at its top")]
    NoManifest,
    #[error(
        "the commit has no Cargo.lock; run cargo generate-lockfile and commit it, so that each build uses the same dependencies"
    )]
    NoLock,
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Config(#[from] FetchConfigError),
    #[error("Cargo.lock does not fit Cargo.toml; run cargo check and commit the Cargo.lock that it writes")]
    StaleLock,
    #[error(
        "{package} is not what Cargo.lock names: its SHA-256 is {found}, not {expected}; someone changed it, or the registry did"
    )]
    Checksum { package: String, expected: String, found: String },
    #[error(
        "what came for {package} has another checksum than Cargo.lock says; someone changed it on the way, or in the registry"
    )]
    ChecksumSaid { package: String },
    #[error("{host} cannot be reached; what is missing here has to be fetched once (see the log for what)")]
    NoNetwork { host: String },
    #[error("{place} wants to know who asks; run cargo login for it, or see that git may fetch from it")]
    NoCredentials { place: String },
    #[error(
        "{} replaces the source of packages, so that they came under another name than on other machines, where a strict build does not look; \
         write its [source] lines into the commit's .cargo/config.toml, for all machines",
        file.display()
    )]
    Replaced { file: PathBuf },
    #[error("what Cargo.lock names is not there any more: {what}")]
    Gone { what: String },
    #[error("cargo fetch ended with {how}")]
    Ended { how: String },
    #[error("cannot use {} for what is fetched", path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Brings exactly what the Cargo.lock of a source names for the target into `<keep>/cargo`, where `registry` and `git` are what a build may see.
///
/// Fast when a marker says that it is all there. Cut short at any point, the next fetch goes on.
pub(crate) fn fetch(
    source: &Path,
    toolchain: &Toolchain,
    host: &Host,
    keep: &Keep,
    log: &mut Log,
    cancel: &AtomicBool,
    events: &mut dyn FnMut(BuildEvent),
) -> Result<Lock, FetchError> {
    if !source.join("Cargo.toml").is_file() {
        return Err(FetchError::NoManifest);
    }
    let bytes = read_lock(source)?;
    let lock = Lock::parse(&bytes)?;
    let cleaned = config::of_source(source)?;
    let operator = operator_variables(std::env::vars_os());
    config::refuse_sent_tokens(&cleaned, host, &operator.keys().cloned().collect())?;

    let manifests = manifests(source, &cleaned.vendored).map_err(place(source))?;
    let name = marker_name(&bytes, &cleaned, toolchain, manifests);
    if keep.read::<Marker>("fetched", &name).is_some_and(|marker| marker.still_holds()) {
        return Ok(lock);
    }
    let home = keep.dir.join("cargo");
    let mut fetching = Fetching { source, home: &home, lock: &lock, cleaned: &cleaned, toolchain, host, operator, log, cancel };
    fetching.prepare().map_err(place(&home))?;
    fetching.bring(keep, events)?;
    verify::level(&home, &lock).map_err(place(&home))?;
    keep.write_json("fetched", &name, &Marker::of(&home, &lock), N_MARKERS);
    Ok(lock)
}

/// Returns the configuration that cargo needs in a room besides the commit's own: for `/df/cargo/config.toml`. Empty nearly always.
pub(crate) fn room_config(lock: &Lock, host: &Host) -> String {
    config::for_room(lock, host)
}

/// Returns the directories of a source, below it, that its configuration takes packages from.
pub(crate) fn vendored(source: &Path) -> Result<Vec<PathBuf>, FetchError> {
    let below = |dir: PathBuf| dir.strip_prefix(source).ok().map(Path::to_owned);
    Ok(config::of_source(source)?.vendored.into_iter().filter_map(below).collect())
}

struct Fetching<'a> {
    source: &'a Path,
    home: &'a Path,
    lock: &'a Lock,
    cleaned: &'a Cleaned,
    toolchain: &'a Toolchain,
    host: &'a Host,
    operator: BTreeMap<String, String>,
    log: &'a mut Log,
    cancel: &'a AtomicBool,
}

impl Fetching<'_> {
    /// Makes the home: the two directories that a room sees, and for cargo alone a way to the operator's tokens.
    fn prepare(&self) -> io::Result<()> {
        for dir in ["registry", "git"] {
            verify::make_open_dir(&self.home.join(dir))?;
        }
        for name in ["credentials", "credentials.toml"] {
            let (own, link) = (self.host.cargo_home.join(name), self.home.join(name));
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if own.is_file() {
                std::os::unix::fs::symlink(own, link)?;
            }
        }
        Ok(())
    }

    fn bring(&mut self, keep: &Keep, events: &mut dyn FnMut(BuildEvent)) -> Result<(), FetchError> {
        let (home, sums, mut seen) = (self.home, verify::sums(self.lock), Seen::default());
        // cargo does not hash again what it finds: it must not find anything else than what the lock names.
        for wrong in verify::wrong(home, &sums, &mut seen).map_err(place(home))? {
            verify::remove(home, &wrong).map_err(place(&wrong.path))?;
        }
        seed::seed(&self.lock.of_registries().collect::<Vec<_>>(), &sums, &self.host.cargo_home, home);
        let config = self.write_config(keep).map_err(place(&keep.dir))?;
        self.run_cargo(config.path(), events)?;
        match verify::wrong(home, &sums, &mut seen).map_err(place(home))?.into_iter().next() {
            None => Ok(()),
            Some(wrong) => {
                verify::remove(home, &wrong).map_err(place(&wrong.path))?;
                let package = wrong.file.trim_end_matches(".crate").to_owned();
                Err(FetchError::Checksum { package, expected: wrong.expected, found: wrong.found })
            }
        }
    }

    fn write_config(&self, keep: &Keep) -> io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix("config-").suffix(".toml").tempfile_in(&keep.dir)?;
        file.write_all(self.cleaned.text.as_bytes())?;
        Ok(file)
    }

    /// Tries with what is here, then with the network.
    fn run_cargo(&mut self, config: &Path, events: &mut dyn FnMut(BuildEvent)) -> Result<(), FetchError> {
        let own = config::own_file(self.host);
        // Later ones are put over earlier ones, as a project's configuration is put over its user's.
        let both: Vec<&Path> = own.iter().map(PathBuf::as_path).chain([config]).collect();
        if let Some((offline, _)) = self.attempt(&both, &["--offline"])? {
            self.log.add(b"not all of it is here; fetching\n");
            events(BuildEvent::Phase("fetch"));
            if let Some((meaning, how)) = self.attempt(&both, &[])? {
                return Err(failure(&offline, meaning, how));
            }
        }
        match own.filter(|_| config::own_replaces(self.host)) {
            Some(file) => self.look_as_a_room(file, config),
            None => Ok(()),
        }
    }

    /// Looks for all of it as a build will: without the operator's configuration, but for where registries are.
    fn look_as_a_room(&mut self, own: PathBuf, config: &Path) -> Result<(), FetchError> {
        let mut room =
            tempfile::Builder::new().prefix("config-").suffix(".toml").tempfile_in(self.home).map_err(place(self.home))?;
        room.write_all(room_config(self.lock, self.host).as_bytes()).map_err(place(room.path()))?;
        match self.attempt(&[room.path(), config], &["--offline"])? {
            None => Ok(()),
            Some(_) => Err(FetchError::Replaced { file: own }),
        }
    }

    /// Runs cargo; `None` when it could fetch, else why not and how it ended.
    fn attempt(&mut self, configs: &[&Path], flags: &[&str]) -> Result<Option<(Said, String)>, FetchError> {
        let mut args = vec!["fetch".to_owned(), "--locked".into(), format!("--target={TARGET}")];
        args.push(format!("--manifest-path={}", self.source.join("Cargo.toml").display()));
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        for file in configs {
            args.extend(["--config".to_owned(), file.display().to_string()]);
        }
        let program = match &self.toolchain.bin {
            Some(bin) => bin.join("cargo"),
            None => self.host.find("cargo").ok_or_else(|| not_found("cargo"))?,
        };
        let environment = self.environment();
        let order = Order { program: &program, args: &args, dir: Path::new("/"), environment: &environment, room: None };
        let status = process::run(&order, self.log, self.cancel, &mut |bytes, log| log.add(bytes))?;
        Ok((!status.success()).then(|| (said::meaning(&self.log.last_lines()), process::ending(status))))
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = self.host.environment();
        environment.extend(self.host.network.clone());
        environment.extend(self.operator.clone());
        let mut set = |name: &str, value: String| drop(environment.insert(name.to_owned(), value));
        set("CARGO_HOME", self.home.display().to_string());
        if let Some(bin) = &self.toolchain.bin {
            set("RUSTC", bin.join("rustc").display().to_string());
        }
        // Set and empty: no configuration is asked for another one.
        set("RUSTC_WRAPPER", String::new());
        set("RUSTC_WORKSPACE_WRAPPER", String::new());
        set("CARGO_ENCODED_RUSTFLAGS", self.cleaned.flags.join("\x1f"));
        set("CARGO_TERM_COLOR", "never".into());
        // Builds use what is here without this cargo seeing it.
        set("CARGO_CACHE_AUTO_CLEAN_FREQUENCY", "never".into());
        environment
    }
}

/// Says why nothing was fetched, by what cargo said without and with the network.
fn failure(offline: &Said, online: Said, how: String) -> FetchError {
    match online {
        Said::NoNetwork { .. } if *offline == Said::StaleLock => FetchError::StaleLock,
        Said::StaleLock => FetchError::StaleLock,
        Said::Checksum { package } => FetchError::ChecksumSaid { package },
        Said::NoCredentials { place } => FetchError::NoCredentials { place },
        Said::NoNetwork { host } => FetchError::NoNetwork { host },
        Said::Gone { what } => FetchError::Gone { what },
        Said::Else => FetchError::Ended { how },
    }
}

/// Returns the variables by which the operator tells cargo and git who asks.
fn operator_variables(variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> BTreeMap<String, String> {
    let texts = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| name.starts_with("CARGO_REGISTRIES_") || name == "SSH_AUTH_SOCK").collect()
}

fn read_lock(source: &Path) -> Result<Vec<u8>, FetchError> {
    let path = source.join("Cargo.lock");
    let opened = directory::open(source).and_then(|dir| directory::open_file(&dir, b"Cargo.lock"));
    let mut bytes = vec![];
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FetchError::NoLock),
        Err(error) => return Err(place(&path)(error)),
        Ok(file) => file.take(LOCK_LEN).read_to_end(&mut bytes).map_err(place(&path))?,
    };
    Ok(bytes)
}

fn marker_name(lock: &[u8], cleaned: &Cleaned, toolchain: &Toolchain, manifests: Digest) -> String {
    let lock = Digest::of(lock);
    let cargo = (toolchain.versions.get("cargo"), toolchain.versions.get("rustc"), &toolchain.bin);
    let all = format!("{MARKER_VERSION} {TARGET} {lock} {cleaned:?} {cargo:?} {manifests}");
    format!("{}.json", Digest::of(all.as_bytes()))
}

/// Returns a digest of all manifests of a source: which of the lock's packages the target needs stands there. Vendored packages are all here anyway.
fn manifests(source: &Path, vendored: &[PathBuf]) -> io::Result<Digest> {
    let (mut found, mut open, mut n_left) = (BTreeMap::new(), vec![source.to_owned()], N_DIRECTORIES);
    while let Some(dir) = open.pop() {
        n_left = n_left.checked_sub(1).ok_or_else(|| io::Error::other("more than a million directories"))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() && !vendored.contains(&path) {
                open.push(path);
            } else if kind.is_file() && entry.file_name() == "Cargo.toml" {
                found.insert(path.clone(), Digest::of(&fs::read(&path)?));
            }
        }
    }
    Ok(Digest::of(format!("{found:?}").as_bytes()))
}

fn not_found(program: &str) -> ProcessError {
    ProcessError::Start { program: program.into(), source: io::ErrorKind::NotFound.into() }
}

fn place(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Place { path, source }
}

#[cfg(test)]
mod tests;
