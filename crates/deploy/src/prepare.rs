//! What starting a release takes: its ports, its directories, its environment, its arguments.
//!
//! The environment of a program is made here from nothing: PATH, LANG and HOME (its data directory), `run.env`, then the lines of `env_file`, then what df says
//! (`DF_...`, and `PORT_<NAME>`, `HOST_<NAME>`, `ADDR_<NAME>` for each port). What df says wins.
//! In arguments `{fd:NAME}`, `{port:NAME}`, `{host:NAME}` and `{addr:NAME}` are replaced, and `{{` is a brace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use df_cache::durable;
use df_core::name::Label;
use df_core::spec::{Handoff, RunSection};
use df_core::{AppName, Release};

use crate::launch::{self, Ids, LaunchSpec, Limits, UserError};
use crate::layout::{Layout, make_dir};

/// One port of a program on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortAt {
    /// Its name.
    pub name: Label,
    /// Where it is.
    pub address: SocketAddr,
    /// How it goes from one version to the next.
    pub handoff: Handoff,
}

/// A release cannot be started here; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PrepareError {
    #[error("run.user")]
    User(#[source] UserError),
    #[error("run.env_file {}", path.display())]
    EnvFile { path: PathBuf, #[source] source: io::Error },
    #[error("run.env_file {} line {line}: not NAME=value", path.display())]
    EnvLine { path: PathBuf, line: usize },
    #[error("the image has no program {}", df_core::text::escape(exec.as_bytes()))]
    NoProgram { exec: String },
    #[error("argument {}: unknown placeholder", df_core::text::escape(argument.as_bytes()))]
    Placeholder { argument: String },
    #[error("make {}", path.display())]
    Directory { path: PathBuf, #[source] source: io::Error },
}

/// The longest environment file that is read.
const ENV_FILE_LEN: u64 = 1 << 20;

/// Returns where the ports of a program are on this node, in the order of their names.
pub fn ports(run: &RunSection, listen: IpAddr) -> Vec<PortAt> {
    let at = |(name, port): (&Label, &df_core::spec::Port)| PortAt {
        name: name.clone(),
        address: SocketAddr::new(port.host.unwrap_or(listen), port.port),
        handoff: port.handoff,
    };
    run.ports.iter().map(at).collect()
}

/// Returns the order to start a release's program. Reads, and changes nothing.
///
/// # Errors
/// Something that it needs is not there.
pub fn order(layout: &Layout, release: &Release, run: &RunSection, generation: u64, ports: &[PortAt]) -> Result<LaunchSpec, PrepareError> {
    let image = layout.image(release.image);
    let program = image.join(run.exec.as_str());
    if !fs::metadata(&program).is_ok_and(|meta| meta.is_file()) {
        return Err(PrepareError::NoProgram { exec: run.exec.as_str().to_owned() });
    }
    let listeners: Vec<&PortAt> = ports.iter().filter(|port| port.handoff == Handoff::Listener).collect();
    let args = run.args.iter().map(|argument| expand(argument, ports)).collect::<Result<_, _>>()?;
    Ok(LaunchSpec {
        program,
        args,
        env: environment(layout, release, run, generation, ports)?,
        directory: layout.app_data(&release.app),
        listeners: listeners.iter().map(|port| port.name.to_string()).collect(),
        user: user(run)?,
        limits: Limits { nofile: run.limits.nofile, address_space_bytes: run.limits.memory },
    })
}

/// Returns the order to run a command of the image, in the environment of its program.
pub fn command(program: &LaunchSpec, image: &Path, argv: &[String]) -> LaunchSpec {
    let (first, rest) = argv.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let mut spec = LaunchSpec { program: image.join(first), args: rest.to_vec(), listeners: vec![], ..program.clone() };
    spec.env.remove("NOTIFY_SOCKET");
    spec
}

/// Puts the address of a port into an environment.
pub fn put_port(env: &mut BTreeMap<String, String>, name: &Label, address: SocketAddr) {
    let name: String = name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    env.insert(format!("PORT_{name}"), address.port().to_string());
    env.insert(format!("HOST_{name}"), address.ip().to_string());
    env.insert(format!("ADDR_{name}"), address.to_string());
}

/// Makes the application's own directories: DATA/<app>, which is never touched once it is there, and TMP/<app>, which is emptied when `fresh`.
///
/// # Errors
/// A directory cannot be made or given to its user.
pub fn directories(layout: &Layout, app: &AppName, user: Option<&Ids>, fresh: bool) -> Result<(), PrepareError> {
    for (path, empty) in [(layout.app_data(app), false), (layout.app_tmp(app), fresh)] {
        let made = make_own(&path, user).and_then(|()| if empty { clear(&path) } else { Ok(()) });
        made.map_err(|source| PrepareError::Directory { path, source })?;
    }
    Ok(())
}

fn make_own(path: &Path, user: Option<&Ids>) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    make_dir(path)?;
    match user {
        Some(ids) => std::os::unix::fs::lchown(path, Some(ids.uid), Some(ids.gid)),
        None => Ok(()),
    }
}

fn clear(path: &Path) -> io::Result<()> {
    fs::read_dir(path)?.try_for_each(|entry| durable::remove_tree(&entry?.path()))
}

/// Returns whom a program runs as, when that is somebody else.
fn user(run: &RunSection) -> Result<Option<Ids>, PrepareError> {
    run.user.as_deref().map(launch::lookup).transpose().map_err(PrepareError::User)
}

fn environment(
    layout: &Layout,
    release: &Release,
    run: &RunSection,
    generation: u64,
    ports: &[PortAt],
) -> Result<BTreeMap<String, String>, PrepareError> {
    let app = &release.app;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (data, tmp) = (text(layout.app_data(app)), text(layout.app_tmp(app)));
    let mut env: BTreeMap<String, String> = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", &data)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    env.extend(run.env.clone());
    if let Some(file) = &run.env_file {
        env.extend(env_file(&layout.app_data(app).join(file))?);
    }
    let (image, generation) = (text(layout.image(release.image)), generation.to_string());
    let ours = [
        ("DF_APP", app.as_str()),
        ("DF_COMMIT", release.commit.as_str()),
        ("DF_GENERATION", &generation),
        ("DF_IMAGE", &image),
        ("DF_DATA", &data),
        ("DF_TMP", &tmp),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    ports.iter().for_each(|port| put_port(&mut env, &port.name, port.address));
    // Set by who starts the program; a value from elsewhere would only mislead it.
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
        env.remove(name);
    }
    Ok(env)
}

fn env_file(path: &Path) -> Result<Vec<(String, String)>, PrepareError> {
    let failed = |source| PrepareError::EnvFile { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path).and_then(|file| file.take(ENV_FILE_LEN).read_to_string(&mut text)).map_err(failed)?;
    let lines = (1..).zip(text.lines()).map(|(line, text)| (line, text.trim_end()));
    lines
        .filter(|(_, text)| !text.is_empty() && !text.starts_with('#'))
        .map(|(line, text)| match text.split_once('=') {
            Some((name, value)) if is_variable(name) => Ok((name.to_owned(), value.to_owned())),
            _ => Err(PrepareError::EnvLine { path: path.to_owned(), line }),
        })
        .collect()
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Replaces what an argument asks of ports.
fn expand(argument: &str, ports: &[PortAt]) -> Result<String, PrepareError> {
    let unknown = || PrepareError::Placeholder { argument: argument.to_owned() };
    let (mut out, mut rest) = (String::new(), argument);
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            out.push('{');
            rest = after;
            continue;
        }
        let (inner, after) = after.split_once('}').ok_or_else(unknown)?;
        let (what, name) = inner.split_once(':').ok_or_else(unknown)?;
        out.push_str(&placeholder(what, name, ports).ok_or_else(unknown)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn placeholder(what: &str, name: &str, ports: &[PortAt]) -> Option<String> {
    let port = ports.iter().find(|port| port.name.as_str() == name)?;
    match what {
        "port" => Some(port.address.port().to_string()),
        "host" => Some(port.address.ip().to_string()),
        "addr" => Some(port.address.to_string()),
        "fd" => {
            let mut listeners = ports.iter().filter(|port| port.handoff == Handoff::Listener);
            let at = listeners.position(|port| port.name.as_str() == name)?;
            Some((3 + at).to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, number: u16, handoff: Handoff) -> PortAt {
        PortAt { name: name.parse().expect("a label"), address: SocketAddr::from(([127, 0, 0, 1], number)), handoff }
    }

    #[test]
    fn placeholders_stand_for_what_the_port_gets() {
        let ports = [port("admin", 9, Handoff::Restart), port("http", 80, Handoff::Listener), port("tls", 443, Handoff::Listener)];
        for (argument, expected) in [
            ("--fd={fd:http}", Some("--fd=3")),
            ("{fd:tls}", Some("4")),
            ("{port:admin}/{host:admin}/{addr:tls}", Some("9/127.0.0.1/127.0.0.1:443")),
            ("{{x}", Some("{x}")),
            ("plain", Some("plain")),
            ("{fd:admin}", None),
            ("{fd:none}", None),
            ("{x}", None),
            ("{", None),
        ] {
            assert_eq!(expand(argument, &ports).ok().as_deref(), expected, "{argument}");
        }
    }

    #[test]
    fn an_environment_file_is_lines_of_names_and_values() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("env");
        fs::write(&path, "# secrets\nA=1\n\nB=x=y z\n").expect("written");
        assert_eq!(env_file(&path).expect("read"), [("A".into(), "1".into()), ("B".into(), "x=y z".into())]);
        fs::write(&path, "A=1\nnonsense\n").expect("written");
        assert!(env_file(&path).expect_err("refused").to_string().ends_with("line 2: not NAME=value"));
        assert!(env_file(&dir.path().join("missing")).is_err());
    }
}
