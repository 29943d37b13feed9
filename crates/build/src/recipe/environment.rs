//! The environment of a build: an allow-list, never what the shell happens to hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::directory::EPOCH_S;

/// Variables that fetching may see besides: how to reach a registry. They never reach a build and are in no recipe.
const NETWORK: [&str; 13] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "CARGO_NET_GIT_FETCH_WITH_CLI",
];

/// Where a strict build finds programs: its Rust toolchain, then the system's.
const ROOM_PATH: &str = "/df/toolchain/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Returns the whole environment of a strict build: the same on all machines and for all users.
pub(crate) fn of_room() -> BTreeMap<String, String> {
    [
        ("PATH", ROOM_PATH),
        ("HOME", "/df/home"),
        ("CARGO_HOME", "/df/cargo"),
        ("USER", "builder"),
        ("LOGNAME", "builder"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TMPDIR", "/tmp"),
        ("SOURCE_DATE_EPOCH", &EPOCH_S.to_string()),
        // Incremental compilation gives other bits than compiling at once.
        ("CARGO_INCREMENTAL", "0"),
        ("CARGO_NET_OFFLINE", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Returns the system's program of a name that a strict build would find.
pub(crate) fn find_in_room(program: &str) -> Option<PathBuf> {
    first_program(search_path(ROOM_PATH).iter().skip(1), program)
}

/// What a build may know of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub path: Vec<PathBuf>,
    pub home: PathBuf,
    pub cargo_home: PathBuf,
    pub rustup_home: PathBuf,
    pub network: BTreeMap<String, String>,
}

impl Host {
    /// Takes the few variables that count, from the environment of df.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        // Without HOME that of the user's record, as rustup has it: cron and services may set none.
        let home = set("HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_else(|| "/".into());
        let below_home = |name: &str, default: &str| set(name).map_or_else(|| home.join(default), PathBuf::from);
        Self {
            path: search_path(&set("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())),
            cargo_home: below_home("CARGO_HOME", ".cargo"),
            rustup_home: below_home("RUSTUP_HOME", ".rustup"),
            network: NETWORK.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?))).collect(),
            home,
        }
    }

    /// Returns the first program of a name on the search path.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        first_program(self.path.iter(), program)
    }

    /// Returns the whole environment of a command.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let path: Vec<String> = self.path.iter().map(|dir| text(dir)).collect();
        [
            ("PATH", path.join(":")),
            ("HOME", text(&self.home)),
            ("CARGO_HOME", text(&self.cargo_home)),
            ("RUSTUP_HOME", text(&self.rustup_home)),
            // A missing toolchain is said, not downloaded in the middle of a build.
            ("RUSTUP_AUTO_INSTALL", "0".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("SOURCE_DATE_EPOCH", EPOCH_S.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

fn first_program<'a>(mut dirs: impl Iterator<Item = &'a PathBuf>, program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    dirs.find_map(|dir| Some(dir.join(program)).filter(runs))
}

/// Returns the absolute directories of a PATH, each once. git puts its own directory first when it runs a hook: a build from a hook is the same build.
fn search_path(text: &str) -> Vec<PathBuf> {
    let mut path: Vec<PathBuf> = vec![];
    for dir in text.split(':').map(PathBuf::from) {
        if dir.is_absolute() && !dir.ends_with("git-core") && !path.contains(&dir) {
            path.push(dir);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(variables: &[(&str, &str)]) -> Host {
        let variables: BTreeMap<String, String> = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Host::of(&|name| variables.get(name).cloned())
    }

    #[test]
    fn only_the_allow_list_comes_through() {
        let host =
            host(&[("HOME", "/h"), ("PATH", "/bin"), ("AWS_SECRET_ACCESS_KEY", "s"), ("RUSTFLAGS", "-g"), ("https_proxy", "p")]);
        let names: Vec<String> = host.environment().into_keys().collect();
        let expected =
            ["CARGO_HOME", "HOME", "LANG", "LC_ALL", "PATH", "RUSTUP_AUTO_INSTALL", "RUSTUP_HOME", "SOURCE_DATE_EPOCH", "TZ"];
        assert_eq!(names, expected);
        assert_eq!(host.environment()["CARGO_HOME"], "/h/.cargo");
        assert_eq!(host.network.len(), 1);
    }

    #[test]
    fn a_strict_build_finds_only_what_its_room_holds() {
        let room = of_room();
        assert!(room["PATH"].starts_with("/df/toolchain/bin:/usr/"), "{room:?}");
        assert_eq!(room["SOURCE_DATE_EPOCH"], "315532800");
        let sh = find_in_room("sh").expect("every system has a shell");
        assert!(sh.starts_with("/usr") || sh.starts_with("/bin"), "{}", sh.display());
    }

    #[test]
    fn a_hook_has_the_same_search_path() {
        let plain = host(&[("PATH", "/a:/b")]);
        assert_eq!(host(&[("PATH", "/usr/lib/git-core:/a:.::/b:/a")]).path, plain.path);
    }
}
