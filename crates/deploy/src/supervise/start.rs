//! What a version of an application is started with.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use df_core::name::Label;
use df_core::spec::{Handoff, RunSection, Transport};
use df_core::{AppName, Endpoint, Release};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::front::{self, FrontError};
use crate::launch::{self, LaunchSpec, Limits, NO_PIDS, UserError};
use crate::layout::{Layout, make_dir};
use crate::members;
use crate::users;

/// Bytes of a file with variables.
const ENV_FILE_LEN: u64 = 256 << 10;

/// A port of a version on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub label: Label,
    /// Where clients reach it.
    pub address: Endpoint,
    /// How it goes from one version to the next.
    pub handoff: Handoff,
    /// Who may connect, where it is in the file system.
    pub mode: Option<u16>,
}

/// Where supervisor and program meet; empty: nowhere.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Where the supervisor hears the program.
    pub notify: String,
    /// Where the program hears whom to give its connections to.
    pub handoff: String,
}

/// A version cannot be started; nothing was.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("the image has no program {0}")]
    NoProgram(String),
    #[error("run.user")]
    User(#[source] UserError),
    #[error("{NO_PIDS}")]
    Pids,
    #[error("users.json of the node")]
    Users(#[source] io::Error),
    #[error(transparent)]
    Front(#[from] FrontError),
    #[error("run.env_file {}", path.display())]
    EnvFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("run.env_file {}: line {line} is not NAME=value", path.display())]
    EnvLine { path: PathBuf, line: usize },
    #[error("the directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Returns the ports of a version, those for which there is a listening descriptor first, each kind in order of names.
pub fn places(run: &RunSection, listen: IpAddr) -> Vec<Place> {
    let place = |(label, port): (&Label, &df_core::spec::Port)| Place {
        label: label.clone(),
        address: port.endpoint(listen),
        handoff: port.handoff,
        mode: match &port.transport {
            Transport::Unix(socket) => Some(socket.mode),
            Transport::Tcp | Transport::Udp => None,
        },
    };
    let mut places: Vec<Place> = run.ports.iter().map(place).collect();
    places.sort_by_key(|place| !place.handoff.has_listener());
    places
}

/// Prepares the start of a version: everything that can be refused is refused here, before anything moves.
///
/// The program's whole environment is made here; nothing of ours leaks into it. DATA is made and never touched again.
///
/// # Errors
/// Says what is missing on the node.
pub fn prepare(
    layout: &Layout,
    release: &Release,
    run: &RunSection,
    generation: u64,
    places: &[Place],
    addresses: &Addresses,
) -> Result<LaunchSpec, StartError> {
    let image = layout.image(release.image);
    let program = image.join(run.exec.path().as_path());
    if !program.is_file() {
        return Err(StartError::NoProgram(run.exec.to_string()));
    }
    let user = owner(layout, &release.app, run)?;
    let is_own = run.user.is_none() && user.is_some();
    let (data, tmp) = (layout.app_data(&release.app), layout.app_tmp(&release.app));
    for dir in [&data, &tmp] {
        make_own(dir, user.as_ref(), is_own).map_err(|source| StartError::Directory { path: dir.clone(), source })?;
    }
    if let Some(ids) = &user {
        correct(&tmp, ids, is_own).map_err(|source| StartError::Directory { path: tmp.clone(), source })?;
    }
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.insert("HOME".into(), data.display().to_string());
    if is_own {
        env.extend(["USER", "LOGNAME"].map(|name| (name.to_owned(), release.app.to_string())));
    }
    env.extend(run.env.clone());
    if let Some(file) = &run.env_file {
        let is_foreign = user.as_ref().is_some_and(|ids| ids.uid != rustix::process::geteuid().as_raw());
        env.extend(read_env_file(&data, file, is_foreign)?);
    }
    env.extend(given(layout, release, generation, addresses));
    env.insert("DF_CONNECTIONS".into(), connections(run));
    env.extend(places.iter().flat_map(bindable));
    env.extend(front::port_variable(places));
    if run.ports.values().any(|port| port.handoff == Handoff::Proxy) {
        front::find()?;
    }
    if run.limits.pids.is_some() && !members::counts_pids() {
        return Err(StartError::Pids);
    }
    Ok(LaunchSpec {
        program,
        args: run.args.iter().map(|arg| fill(arg, places)).collect(),
        env,
        directory: image,
        listeners: places.iter().filter(|place| place.handoff.has_listener()).map(|place| place.label.to_string()).collect(),
        user,
        limits: Limits { nofile: run.limits.nofile, memory: run.limits.memory, pids: run.limits.pids },
    })
}

/// Returns whom a version runs as, and whom what is made for it belongs to: whom it says, else the application's own user, else ourselves.
///
/// # Errors
/// The node has no such user, or it cannot be told who has which.
pub fn owner(layout: &Layout, app: &AppName, run: &RunSection) -> Result<Option<launch::Ids>, StartError> {
    match run.user.as_deref() {
        Some(user) => launch::lookup(user).map(Some).map_err(StartError::User),
        None => users::of(layout, app).map_err(StartError::Users),
    }
}

/// Empties the directory that an application may lose; called when none of its versions runs.
///
/// # Errors
/// It cannot be emptied.
pub fn empty_tmp(layout: &Layout, release: &Release) -> io::Result<()> {
    let tmp = layout.app_tmp(&release.app);
    let entries = match fs::read_dir(&tmp) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    entries.into_iter().try_for_each(|entry| df_cache::durable::remove_tree(&entry?.path()))
}

/// Makes a directory of a user; one that `is_own` keeps others out. It has its name when it has its owner: who is killed between leaves nothing that counts.
fn make_own(dir: &Path, user: Option<&launch::Ids>, is_own: bool) -> io::Result<()> {
    let (Some(ids), Some(parent), Some(name)) = (user, dir.parent(), dir.file_name()) else { return make_dir(dir) };
    if dir.is_dir() {
        return Ok(());
    }
    make_dir(parent)?;
    let new = parent.join(format!("{}{}", df_cache::durable::TEMPORARY, name.display()));
    let make = || fs::DirBuilder::new().mode(0o700).create(&new);
    make().or_else(|_| fs::remove_dir(&new).and_then(|()| make()))?;
    hand_to(&new, ids, Some(if is_own { 0o700 } else { 0o755 }))?;
    df_cache::durable::rename_new(&new, dir)
}

/// Gives what an application may lose to the user it has by now, when it was ours or another's of our numbers. What somebody else made of it stays.
fn correct(dir: &Path, ids: &launch::Ids, is_own: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(dir)?;
    let was_ours = found.uid() == rustix::process::geteuid().as_raw() || (is_own && users::is_number(found.uid()));
    if !found.is_dir() || found.uid() == ids.uid || !was_ours {
        return Ok(());
    }
    hand_to(dir, ids, is_own.then_some(0o700))
}

/// Hands over a directory; no link is followed.
fn hand_to(dir: &Path, ids: &launch::Ids, mode: Option<u32>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = fs::File::from(rustix::fs::open(dir, flags, Mode::empty())?);
    if let Some(mode) = mode {
        dir.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    std::os::unix::fs::fchown(&dir, Some(ids.uid), Some(ids.gid))?;
    dir.sync_all()
}

/// Returns what df tells the program about itself.
fn given(layout: &Layout, release: &Release, generation: u64, addresses: &Addresses) -> Vec<(String, String)> {
    let pairs = [
        ("DF_APP", release.app.to_string()),
        ("DF_IMAGE", layout.image(release.image).display().to_string()),
        ("DF_DATA", layout.app_data(&release.app).display().to_string()),
        ("DF_TMP", layout.app_tmp(&release.app).display().to_string()),
        ("DF_COMMIT", release.commit.to_string()),
        ("DF_GENERATION", generation.to_string()),
        ("NOTIFY_SOCKET", addresses.notify.clone()),
        ("DF_HANDOFF", addresses.handoff.clone()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Returns what becomes of the open connections of each port.
fn connections(run: &RunSection) -> String {
    let parts: Vec<String> = run.ports.iter().map(|(label, port)| format!("{label}={}", port.connections.word())).collect();
    parts.join(":")
}

/// Returns HOST_HTTP and PORT_HTTP for a port named http, or SOCKET_HTTP for one in the file system, for programs that bind by themselves.
fn bindable(place: &Place) -> Vec<(String, String)> {
    let name = place.label.as_str().to_ascii_uppercase().replace('-', "_");
    match place.address.socket() {
        Some(address) => {
            vec![(format!("HOST_{name}"), address.ip().to_string()), (format!("PORT_{name}"), address.port().to_string())]
        }
        None => vec![(format!("SOCKET_{name}"), place.address.bare())],
    }
}

/// Reads a file of variables; one in the data of a program whose user `is_foreign` may not lead out of it: we could read more than that user.
fn read_env_file(data: &Path, file: &str, is_foreign: bool) -> Result<Vec<(String, String)>, StartError> {
    let (path, mut text) = (data.join(file), String::new());
    let opened = if is_foreign && Path::new(file).is_relative() { open_beneath(data, file) } else { open(&path) };
    let opened = opened.and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    });
    let read = opened.and_then(|file| file.take(ENV_FILE_LEN).read_to_string(&mut text));
    read.map_err(|source| StartError::EnvFile { path: path.clone(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    lines
        .map(|(at, line)| match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
            _ => Err(StartError::EnvLine { path: path.clone(), line: at + 1 }),
        })
        .collect()
}

/// How a file of variables is opened: a pipe in its place would be waited for.
const READING: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

fn open(path: &Path) -> io::Result<fs::File> {
    Ok(rustix::fs::open(path, READING, Mode::empty())?.into())
}

fn open_beneath(directory: &Path, file: &str) -> io::Result<fs::File> {
    let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(directory, file, READING | OFlags::NOFOLLOW, Mode::empty(), resolve)?.into())
}

/// Replaces `{fd:NAME}`, `{port:NAME}`, `{host:NAME}`, `{addr:NAME}` by what this node has for the port, and `{{` by a brace. What names no port stays as
/// it is: df.yaml was checked when it was read.
fn fill(arg: &str, places: &[Place]) -> String {
    let mut out = String::new();
    let mut rest = arg;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{{") {
            out.push('{');
            rest = after;
            continue;
        }
        let value = rest.find('}').and_then(|end| Some((end, placeholder(&rest[1..end], places)?)));
        match value {
            Some((end, value)) => {
                out.push_str(&value);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn placeholder(inner: &str, places: &[Place]) -> Option<String> {
    let (what, name) = inner.split_once(':')?;
    let at = places.iter().position(|place| place.label.as_str() == name)?;
    let address = &places[at].address;
    match what {
        "fd" if places[at].handoff == Handoff::Listener => Some((3 + at).to_string()),
        "port" => address.socket().map(|address| address.port().to_string()),
        "host" => address.ip().map(|ip| ip.to_string()),
        "addr" => Some(address.bare()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(label: &str, address: &str, handoff: Handoff) -> Place {
        Place { label: label.parse().expect("a label"), address: address.parse().expect("an address"), handoff, mode: None }
    }

    #[test]
    fn placeholders_become_what_the_node_has() {
        let places = [
            place("admin", "127.0.0.1:9", Handoff::Listener),
            place("dns", "udp:127.0.0.1:53", Handoff::Listener),
            place("local", "unix:/run/a.sock", Handoff::Listener),
            place("http", "[::1]:80", Handoff::Restart),
        ];
        for (arg, expected) in [
            ("--fd={fd:admin}", "--fd=3"),
            ("{host:admin}:{port:admin}", "127.0.0.1:9"),
            ("{addr:http}", "[::1]:80"),
            ("{{x} {fd:http} {what", "{x} {fd:http} {what"),
            ("{fd:dns} {addr:dns} {port:dns}", "4 127.0.0.1:53 53"),
            ("{fd:local} {addr:local} {port:local}", "5 /run/a.sock {port:local}"),
            ("plain", "plain"),
        ] {
            assert_eq!(fill(arg, &places), expected);
        }
    }

    #[test]
    fn a_file_of_variables_is_read_or_refused_by_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("env");
        fs::write(&path, "# secret\nA=1\n\n B =x=y\n").expect("written");
        let read = read_env_file(dir.path(), "env", false).expect("read");
        assert_eq!(read_env_file(dir.path(), "env", true).expect("read"), read);
        assert_eq!(read, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
        fs::write(&path, "A=1\nnonsense\n").expect("written");
        assert!(matches!(read_env_file(dir.path(), "env", true), Err(StartError::EnvLine { line: 2, .. })));
        assert!(matches!(read_env_file(dir.path(), "none", false), Err(StartError::EnvFile { .. })));
    }

    #[test]
    fn a_file_of_variables_that_an_application_points_elsewhere_is_not_read_for_it() {
        let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::NamedTempFile::new().expect("a file"));
        fs::write(other.path(), "SECRET=1\n").expect("written");
        std::os::unix::fs::symlink(other.path(), dir.path().join("env")).expect("linked");
        assert!(matches!(read_env_file(dir.path(), "env", true), Err(StartError::EnvFile { .. })));
        let absolute = other.path().to_str().expect("UTF-8");
        assert_eq!(read_env_file(dir.path(), absolute, true).expect("df.yaml says so").len(), 1);
        assert_eq!(read_env_file(dir.path(), "env", false).expect("its user is ours").len(), 1);
        fs::write(dir.path().join("real"), "A=1\n").expect("written");
        std::os::unix::fs::symlink("real", dir.path().join("near")).expect("linked");
        assert!(matches!(read_env_file(dir.path(), "near", true), Err(StartError::EnvFile { .. })));
    }

    #[test]
    fn a_pipe_in_place_of_a_file_of_variables_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("env"), rustix::fs::FileType::Fifo, mode, 0).expect("made");
        let absolute = dir.path().join("env").display().to_string();
        for (file, is_foreign) in [("env", true), ("env", false), (absolute.as_str(), true), (".", false)] {
            assert!(matches!(read_env_file(dir.path(), file, is_foreign), Err(StartError::EnvFile { .. })), "{file}");
        }
    }

    #[test]
    fn what_an_application_may_lose_is_emptied_and_nothing_that_a_link_in_it_leads_to() {
        let ((_dir, layout), elsewhere) = (crate::fixture::layout(), tempfile::tempdir().expect("a directory"));
        let release = crate::fixture::release("greeter", 1);
        let tmp = layout.app_tmp(&release.app);
        empty_tmp(&layout, &release).expect("nothing there is as well");
        fs::create_dir_all(tmp.join("deep/er")).expect("made");
        for file in [tmp.join("deep/er/a"), tmp.join(".hidden"), elsewhere.path().join("kept")] {
            fs::write(file, "").expect("written");
        }
        std::os::unix::fs::symlink(elsewhere.path(), tmp.join("link")).expect("linked");
        empty_tmp(&layout, &release).expect("emptied");
        assert_eq!(fs::read_dir(&tmp).expect("it stays itself").count(), 0);
        assert!(elsewhere.path().join("kept").exists());
    }

    #[test]
    fn what_a_kill_left_half_made_is_nobodys_directory() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let parent = tempfile::tempdir().expect("a directory");
        let (dir, ids) = (parent.path().join("a"), launch::Ids { uid: 60_578, gid: 60_578, groups: vec![] });
        fs::create_dir(parent.path().join(format!("{}a", df_cache::durable::TEMPORARY))).expect("made");
        make_own(&dir, Some(&ids), true).expect("made");
        let of = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid(), found.mode() & 0o777)).expect("there");
        assert_eq!(of(&dir), (60_578, 60_578, 0o700));
        assert_eq!(fs::read_dir(parent.path()).expect("read").count(), 1);
        make_own(&parent.path().join("b"), Some(&ids), false).expect("made");
        assert_eq!(of(&parent.path().join("b")), (60_578, 60_578, 0o755));
    }

    #[test]
    fn what_an_application_may_lose_belongs_to_whom_it_runs_as_by_now() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let ids = launch::Ids { uid: 60_579, gid: 60_579, groups: vec![] };
        let owner = || fs::metadata(dir.path()).map(|found| (found.uid(), found.gid())).expect("there");
        correct(dir.path(), &ids, true).expect("root's");
        assert_eq!(owner(), (60_579, 60_579));
        correct(dir.path(), &launch::Ids { uid: 60_580, gid: 60_580, groups: vec![] }, true).expect("another number's");
        assert_eq!(owner(), (60_580, 60_580));
        std::os::unix::fs::chown(dir.path(), Some(1000), Some(1000)).expect("handed over");
        correct(dir.path(), &ids, true).expect("somebody's");
        assert_eq!(owner(), (1000, 1000));
    }
}
