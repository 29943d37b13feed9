//! Real OpenSSH servers on loopback addresses, each with keys and a configuration of its own: nodes that need no machine.
//!
//! A test runs `df` with the environment variable `DF_SSH_CONFIG` set to [`Sshd::ssh_config`] (or to the file that
//! [`config_for`] wrote for several servers): df's ssh transport passes `-F $DF_SSH_CONFIG` to `ssh` when it is set.
//! Addresses are then `ssh://127.x.y.z:PORT/ROOT`; always give a root below the test's directory, because the
//! login is the one of whoever runs the test.
//!
//! Works for root and for an ordinary user (`UsePAM no`). Root needs `/run/sshd`, which is made when it is missing,
//! and an account that is not locked (`!` in the shadow file).

use crate::net::free_port;
use crate::process::{Child, Output, Run, wait_until};
use crate::survivors::{descendants, send};
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running ssh server; it ends, with the sessions it holds, when this goes out of scope.
#[derive(Debug)]
pub struct Sshd {
    /// The address it listens on.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// A client configuration that pins its host key and names the one key it accepts.
    pub ssh_config: PathBuf,
    dir: PathBuf,
    server: Option<Child>,
}

impl Sshd {
    /// Starts a server on a free port of `ip`, with everything it needs below `dir`, and waits until it answers.
    #[track_caller]
    pub fn start(dir: &Path, ip: impl Into<IpAddr>) -> Sshd {
        let dir = std::path::absolute(dir).expect("a working directory");
        let ip = ip.into();
        make_run_directory();
        for below in ["home", "etc"] {
            let at = dir.join(below);
            fs::create_dir_all(&at).unwrap_or_else(|error| panic!("make {}: {error}", at.display()));
        }
        // ssh refuses a private key that others can read.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir.join("etc"), private).expect("a directory of our own");
        make_key(&dir.join("etc/host_key"));
        make_key(&dir.join("etc/client_key"));
        fs::copy(dir.join("etc/client_key.pub"), dir.join("etc/authorized_keys")).expect("the key made above");
        let ssh_config = dir.join("etc/ssh_config");
        let mut sshd = Sshd { ip, port: 0, ssh_config, dir, server: None };
        sshd.boot();
        sshd
    }

    /// Returns `ip:port`, as it stands in an address of df: `ssh://` + this + the root.
    pub fn host(&self) -> String {
        SocketAddr::new(self.ip, self.port).to_string()
    }

    /// Returns what `HOME` is in its sessions.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Runs a command on it with the system's client.
    pub fn run(&self, command: &str) -> Output {
        let ip = self.ip.to_string();
        let client = Run::new("ssh").arg("-F").arg(&self.ssh_config).args(["-n", &ip, command]);
        client.deadline(Duration::from_secs(30)).output()
    }

