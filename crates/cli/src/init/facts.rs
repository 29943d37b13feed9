//! What a repository is, as far as its top directory tells.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use df_core::name::PathText;
use df_core::text::{escape_lines, shorten};
use serde_json::Value;

use super::InitError;

/// What `df init` goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The top of the repository's working tree.
    pub top: PathBuf,
    /// Git's own list of what it leaves alone here (`info/exclude`).
    pub exclude: PathBuf,
    /// The directory's name.
    pub name: String,
    /// What kind of project it is.
    pub project: Project,
}

/// A kind of project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Project {
    /// The packages of a cargo workspace.
    Cargo(Vec<Package>),
    /// A Makefile.
    Make,
    /// A package.json.
    Npm {
        /// It has a script `build`.
        builds: bool,
    },
    /// An index.html: files and directories that are the site.
    Static(Vec<PathText>),
    /// Nothing known.
    Unknown,
}

/// A package of a cargo workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its Cargo.toml is the one at the top.
    pub at_top: bool,
    /// Its programs.
    pub bins: Vec<String>,
    /// Its examples.
    pub examples: Vec<String>,
    /// The program that `cargo run` starts.
    pub default_run: Option<String>,
    /// It links the library that takes listeners from df-node.
    pub links_library: bool,
}

impl Package {
    /// Returns what df.yaml lists, and under which key: programs, or examples where there are no programs.
    pub(super) fn programs(&self) -> (&'static str, &[String]) {
        if self.bins.is_empty() { ("examples", &self.examples) } else { ("bins", &self.bins) }
    }

    pub(super) fn main_program(&self) -> Option<&str> {
        let programs = self.programs().1;
        let named = [self.default_run.as_ref(), Some(&self.name)];
        let named = named.into_iter().flatten().find(|name| programs.contains(name));
        named.or(programs.first()).map(String::as_str)
    }

    pub(super) fn takes_listeners(&self) -> bool {
        self.links_library && self.main_program().is_some()
    }
}

/// Finds out what the repository around `dir` is. Runs `cargo metadata` where there is a Cargo.toml; it stays off the network.
///
/// # Errors
/// There is no repository, or cargo does not understand it.
pub fn look(dir: &Path) -> Result<Facts, InitError> {
    let failed = |source| InitError::Io { path: dir.to_owned(), source };
    let dir = dir.canonicalize().map_err(failed)?;
    let top = dir.ancestors().find(|dir| dir.join(".git").symlink_metadata().is_ok());
    let top = top.ok_or_else(|| InitError::NoRepository { dir: dir.clone() })?;
    let name = top.file_name().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).unwrap_or_default();
    Ok(Facts { top: top.to_owned(), exclude: exclude_file(top)?, name, project: project(top)? })
}

fn project(top: &Path) -> Result<Project, InitError> {
    let has = |name: &str| top.join(name).is_file();
    Ok(match () {
        () if has("Cargo.toml") => Project::Cargo(packages(top)?),
        () if has("Makefile") || has("makefile") || has("GNUmakefile") => Project::Make,
        () if has("package.json") => Project::Npm { builds: builds(&top.join("package.json")) },
        () if has("index.html") => Project::Static(top_entries(top)?),
        () => match ["static", "public", "site", "www", "html"].iter().find(|name| has(&format!("{name}/index.html"))) {
            Some(name) => Project::Static(vec![PathText::new(name).expect("one of the names above")]),
            None => Project::Unknown,
        },
    })
}

/// Returns the exclude file; a linked working tree shares it with the repository that it belongs to.
fn exclude_file(top: &Path) -> Result<PathBuf, InitError> {
    let git = top.join(".git");
    let read = |path: &Path| fs::read_to_string(path).map_err(|source| InitError::Io { path: path.to_owned(), source });
    if git.is_dir() {
        return Ok(git.join("info/exclude"));
    }
    let text = read(&git)?;
    let Some(dir) = text.strip_prefix("gitdir:") else { return Err(InitError::NoRepository { dir: top.to_owned() }) };
    let dir = top.join(dir.trim());
    let common = match fs::read_to_string(dir.join("commondir")) {
        Ok(common) => dir.join(common.trim()),
        Err(_) => dir,
    };
    Ok(common.join("info/exclude"))
}

fn packages(top: &Path) -> Result<Vec<Package>, InitError> {
    let manifest = top.join("Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(top).stdin(Stdio::null());
    let output = command.output().map_err(|source| InitError::Io { path: "cargo".into(), source })?;
    let refused = |said: &[u8]| InitError::Cargo { manifest: manifest.clone(), said: shorten(escape_lines(said).trim(), 2000) };
    if !output.status.success() {
        return Err(refused(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|_| refused(b"its answer is no JSON"))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(packages.filter_map(|value| package(value, &manifest)).collect())
}

fn package(value: &Value, top: &Path) -> Option<Package> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let targets = |kind: &str| {
        let targets = value["targets"].as_array().into_iter().flatten();
        let of_kind = targets.filter(|target| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind)));
        let mut names: Vec<String> = of_kind.filter_map(|target| text(&target["name"])).collect();
        names.sort_unstable();
        names
    };
    let mut dependencies = value["dependencies"].as_array().into_iter().flatten();
    Some(Package {
        name: text(&value["name"])?,
        at_top: value["manifest_path"].as_str().is_some_and(|path| Path::new(path) == top),
        bins: targets("bin"),
        examples: targets("example"),
        default_run: text(&value["default_run"]),
        links_library: value["name"] == "distributive-flow"
            || dependencies.any(|dependency| dependency["name"] == "distributive-flow"),
    })
}

fn builds(package_json: &Path) -> bool {
    let json: Option<Value> = fs::read(package_json).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json.is_some_and(|json| json["scripts"]["build"].is_string())
}

/// Returns what lies at the top and can be named in df.yaml, hidden things left out.
fn top_entries(top: &Path) -> Result<Vec<PathText>, InitError> {
    let entries = fs::read_dir(top).map_err(|source| InitError::Io { path: top.to_owned(), source })?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let shown = |name: &String| !name.starts_with(['.', '~']) && !name.starts_with("x-") && name != "df.yaml";
    let mut paths: Vec<PathText> = names.filter(shown).filter_map(|name| PathText::new(&name).ok()).collect();
    paths.sort_unstable();
    Ok(paths)
}
