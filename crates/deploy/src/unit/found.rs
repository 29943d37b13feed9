//! What a machine has of systemd, by looking at files: nothing is started and nobody is asked.

use std::path::{Path, PathBuf};

/// What counts for whether there is a unit, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// systemd is this machine's init.
    pub has_systemd: bool,
    /// We are root.
    pub is_root: bool,
    /// Our name, else our number.
    pub user: String,
    /// Our services go on when we are not logged in.
    pub lingers: bool,
    /// Our own systemd can be spoken to.
    pub has_user_systemd: bool,
    /// Where units lie that are ours to write.
    pub units: PathBuf,
    /// Where a node lies when nobody said where.
    pub usual_root: PathBuf,
    /// This very program, by the name it has on disk.
    pub program: PathBuf,
}

/// Looks at this machine, as who we are.
pub fn look() -> Found {
    let uid = rustix::process::geteuid();
    let user = name_of(uid.as_raw()).unwrap_or_else(|| uid.as_raw().to_string());
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
    let (units, usual_root) = if uid.is_root() {
        (PathBuf::from("/etc/systemd/system"), PathBuf::from("/var/lib/df"))
    } else {
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        (config.unwrap_or_else(|| home.join(".config")).join("systemd/user"), home.join(".local/share/df"))
    };
    Found {
        // As sd_booted(3) has it.
        has_systemd: Path::new("/run/systemd/system").is_dir(),
        is_root: uid.is_root(),
        lingers: Path::new("/var/lib/systemd/linger").join(&user).exists(),
        has_user_systemd: run_dir(uid.as_raw()).join("systemd/private").exists(),
        user,
        units,
        usual_root,
        program: own_path(),
    }
}

/// Returns where a user's own systemd listens.
pub(super) fn run_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

/// Returns this program's path. Somebody may have put another file there meanwhile, whose bytes are the same: the name holds their digest.
fn own_path() -> PathBuf {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => path,
    }
}

fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
