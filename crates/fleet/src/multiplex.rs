//! One ssh connection for many sessions: the first session to a machine leaves its connection open for a while, and those that come after go through it.
//!
//! The system's ssh does the work (ControlMaster, ControlPersist); df chooses where the socket lies and how many sessions share it. The directory is
//! `$XDG_RUNTIME_DIR/df`, else `/tmp/df-UID`: made with mode 0700, and used only when it, and everything in it, is of the user who runs df, because
//! whoever owns a socket gets what is said through it. A socket is named by the digest of what `ssh -G` says of the machine, so that another login, key or
//! jump host is another connection, and by a number: sshd lets 10 sessions share a connection, df uses 8 of them, counted by locks that lie beside.
//!
//! Whoever shares connections by an own ssh configuration keeps doing so: then df adds nothing. Where something is in the way, each session has a
//! connection of its own, which is slower and nothing else.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_core::Digest;

/// How long a connection stays open after its last session.
pub const KEPT: Duration = Duration::from_secs(60);

/// Sessions that share a connection.
const SESSIONS: usize = 8;
/// Connections to one machine that are shared; the sessions after those have connections of their own.
const CONNECTIONS: usize = 8;
/// Bytes of a socket's path: the kernel takes 107, and ssh appends 17 to the name while it makes it.
const PATH_LEN: usize = 107 - 17;
/// Entries of the directory that are looked at; more is nothing that df made.
const ENTRIES: usize = 10_000;

/// Why a connection is not shared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NotShared {
    #[error("{} is not this user's alone", .0.display())]
    Foreign(PathBuf),
    #[error("{} cannot name a socket: it is too long, or holds what ssh would act upon", .0.display())]
    Path(PathBuf),
    #[error("{}: {kind}", path.display())]
    Io { path: PathBuf, kind: io::ErrorKind },
    #[error("ssh is configured to share connections by itself")]
    Own,
    #[error("all places are taken")]
    Full,
}

/// A directory for the sockets of shared connections, of this user alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    dir: PathBuf,
}

/// A place in a shared connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where the connection is, or will be.
    pub(crate) socket: PathBuf,
    /// Whether it is there already, as far as one can see.
    pub(crate) is_open: bool,
    _lock: File,
}

impl Sockets {
    /// Finds the directory, or makes it.
    ///
    /// # Errors
    /// It cannot be made, or somebody else could use what is in it.
    pub fn here() -> Result<Self, NotShared> {
        let user = rustix::process::geteuid().as_raw();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        match runtime.filter(|dir| dir.is_absolute() && check(dir, user).is_ok()) {
            Some(runtime) => Self::at(&runtime.join("df"), user),
            None => Self::at(&Path::new("/tmp").join(format!("df-{user}")), user),
        }
    }

