//! A machine whose init is systemd, with an sshd of its own, for one test: a container on a copy-on-write view of what ci/fetch-systemd made.
//!
//! It shares the network of this machine, so its sshd and its applications listen on a loopback address that is the test's own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::process::{Child, Output, Run, wait_until};
use df_testkit::{net, survivors};

use crate::support::{self, PORT, versions};

/// Where its sshd listens.
const SSH_PORT: u16 = 2222;
/// How long it may take until somebody can log in: 2 s, where nothing else runs.
const BOOT: Duration = Duration::from_secs(60);
/// The number of the user `op`.
const OP: u32 = 1000;
/// Mounts what the container sees, gives it a control group, and becomes it. $1: the root that was made, $2: the test's directory, $3: its name.
const START: &str = r#"
set -e
cd "$2"
mkdir -p upper work merged
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" merged
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$3"
echo $$ > "/sys/fs/cgroup/$3/cgroup.procs"
exec systemd-nspawn --quiet --directory=merged --machine="$3" --boot --register=no --keep-unit --console=pipe --capability=CAP_NET_ADMIN
"#;

/// A running machine; it ends when this goes out of scope.
pub struct Machine {
    dir: tempfile::TempDir,
    root: &'static Path,
    ip: Ipv4Addr,
    name: String,
    container: Option<Child>,
}

/// Returns what was made for such machines; says why there is none.
///
/// Such a machine takes root, containers, and 230 MB of packages: only the long campaign has them, and there they are required.
pub fn root() -> Option<&'static Path> {
    if std::env::var_os("DF_FULL").is_none() {
        eprintln!("left out: a machine with systemd is only made where DF_FULL is set (ci/test --full)");
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can boot a machine with systemd");
        return None;
    }
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("below the target directory").join("systemd");
    let dir = std::env::var_os("DF_SYSTEMD_DIR").map_or(made, PathBuf::from);
    assert!(dir.join(".stamp").is_file(), "{} holds no machine: ci/fetch-systemd makes it", dir.display());
    Some(Box::leak(dir.join("root").into_boxed_path()))
}

impl Machine {
    /// Boots one, on which root and `op` can log in with a key of the test's.
    #[track_caller]
    pub fn boot(root: &'static Path) -> Self {
        let dir = tempfile::Builder::new().prefix("df-machine").tempdir().expect("a directory");
        let ip = net::own_loopback();
        let name = format!("df-{}", ip.to_string().replace('.', "-"));
        let mut machine = Self { dir, root, ip, name, container: None };
        machine.furnish();
        machine.start();
        machine
    }

    /// Where its application is reached.
    pub fn at(&self) -> SocketAddr {
        SocketAddr::from((self.ip, PORT))
    }

    /// Returns `df` with these words, for the shared repository.
    pub fn df<const N: usize>(&self, words: [&str; N]) -> Run {
        let df = support::df(&versions().repo, &self.dir.path().join("state")).args(words);
        df.env("DF_SSH_CONFIG", self.ssh_config()).env("XDG_RUNTIME_DIR", self.dir.path())
    }

    /// Makes it the node of this test, as it is for this user.
    pub fn add(&self, user: &str) {
        let address = format!("ssh://{user}@{}:{SSH_PORT}", self.ip);
        self.df(["add", &address, "--name", "n1", "--listen", &self.ip.to_string()]).ok();
    }

    /// Deploys a commit and expects success.
    pub fn deploy(&self, commit: &str) -> Output {
        self.df(["deploy", "--commit-hash", commit]).ok()
    }

    /// Returns a directory with a df-node that is another build of the same: one byte longer.
    pub fn another_program(&self) -> PathBuf {
        let dir = self.dir.path().join("programs");
        fs::create_dir(&dir).expect("made");
        let program = dir.join("df-node-x86_64");
        let bytes = [&fs::read(env!("CARGO_BIN_EXE_df-node")).expect("built for this test")[..], b"\n"].concat();
        fs::write(&program, bytes).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
        dir
    }

