//! A machine whose init is systemd, with an sshd of its own, for one test: a container on a copy-on-write view of what ci/fetch-systemd made.
//!
//! It shares the network of this machine, so its sshd and its applications listen on a loopback address that is the test's own.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use df_testkit::process::{Child, Run, wait_until};
use df_testkit::{net, survivors};

/// Where its sshd listens.
const SSH_PORT: u16 = 2222;
/// How long it may take until somebody can log in: 2 s, where nothing else runs.
const BOOT: Duration = Duration::from_secs(60);
/// What starts the supervisor of a node that lies where nodes lie.
pub const UNIT: &str = "df-node.service";
/// Where the machine's node lies, for root.
pub const ROOT: &str = "/var/lib/df";
/// Where its applications' data lie.
pub const DATA: &str = "/var/lib/df-data";
/// Where lies what its applications may lose.
pub const TMP: &str = "/var/lib/df-tmp";
/// The number of the user `op`.
const OP: u32 = 1000;
/// Mounts what the container sees, gives it a control group, and becomes it. $1: the root that was made, $2: the test's directory, $3: its name.
///
/// `pidfd_getfd` is refused in such a container otherwise, and no machine refuses it to root: a supervisor takes the sockets of programs back with it when nobody else held them.
const START: &str = r#"
set -e
cd "$2"
mkdir -p upper work merged
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" merged
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$3"
echo $$ > "/sys/fs/cgroup/$3/cgroup.procs"
exec systemd-nspawn --quiet --directory=merged --machine="$3" --boot --register=no --keep-unit --console=pipe \
  --capability=CAP_NET_ADMIN --system-call-filter=pidfd_getfd
"#;

/// A running machine; it ends when this goes out of scope.
pub struct Machine {
    dir: tempfile::TempDir,
    root: &'static Path,
    ip: Ipv4Addr,
    name: String,
    container: Mutex<Option<Child>>,
}