    /// Makes it unreachable at once, with SIGKILL: the server and the sessions it holds.
    ///
    /// What a session had detached, such as a supervisor with its services, lives on, as it would behind a cut cable.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // The server first, or it would accept again while its sessions are looked up.
        let sessions = descendants(server.pid());
        server.kill();
        for pid in sessions {
            send(pid, libc::SIGKILL);
        }
    }

    /// Makes it reachable again on the same port and with the same keys.
    #[track_caller]
    pub fn boot(&mut self) {
        if self.server.is_some() {
            return;
        }
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            match self.try_boot() {
                Ok(server) => {
                    self.server = Some(server);
                    return self.check();
                }
                Err(output) => said = output.to_string(),
            }
        }
        panic!("sshd does not start on {}:\n{said}", self.ip);
    }

    /// Starts it once. Between asking for a free port and taking it another process may have come first.
    fn try_boot(&mut self) -> Result<Child, Output> {
        let port = if self.port == 0 { free_port(self.ip) } else { self.port };
        let addr = SocketAddr::new(self.ip, port);
        self.write_configuration(addr);
        let program = Run::new(SSHD).args(["-D", "-e", "-f"]).arg(self.dir.join("etc/sshd_config"));
        let mut server = program.dir("/").spawn();
        let answered = wait_until(BOOT_DEADLINE, || match server.is_running() {
            true => greets(addr).then_some(true),
            false => Some(false),
        });
        if answered == Some(true) && server.is_running() {
            self.port = port;
            return Ok(server);
        }
        Err(server.finish(Duration::ZERO))
    }

    /// A server that greets may still refuse to log in; what it says then is the only hint.
    #[track_caller]
    fn check(&self) {
        let output = self.run("true");
        let server = self.server.as_ref().map(Child::stderr).unwrap_or_default();
        assert!(output.code == Some(0), "cannot log in\n{output}\n--- the server says\n{server}");
    }

    fn write_configuration(&self, addr: SocketAddr) {
        let etc = self.dir.join("etc");
        let home = self.home();
        let server = format!(
            "ListenAddress {addr}\nHostKey {etc}/host_key\nAuthorizedKeysFile {etc}/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nPrintMotd no\nUseDNS no\nMaxStartups 200\nMaxSessions 64\n\
             SetEnv HOME={home}\nSubsystem sftp internal-sftp\n",
            etc = etc.display(),
            home = home.display(),
        );
        write(&etc.join("sshd_config"), &server);
        let key = fs::read_to_string(etc.join("host_key.pub")).expect("the key made at the start");
        let key: Vec<&str> = key.split(' ').take(2).collect();
        write(&etc.join("known_hosts"), &format!("[{}]:{} {}\n", addr.ip(), addr.port(), key.join(" ")));
        write(&self.ssh_config, &self.client_block(addr.port()));
    }

    fn client_block(&self, port: u16) -> String {
        let etc = self.dir.join("etc").display().to_string();
        format!(
            "Host {ip}\n HostName {ip}\n Port {port}\n IdentityFile {etc}/client_key\n IdentitiesOnly yes\n IdentityAgent none\n \
             UserKnownHostsFile {etc}/known_hosts\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n \
             BatchMode yes\n LogLevel ERROR\n ConnectTimeout 5\n",
            ip = self.ip
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes one client configuration for several servers, which must have different addresses; returns `file`.
#[track_caller]
pub fn config_for(file: &Path, servers: &[&Sshd]) -> PathBuf {
    let mut ips: Vec<IpAddr> = servers.iter().map(|server| server.ip).collect();
    ips.sort();
    assert!(ips.windows(2).all(|two| two[0] != two[1]), "two servers on one address: {ips:?}");
    let blocks: Vec<String> = servers.iter().map(|server| server.client_block(server.port)).collect();
    write(file, &blocks.concat());
    file.to_owned()
}

const SSHD: &str = "/usr/sbin/sshd";
const ATTEMPTS: usize = 5;
const BOOT_DEADLINE: Duration = Duration::from_secs(10);

/// Root's sshd separates privileges in /run/sshd, which a machine that never ran the service lacks.
fn make_run_directory() {
    let run = Path::new("/run/sshd");
    if rustix::process::geteuid().is_root() && !run.exists() {
        fs::create_dir_all(run).expect("root can write in /run");
        fs::set_permissions(run, fs::Permissions::from_mode(0o755)).expect("a directory of our own");
    }
}

fn make_key(file: &Path) {
    if !file.exists() {
        Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(file).ok();
    }
}

#[track_caller]
fn write(file: &Path, text: &str) {
    fs::write(file, text).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
}

/// Whether an ssh server speaks at this address; connecting alone would also please another program.
fn greets(addr: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&addr, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"SSH-"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::own_loopback;

    #[test]
    fn a_command_runs_over_the_systems_client() {
        let dir = tempfile::tempdir().expect("a directory");
        let sshd = Sshd::start(dir.path(), own_loopback());
        let output = sshd.run("echo $HOME; echo said >&2; exit 7");
        assert_eq!(output.code, Some(7), "{output}");
        assert_eq!(output.stdout.trim(), sshd.home().to_str().expect("a plain path"), "{output}");
        assert_eq!(output.stderr, "said\n");
    }

    #[test]
    fn two_servers_share_a_configuration_and_trust_only_their_own_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let (a, b) = (Sshd::start(&a, own_loopback()), Sshd::start(&b, own_loopback()));
        let config = config_for(&dir.path().join("both"), &[&a, &b]);
        for server in [&a, &b] {
            let url = format!("ssh://{}", server.host());
            Run::new("ssh").arg("-F").arg(&config).args(["-n", &url, "true"]).ok();
        }
        // The other server's key file pins another host key, so the client must refuse.
        let pinned = format!("UserKnownHostsFile={}/etc/known_hosts", b.dir.display());
        let refused = Run::new("ssh").arg("-F").arg(&config).args(["-o", &pinned, "-n", &a.ip.to_string(), "true"]);
        assert_eq!(refused.output().code, Some(255));
    }

    #[test]
    fn a_killed_node_is_unreachable_and_boots_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut sshd = Sshd::start(dir.path(), own_loopback());
        let client = Run::new("ssh").arg("-F").arg(&sshd.ssh_config).args([&sshd.ip.to_string(), "echo up; sleep 1000"]);
        let session = client.spawn();
        wait_until(BOOT_DEADLINE, || session.stdout().contains("up").then_some(())).expect("a session");
        sshd.kill();
        assert_eq!(session.finish(BOOT_DEADLINE).code, Some(255));
        assert_eq!(sshd.run("true").code, Some(255));
        sshd.boot();
        assert_eq!(sshd.run("true").code, Some(0));
    }

    #[test]
    fn nothing_listens_after_the_guard_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let sshd = Sshd::start(dir.path(), own_loopback());
        let addr = SocketAddr::new(sshd.ip, sshd.port);
        drop(sshd);
        assert!(TcpStream::connect(addr).is_err());
    }
}
