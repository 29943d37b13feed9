//! `df init`: a df.yaml that fits the repository it stands in.
//!
//! [`look`] finds out what the repository is, [`text`] decides what to write (a plain function of those facts), [`write()`] writes it and
//! never over something.

mod facts;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use df_core::name::AppName;
use df_core::text::escape;

pub use facts::{Facts, Package, Project, look};

/// No df.yaml was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// What is built are commits.
    #[error("{} is in no git repository; `git init` makes one", escape(.dir.as_os_str().as_bytes()))]
    NoRepository {
        /// Where it was looked for, and in all directories above.
        dir: PathBuf,
    },
    /// Never overwritten.
    #[error("{} is there already; nothing was changed", escape(.file.as_os_str().as_bytes()))]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// cargo does not understand the Cargo.toml.
    #[error("cargo cannot read {}: {said}", escape(.manifest.as_os_str().as_bytes()))]
    Cargo {
        /// The Cargo.toml.
        manifest: PathBuf,
        /// What cargo said, fit for a terminal.
        said: String,
    },
    /// A file or directory of the repository.
    #[error("read or write {}", escape(.path.as_os_str().as_bytes()))]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What `df init` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The df.yaml.
    pub file: PathBuf,
    /// Git was told to leave `.df/` alone; false where it knew already.
    pub excluded: bool,
}

/// Returns the text of a df.yaml that fits.
pub fn text(facts: &Facts) -> String {
    let mut text = String::from(
        "# What is built, what runs, how it is verified, and where. df.yaml.example in the source of distributive-flow shows every key.\n",
    );
    let app = app_name(facts);
    line(&mut text, format_args!("app: {}\n\nbuild:", quoted(app.as_str())));
    text.push_str(&build(&facts.project));
    text.push_str(&run(&facts.project));
    text.push_str(NODES);
    text
}

/// Returns what to do next, one line each.
pub fn next(facts: &Facts) -> Vec<&'static str> {
    let mut next = match &facts.project {
        Project::Cargo(packages) if packages.iter().any(Package::takes_listeners) => vec!["look over df.yaml, then commit it"],
        Project::Static(_) => vec!["look over df.yaml, then commit it"],
        _ => vec!["say in df.yaml what the comments leave open (ports, verify), then commit it"],
    };
    next.extend([
        "git add df.yaml && git commit -m 'Describe the application to df'",
        "df build",
        "df add local:node1",
        "df deploy",
    ]);
    next
}

/// Writes the text to `df.yaml` at the top of the repository, and puts `.df/` into git's own exclude file.
///
/// # Errors
/// A df.yaml is there already (even as a link that leads nowhere), or the files cannot be written.
pub fn write(facts: &Facts) -> Result<Written, InitError> {
    let file = facts.top.join("df.yaml");
    let opened = OpenOptions::new().write(true).create_new(true).open(&file);
    let mut out = opened.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists { file: file.clone() },
        _ => InitError::Io { path: file.clone(), source },
    })?;
    out.write_all(text(facts).as_bytes()).map_err(|source| InitError::Io { path: file.clone(), source })?;
    let excluded = exclude(&facts.exclude)?;
    Ok(Written { file, excluded })
}

const NODES: &str =
    "\n# Nodes: `df add ADDRESS` keeps a list beside this file; addresses here are for CI and small teams.\nnodes: []\n";

/// A program that takes its listener from df-node, and says when it is ready.
const LISTENS: &str =
    "  ports: { http: 8080 }\n\nverify:\n  - tcp: { port: http }\n  # - http: { port: http, path: /health, status: 200 }\n";

/// A program of which it is not known whether and how it listens.
const MAY_LISTEN: &str = "  # df-node must learn when a new version is ready: the program sends READY=1 to NOTIFY_SOCKET, or a probe passes. A server says where it\n  \
     # listens: {port:http} among its arguments stands for the port, and \"restart\" is for a program that binds the port by itself; with\n  \
     # \"listener\" it takes the descriptor {fd:http} (LISTEN_FDS), and no client notices an upgrade.\n  \
     # args: [\"--port\", \"{port:http}\"]\n  # ports: { http: 8080 }\n  # handoff: restart\n\n\
     # verify:\n#   - http: { port: http, path: /, status: 200 }\n";