/// Returns what was made for such machines; says why there is none.
///
/// Such a machine takes root, containers, and 230 MB of packages: only the long campaign has them, and there they are required. So they are where somebody says that they are there.
fn root() -> Option<&'static Path> {
    if ["DF_FULL", "DF_SYSTEMD_DIR"].into_iter().all(|name| std::env::var_os(name).is_none()) {
        eprintln!(
            "left out: a machine with systemd is only booted where DF_FULL is set (ci/test --full), or DF_SYSTEMD_DIR (ci/fetch-systemd)"
        );
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
    /// Boots one, on which root and `op` can log in with a key of the test's; none where no machine can be had.
    #[track_caller]
    pub fn boot() -> Option<Self> {
        let root = root()?;
        let dir = tempfile::Builder::new().prefix("df-machine").tempdir().expect("a directory");
        let ip = net::own_loopback();
        let name = format!("df-{}", ip.to_string().replace('.', "-"));
        let machine = Self { dir, root, ip, name, container: Mutex::default() };
        machine.furnish();
        machine.start();
        Some(machine)
    }

    /// Where its applications are reached.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Returns its address, for whoever deploys to it as this user.
    pub fn address(&self, user: &str) -> String {
        format!("ssh://{user}@{}:{SSH_PORT}", self.ip)
    }

    /// Lets `df` reach it.
    pub fn reached_by(&self, df: Run) -> Run {
        df.env("DF_SSH_CONFIG", self.ssh_config()).env("XDG_RUNTIME_DIR", self.dir.path())
    }

    /// Returns where a file of its own can be read and written from here, while it runs.
    pub fn path(&self, path: &str) -> PathBuf {
        let init = self.processes().into_iter().find(|pid| own_pid(*pid) == Some(1)).expect("it runs");
        PathBuf::from(format!("/proc/{init}/root")).join(path.trim_start_matches('/'))
    }

    /// Lists all that runs there, by the numbers that it has here.
    pub fn processes(&self) -> Vec<u32> {
        let container = self.container.lock().expect("no panic while locked");
        container.as_ref().map(|container| survivors::descendants(container.pid())).unwrap_or_default()
    }

    /// Returns the number that a process of it has here.
    #[track_caller]
    pub fn process(&self, pid: u32) -> u32 {
        self.processes().into_iter().find(|here| own_pid(*here) == Some(pid)).expect("it runs there")
    }

    /// Runs a line there as root, and returns what it said.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.as_root(line).ok().stdout.trim().to_owned()
    }

    /// Returns a property of the unit.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show --value --property {name} {UNIT}"))
    }

    /// Waits until the unit runs with another main process than `before`.
    #[track_caller]
    pub fn wait_for_another(&self, before: &str) -> String {
        let another = wait_until(BOOT, || {
            let now = self.property("MainPID");
            (self.property("ActiveState") == "active" && now != before && now != "0").then_some(now)
        });
        another.unwrap_or_else(|| panic!("no new supervisor: {}", self.run(&format!("systemctl status {UNIT}; true"))))
    }

    /// Kills the supervisor, and nobody starts the next one.
    #[track_caller]
    pub fn kill_for_good(&self) {
        // A stop in order would let it do what it does on SIGTERM, also if it stands still: systemd wakes it.
        let drop_in = format!("/run/systemd/system/{UNIT}.d");
        self.run(&format!(
            "mkdir -p {drop_in} && printf '[Service]\\nRestart=no\\n' > {drop_in}/never.conf && systemctl daemon-reload && \
             systemctl kill --signal=KILL --kill-whom=main {UNIT}"
        ));
        let ended = || ["failed", "inactive"].contains(&self.property("ActiveState").as_str()).then_some(());
        assert!(wait_until(BOOT, ended).is_some(), "it does not end: {}", self.property("ActiveState"));
        self.run(&format!("rm {drop_in}/never.conf && systemctl daemon-reload"));
    }

    /// Has it shut down in order; what lies on its disk is there when it starts again.
    #[track_caller]
    pub fn shut_down(&self) {
        // The connection breaks on the way.
        let _ = self.as_root("systemctl reboot").output();
        self.take().expect("it runs").finish(BOOT);
    }

    /// Ends all that runs there at once, as when somebody pulls the plug, but for what the disk has.
    #[track_caller]
    pub fn cut(&self) {
        kill_all(&self.take().expect("it runs"));
    }

    /// Starts it, if it does not run, else the unit.
    #[track_caller]
    pub fn start_again(&self) {
        if self.processes().is_empty() { self.start() } else { drop(self.run(&format!("systemctl start {UNIT}"))) }
    }

    /// Returns a run of a line there, by the system's client; not shared, since a boot breaks what is.
    pub fn as_root(&self, line: &str) -> Run {
        let client = Run::new("ssh").arg("-F").arg(self.ssh_config()).args(["-o", "ControlPath=none", "-n", "-l", "root"]);
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
    fn start(&self) {
        let start = Run::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", START, "sh"]);
        let container = start.arg(self.root).arg(self.dir.path()).arg(&self.name).spawn();
        let booted = wait_until(BOOT, || {
            let ready = self.as_root("systemctl is-system-running --wait").output();
            (ready.stdout.trim() == "running").then_some(())
        });
        assert!(booted.is_some(), "it does not boot:\n{}\n{}", container.stdout(), container.stderr());
        *self.container.lock().expect("no panic while locked") = Some(container);
    }

    fn take(&self) -> Option<Child> {
        self.container.lock().expect("no panic while locked").take()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(container) = self.take() {
            kill_all(&container);
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

/// Kills all that descends from a container; its init would outlive it.
fn kill_all(container: &Child) {
    let all = survivors::descendants(container.pid());
    all.iter().for_each(|pid| survivors::send(*pid, libc::SIGKILL));
    wait_until(BOOT, || all.iter().all(|pid| survivors::has_ended(*pid)).then_some(()));
}

/// Returns the number that a process has in its own machine.
fn own_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    // The first is the one that it has here.
    numbers.split_whitespace().skip(1).last()?.parse().ok()
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
