//! Where everything lies on a node.
//!
//! ```text
//! ROOT/store/<digest>/                      an image, read-only; complete and synced when it has its name
//! ROOT/manifests/<digest>                   its manifest, there before the image is
//! ROOT/incoming/<id>/                       a receive under way or cut, with a lock of its own
//! ROOT/apps/<app>/generations/<n>/          image -> store path; record.json
//! ROOT/apps/<app>/current                   -> generations/<n>/image; moved by one rename
//! ROOT/apps/<app>/staged/<release>.json     a release that was copied and not run
//! ROOT/apps/<app>/attested/<release>.json   who vouched for a release when it was admitted
//! ROOT/apps/<app>/history.jsonl             every attempt, append-only
//! ROOT/apps/<app>/armed.json                an activation that nobody has confirmed yet
//! ROOT/trust.json                           whom the node believes
//! ROOT/identity                             which node this is, whatever it is called
//! ROOT/ca.pem                               authorities of names of hosts besides the built-in ones; put there by whoever administers the machine
//! ROOT/users.json                           which application has which user of its own
//! ROOT/run/                                 locks, the supervisor's socket, process records
//! ROOT/log/<app>/<n>.log                    output
//! DATA/<app>/, TMP/<app>/                   the application's own state, and what it may lose
//! ```

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use df_core::{AppName, ImageId, ReleaseId};

/// The directories of one node. They may lie on different file systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// What df keeps.
    pub root: PathBuf,
    /// What applications keep; made, and after that never touched.
    pub data: PathBuf,
    /// What applications may lose.
    pub tmp: PathBuf,
    /// The machine is the node, so its systemd may start it; else nothing but these directories is touched.
    pub is_machine: bool,
}

impl Layout {
    /// Makes the directories that are missing, readable by everybody (programs run as other users) and writable by us.
    ///
    /// # Errors
    /// A directory cannot be made, or what has its name is a link, or somebody else's.
    pub fn create(&self) -> io::Result<()> {
        make_dir(&self.root)?;
        for name in ["store", "manifests", "incoming", "apps", "run", "log", "bin"] {
            let path = self.root.join(name);
            make_dir(&path)?;
            is_ours(&path)?;
        }
        make_dir(&self.data)?;
        make_dir(&self.tmp)
    }

    /// Returns the words by which a `df-node` is told of these directories.
    pub fn words(&self) -> [OsString; 6] {
        [
            "--root".into(),
            self.root.clone().into(),
            "--data".into(),
            self.data.clone().into(),
            "--tmp".into(),
            self.tmp.clone().into(),
        ]
    }

    /// Returns where images lie.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Returns where an image is visible.
    pub fn image(&self, image: ImageId) -> PathBuf {
        self.store().join(image.to_string())
    }

    /// Returns where manifests lie.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Returns where an image's manifest lies.
    pub fn manifest(&self, image: ImageId) -> PathBuf {
        self.manifests().join(image.to_string())
    }

    /// Returns where receives are under way.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Returns where applications lie.
    pub fn apps(&self) -> PathBuf {
        self.root.join("apps")
    }

    /// Returns where an application lies.
    pub fn app(&self, app: &AppName) -> PathBuf {
        self.apps().join(app.as_str())
    }

    /// Returns where an application's generations lie.
    pub fn generations(&self, app: &AppName) -> PathBuf {
        self.app(app).join("generations")
    }

    /// Returns where a generation lies.
    pub fn generation(&self, app: &AppName, number: u64) -> PathBuf {
        self.generations(app).join(number.to_string())
    }

    /// Returns the link that names the serving generation.
    pub fn current(&self, app: &AppName) -> PathBuf {
        self.app(app).join("current")
    }

    /// Returns where an application's history lies.
    pub fn history(&self, app: &AppName) -> PathBuf {
        self.app(app).join("history.jsonl")
    }

    /// Returns where releases lie that were copied and not run.
    pub fn staged(&self, app: &AppName) -> PathBuf {
        self.app(app).join("staged")
    }

    /// Returns where one such release lies.
    pub fn staged_release(&self, app: &AppName, release: ReleaseId) -> PathBuf {
        self.staged(app).join(format!("{release}.json"))
    }

    /// Returns where attestations of an application's releases lie.
    pub fn attested(&self, app: &AppName) -> PathBuf {
        self.app(app).join("attested")
    }

    /// Returns where those of one release lie.
    pub fn attested_release(&self, app: &AppName, release: ReleaseId) -> PathBuf {
        self.attested(app).join(format!("{release}.json"))
    }

    /// Returns where it is written whom the node believes.
    pub fn trust(&self) -> PathBuf {
        self.root.join("trust.json")
    }

    /// Returns where it is written which node this is.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// Returns where authorities are named that are believed about names of hosts, besides the built-in ones.
    pub fn authorities(&self) -> PathBuf {
        self.root.join("ca.pem")
    }

    /// Returns where locks, sockets and process records lie.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Returns where an application's output lies.
    pub fn logs(&self, app: &AppName) -> PathBuf {
        self.root.join("log").join(app.as_str())
    }

    /// Returns where a generation's output lies.
    pub fn log(&self, app: &AppName, number: u64) -> PathBuf {
        self.logs(app).join(format!("{number}.log"))
    }

    /// Returns the application's own state.
    pub fn app_data(&self, app: &AppName) -> PathBuf {
        self.data.join(app.as_str())
    }

    /// Returns what the application may lose.
    pub fn app_tmp(&self, app: &AppName) -> PathBuf {
        self.tmp.join(app.as_str())
    }
}

/// Refuses a place that somebody else may have planted: what is written there could end up anywhere.
fn is_ours(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let refuse = |why| Err(io::Error::other(format!("{} is {why}: move it away, then type it again", path.display())));
    match metadata {
        it if it.file_type().is_symlink() => refuse("a link, and df-node follows none there"),
        it if it.uid() != 0 && it.uid() != rustix::process::geteuid().as_raw() => refuse("owned by another user"),
        it if it.mode() & 0o002 != 0 => refuse("writable by everybody"),
        _ => Ok(()),
    }
}

/// Makes a directory and those above it, 0755, whatever the umask; one that exists stays as it is.
///
/// Each name that was made survives a power cut: what is synced below a directory is lost with a directory that nobody synced.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|_| !path.is_dir()) else { return Ok(()) };
    make_dir(parent)?;
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755))?,
        // Somebody else was faster; who comes second waits for the same sync.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    df_cache::durable::sync_dir(parent)
}