    /// Runs a line there as root, and returns what it said.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.ssh("root", line).ok();
        output.stdout.trim().to_owned()
    }

    /// Returns a property of the unit.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show --value --property {name} df-node.service"))
    }

    /// Waits until the unit runs with another main process than `before`.
    #[track_caller]
    pub fn wait_for_another(&self, before: &str) -> String {
        let another = wait_until(BOOT, || {
            let now = self.property("MainPID");
            (self.property("ActiveState") == "active" && now != before && now != "0").then_some(now)
        });
        another.unwrap_or_else(|| panic!("no new supervisor: {}", self.run("systemctl status df-node.service; true")))
    }

    /// Asks the application.
    pub fn body(&self) -> Option<String> {
        net::http_get(self.at(), "/", Duration::from_secs(2)).ok().map(|(_, body)| body)
    }

    /// Asks the application until it answers.
    #[track_caller]
    pub fn wait_for_body(&self, part: &str) -> String {
        let answered = wait_until(BOOT, || self.body().filter(|body| body.contains(part)));
        answered.unwrap_or_else(|| panic!("it does not serve {part}: {:?}\n{}", self.body(), self.log()))
    }

    /// Returns what its supervisor wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("upper/var/lib/df/log/supervisor.log")).unwrap_or_default()
    }

    /// Has it shut down in order and start again.
    #[track_caller]
    pub fn reboot(&mut self) {
        // The connection breaks on the way.
        let _ = self.ssh("root", "systemctl reboot").output();
        self.container.take().expect("it runs").finish(BOOT);
        self.start();
    }

    /// The system's client; not shared, since a boot breaks what is.
    fn ssh(&self, user: &str, line: &str) -> Run {
        let client = Run::new("ssh").arg("-F").arg(self.ssh_config()).args(["-o", "ControlPath=none", "-n", "-l", user]);
        client.args([&self.ip.to_string(), line]).deadline(Duration::from_secs(60))
    }

    fn ssh_config(&self) -> PathBuf {
        self.dir.path().join("ssh_config")
    }

    /// Lays the keys and configurations into the machine before it first boots.
    fn furnish(&self) {
        let key = self.dir.path().join("key");
        Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).ok();
        let public = fs::read(key.with_extension("pub")).expect("just made");
        let upper = self.dir.path().join("upper");
        for (home, user) in [("root", 0), ("home/op", OP)] {
            let ssh = upper.join(home).join(".ssh");
            fs::create_dir_all(&ssh).expect("made");
            fs::write(ssh.join("authorized_keys"), &public).expect("written");
            for path in [upper.join(home), ssh.clone(), ssh.join("authorized_keys")] {
                let mode = if path.is_dir() { 0o700 } else { 0o600 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
                chown(&path, Some(user), Some(user)).expect("root may");
            }
        }
        let etc = upper.join("etc/ssh/sshd_config.d");
        fs::create_dir_all(&etc).expect("made");
        let server = format!("ListenAddress {}:{SSH_PORT}\nMaxStartups 200\nUseDNS no\n", self.ip);
        fs::write(etc.join("df.conf"), server).expect("written");
        let client = format!(
            "Host *\n  Port {SSH_PORT}\n  IdentityFile {}\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  \
             UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  BatchMode yes\n",
            key.display()
        );
        fs::write(self.ssh_config(), client).expect("written");
    }

    #[track_caller]
    fn start(&mut self) {
        let start = Run::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", START, "sh"]);
        let container = start.arg(self.root).arg(self.dir.path()).arg(&self.name).spawn();
        let container = self.container.insert(container);
        let said = container.pid();
        let booted = wait_until(BOOT, || {
            let ready = self.ssh("root", "systemctl is-system-running --wait").output();
            (ready.stdout.trim() == "running").then_some(())
        });
        let container = self.container.as_ref().expect("just started");
        assert!(booted.is_some(), "{said} does not boot:\n{}\n{}", container.stdout(), container.stderr());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its init outlives whoever started it, and takes all else along.
        if let Some(container) = self.container.take() {
            survivors::descendants(container.pid()).into_iter().for_each(|pid| survivors::send(pid, libc::SIGKILL));
        }
        let groups = PathBuf::from("/sys/fs/cgroup/unified").join(&self.name);
        let plain = PathBuf::from("/sys/fs/cgroup").join(&self.name);
        // The last of them may still be going.
        wait_until(Duration::from_secs(10), || {
            [&groups, &plain].into_iter().for_each(|group| remove_groups(group));
            (!groups.exists() && !plain.exists()).then_some(())
        });
    }
}

/// Removes an empty control group with those in it.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