    /// Uses a directory, which is made when it is missing.
    fn at(dir: &Path, user: u32) -> Result<Self, NotShared> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+".contains(&b);
        let longest = dir.join(socket(&key(b""), CONNECTIONS - 1));
        if longest.as_os_str().len() > PATH_LEN || !dir.as_os_str().as_encoded_bytes().iter().all(|&b| is_plain(b)) {
            return Err(NotShared::Path(dir.to_owned()));
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(dir, &error)),
            _ => {}
        }
        check(dir, user)?;
        for entry in dir.read_dir().map_err(|error| failed(dir, &error))?.take(ENTRIES) {
            let path = entry.map_err(|error| failed(dir, &error))?.path();
            match path.symlink_metadata() {
                Ok(found) if found.uid() == user && (found.is_file() || found.file_type().is_socket()) => {}
                // A connection that ended meanwhile takes its socket with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => return Err(NotShared::Foreign(path)),
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Takes a place in a connection to the machine of which `ssh -G` says this.
    ///
    /// # Errors
    /// ssh shares connections by itself, or all places are taken.
    pub(crate) fn place(&self, configuration: &[u8]) -> Result<Place, NotShared> {
        if is_shared_by_itself(configuration) {
            return Err(NotShared::Own);
        }
        let key = key(configuration);
        for n in 0..CONNECTIONS * SESSIONS {
            let path = self.dir.join(format!("{key}.{n}.lock"));
            let lock =
                OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(|error| failed(&path, &error))?;
            match lock.try_lock() {
                Ok(()) => {
                    let socket = self.dir.join(socket(&key, n / SESSIONS));
                    let is_open = socket.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
                    return Ok(Place { socket, is_open, _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
            }
        }
        Err(NotShared::Full)
    }
}

fn key(configuration: &[u8]) -> String {
    Digest::of(configuration).to_string()[..24].to_owned()
}

fn socket(key: &str, n: usize) -> String {
    format!("{key}.{n}")
}

/// Returns whether ssh, as it is configured, goes through a shared connection or leaves one open.
fn is_shared_by_itself(configuration: &[u8]) -> bool {
    let lines = configuration.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()?.split_once(' '));
    lines.into_iter().any(|(key, value)| match key {
        "controlpath" => value != "none",
        "controlmaster" => !matches!(value, "no" | "false"),
        _ => false,
    })
}

/// Makes sure that a directory is one, no link to one, and open to nobody else.
fn check(dir: &Path, user: u32) -> Result<(), NotShared> {
    let found = dir.symlink_metadata().map_err(|error| failed(dir, &error))?;
    let is_private = found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0;
    if is_private { Ok(()) } else { Err(NotShared::Foreign(dir.to_owned())) }
}

fn failed(path: &Path, error: &io::Error) -> NotShared {
    NotShared::Io { path: path.to_owned(), kind: error.kind() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn place(sockets: &Sockets) -> Place {
        sockets.place(b"host web1\n").expect("a place")
    }

    #[test]
    fn eight_sessions_share_a_connection_and_places_are_given_back() {
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        let sockets = Sockets::at(&dir.path().join("df"), user()).expect("a directory of our own");
        let taken: Vec<Place> = (0..SESSIONS).map(|_| place(&sockets)).collect();
        assert!(taken.iter().all(|it| it.socket == taken[0].socket));
        let ninth = place(&sockets);
        assert_ne!(ninth.socket, taken[0].socket);
        assert_ne!(sockets.place(b"host web2\n").expect("a place").socket, taken[0].socket, "another machine");
        drop(taken);
        assert_ne!(place(&sockets).socket, ninth.socket);
        let all: Vec<_> = (1..CONNECTIONS * SESSIONS).map(|_| place(&sockets)).collect();
        assert_eq!(sockets.place(b"host web1\n").expect_err("as many as there are"), NotShared::Full);
        drop(all);
    }

    #[test]
    fn a_connection_that_is_there_is_seen() {
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        let sockets = Sockets::at(&dir.path().join("df"), user()).expect("a directory of our own");
        let first = place(&sockets);
        assert!(!first.is_open);
        let _master = UnixListener::bind(&first.socket).expect("bound");
        assert!(place(&sockets).is_open);
        Sockets::at(&dir.path().join("df"), user()).expect("what df makes itself is no reason to refuse");
    }

    #[test]
    fn what_somebody_else_could_use_is_refused() {
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let open = at("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).expect("set");
        assert_eq!(Sockets::at(&open, user()), Err(NotShared::Foreign(open.clone())));
        // A directory of another user is one that is not ours.
        Sockets::at(&at("private"), user()).expect("ours");
        assert_eq!(Sockets::at(&at("private"), user() + 1), Err(NotShared::Foreign(at("private"))));
        symlink(at("private"), at("link")).expect("made");
        assert_eq!(Sockets::at(&at("link"), user()), Err(NotShared::Foreign(at("link"))));
        std::fs::write(at("file"), "").expect("written");
        assert_eq!(Sockets::at(&at("file"), user()), Err(NotShared::Foreign(at("file"))));
        symlink("/tmp/elsewhere", at("private/planted")).expect("made");
        assert_eq!(Sockets::at(&at("private"), user()), Err(NotShared::Foreign(at("private/planted"))));
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        for name in ["x".repeat(100), "a b".into(), "a%C".into(), "a\"b".into()] {
            let path = Path::new("/tmp").join(name);
            assert_eq!(Sockets::at(&path, user()), Err(NotShared::Path(path.clone())));
            assert!(!path.exists());
        }
    }

    #[test]
    fn whoever_shares_connections_already_keeps_doing_so() {
        for (configuration, own) in [
            ("controlmaster false\ncontrolpersist no\n", false),
            ("controlmaster no\ncontrolpath none\n", false),
            ("controlmaster auto\n", true),
            ("controlmaster false\ncontrolpath /home/x/.ssh/m-1\n", true),
            ("", false),
        ] {
            assert_eq!(is_shared_by_itself(configuration.as_bytes()), own, "{configuration}");
        }
    }
}