fn build(project: &Project) -> String {
    match project {
        Project::Cargo(packages) => cargo(packages),
        Project::Make => "  command: make\n  output: dist        # the directory that the command leaves\n".to_owned(),
        Project::Npm { builds: true } => "  command: npm ci && npm run build\n  output: dist        # the directory that the command leaves\n".to_owned(),
        Project::Npm { builds: false } => {
            "  command: npm ci --omit=dev && mkdir dist && cp -r package.json node_modules dist/\n  output: dist        # the directory that the command leaves; copy what else is needed\n".to_owned()
        }
        Project::Static(paths) => {
            let mut text = String::from("  include:            # path in the commit: path in the image\n");
            for path in paths {
                line(&mut text, format_args!("    {0}: {0}", quoted(path.as_str())));
            }
            text
        }
        Project::Unknown => "  # Say how the image is made: a command at the top of the source, and the directory that it leaves.\n  command: ./build.sh\n  output: dist\n".to_owned(),
    }
}

fn cargo(packages: &[Package]) -> String {
    let Some(package) = main_package(packages) else { return "  cargo:\n".to_owned() };
    let mut text = String::new();
    let (kind, programs) = package.programs();
    let list = programs.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    line(&mut text, format_args!("  cargo: {{ package: {}, {kind}: [{list}] }}", quoted(&package.name)));
    let others: Vec<_> = packages.iter().filter(|other| other.name != package.name && !other.bins.is_empty()).collect();
    if !others.is_empty() {
        let names = others.iter().map(|other| escape(other.name.as_bytes())).collect::<Vec<_>>().join(", ");
        line(&mut text, format_args!("  # Other packages with programs: {names}"));
    }
    text
}

fn run(project: &Project) -> String {
    let (exec, rest) = match project {
        Project::Cargo(packages) => match main_package(packages).and_then(|package| Some((package.main_program()?, package))) {
            Some((program, package)) => (format!("bin/{program}"), if package.takes_listeners() { LISTENS } else { MAY_LISTEN }),
            None => return "\n# No program was found to run; this image is only put on nodes.\n".to_owned(),
        },
        Project::Static(_) => {
            return "\n# Nothing runs: the files are only put on nodes. A `run` section names a program of the image.\n"
                .to_owned();
        }
        Project::Make | Project::Npm { .. } | Project::Unknown => {
            return format!("\n# run:\n  # exec: bin/server   # a program of the image\n{MAY_LISTEN}");
        }
    };
    format!("\nrun:\n  exec: {}\n{rest}", quoted(&exec))
}

/// Returns the package that is most likely meant: one at the top, one with programs, one with examples.
fn main_package(packages: &[Package]) -> Option<&Package> {
    packages.iter().min_by_key(|package| match () {
        () if package.at_top && !package.bins.is_empty() => 0,
        () if !package.bins.is_empty() => 1,
        () if !package.examples.is_empty() => 2,
        () => 3,
    })
}

/// Returns the name of the main package, or of the directory, made fit for an application.
fn app_name(facts: &Facts) -> AppName {
    let package = match &facts.project {
        Project::Cargo(packages) => main_package(packages).map(|package| package.name.as_str()),
        _ => None,
    };
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c.to_ascii_lowercase() } else { '-' };
    let name: String = package.unwrap_or(&facts.name).chars().map(fit).take(63).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    AppName::new(name).unwrap_or_else(|_| AppName::new("app").expect("\"app\" is a name"))
}

/// Returns the text as a YAML scalar that every reader takes for this very text.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let taken = matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if word && !taken { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

/// Puts `.df/` into the exclude file, unless it is there; returns whether it was put.
fn exclude(file: &Path) -> Result<bool, InitError> {
    let failed = |source| InitError::Io { path: file.to_owned(), source };
    let before = match fs::read(file) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    if before.split(|b| *b == b'\n').any(|line| matches!(line.trim_ascii(), b".df/" | b".df" | b"/.df/" | b"/.df")) {
        return Ok(false);
    }
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let newline = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
    let mut out = OpenOptions::new().append(true).create(true).open(file).map_err(failed)?;
    out.write_all(format!("{newline}.df/\n").as_bytes()).map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
