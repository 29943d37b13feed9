//! df.yaml: the text, and the checked values that come of it.
//!
//! Every key and value is either used or refused, with file, line and column: unknown keys with the nearest right one, values with the
//! range they must be in, and what is promised but not built yet in words. Keys that begin with `x-` are the user's own, at any level. A
//! key without a value (`run:` with nothing below it) is as good as absent.
//!
//! A text is what it says: `no`, `012` and `1e3` are names where a name is wanted, and only where a number or a flag is wanted is
//! anything else read out of them.
//!
//! `build`, `run` and `verify` belong to a commit and are read from the df.yaml in it; all else from the file on disk. [`Config::parse`]
//! reads either; the caller takes from each what belongs to it, and [`commit_sections_differ`] tells whether that is worth a mention.

mod argv;
mod build;
mod error;
pub(crate) mod keys;
mod place;
mod run;
mod trust;
mod value;
mod verify;
mod yaml;

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use df_core::attestation::Policy;
use df_core::name::AppName;
use df_core::spec::{BuildSection, Probe, RunSection};
use df_core::text::escape;

pub use error::{ConfigError, Hint, Place, Wrong};
pub use place::{CacheConfig, Keep, Paths, Remote, Rollout};

use error::Fault;
use value::{Section, Value};

/// The longest df.yaml that is read.
pub const MAX_BYTES: usize = 1 << 20;

/// What a df.yaml says, with the defaults for what it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The application.
    pub app: AppName,
    /// How a commit becomes an image.
    pub build: BuildSection,
    /// What runs; absent where an image is only put on nodes.
    pub run: Option<RunSection>,
    /// How a version is verified.
    pub verify: Vec<Probe>,
    /// Addresses of nodes, besides those of `df add`.
    pub nodes: Vec<String>,
    /// Where the cache is.
    pub cache: CacheConfig,
    /// How a release comes to many nodes.
    pub rollout: Rollout,
    /// What `gc` keeps.
    pub keep: Keep,
    /// Directories on nodes.
    pub paths: Paths,
    /// Who must have vouched for a release.
    pub trust: Policy,
    /// How long what was published last counts as the newest.
    pub newest: Duration,
}

impl Config {
    /// Reads and checks a file: a regular one, not a link to one, of at most [`MAX_BYTES`].
    ///
    /// # Errors
    /// The file cannot be read, or what it says is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let origin = escape(path.as_os_str().as_bytes());
        let bytes = read_bytes(path, &origin)?;
        Self::parse(&bytes, &origin)
    }

    /// Checks a text; `origin` is what messages call it, such as `df.yaml` or `df.yaml in 0a1b2c3d4e5f`.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError::TooLong { origin: origin.to_owned(), limit: MAX_BYTES });
        }
        utf8(text).and_then(|text| check(&Value::top(&yaml::read(text)?))).map_err(|fault| fault.within(origin))
    }
}

/// Tells whether two configurations differ in what belongs to a commit.
pub fn commit_sections_differ(a: &Config, b: &Config) -> bool {
    a.build != b.build || a.run != b.run || a.verify != b.verify
}

fn check(top: &Value<'_>) -> Result<Config, Fault> {
    let section = Section::open(top, "")?;
    refuse_unbuilt(&section)?;
    let app = section.need("app")?.name(AppName::new)?;
    let run = section.option("run", run::read)?;
    let (verify, targets) = section.or("verify", (Vec::new(), Vec::new()), |value| verify::read(value, run.as_ref()))?;
    Ok(Config {
        app,
        build: build::read(&section.need("build")?, &targets)?,
        run,
        verify,
        nodes: section.or("nodes", Vec::new(), place::nodes)?,
        cache: section.or("cache", CacheConfig::default(), place::cache)?,
        rollout: section.or("rollout", Rollout::default(), place::rollout)?,
        keep: section.or("keep", Keep::default(), place::keep)?,
        paths: section.or("paths", Paths::default(), place::paths)?,
        trust: section.or("trust", Policy::default(), trust::read)?,
        newest: section.or("trust", trust::NEWEST, trust::newest)?,
    })
}

fn refuse_unbuilt(section: &Section<'_>) -> Result<(), Fault> {
    if let Some(backend) = section.get("backend")
        && !matches!(backend.word()?, "local" | "ssh")
    {
        return Err(backend.not_built("any backend but local and ssh is"));
    }
    section.not_built("image", "making nodes from machine images is")?;
    section.not_built_unless_empty("public_keys", "making nodes, which these keys would go to, is")?;
    match section.get("placement") {
        Some(placement) if placement.is_map() || placement.text()? != "any" => {
            Err(placement.not_built("any placement but \"any\" is"))
        }
        _ => Ok(()),
    }
}

fn read_bytes(path: &Path, origin: &str) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Read { origin: origin.to_owned(), source };
    let not_regular = |what| Err(ConfigError::NotRegular { origin: origin.to_owned(), what });
    // A link is refused by the open itself, and a pipe without a writer must not hold us up.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file: File = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return not_regular("a symbolic link"),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return not_regular("a socket or a device"),
        Err(error) => return Err(failed(error)),
    };
    let kind = file.metadata().map_err(failed)?.file_type();
    match () {
        () if kind.is_file() => {}
        () if kind.is_dir() => return not_regular("a directory"),
        () if kind.is_fifo() => return not_regular("a pipe"),
        () => return not_regular("a device"),
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
        Fault::syntax(Place { line, column }, "this is not UTF-8")
    })
}

#[cfg(test)]
mod tests;
