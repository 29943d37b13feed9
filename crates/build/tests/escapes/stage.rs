//! What an attempt would reach if it got out: secrets, sockets, processes, a terminal, and places to write to, all made for this one test.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

use df_testkit::{Repo, Tree};

/// The descriptor by which a secret is handed to whatever is run, as a careless parent does.
const CARELESS: i32 = 77;

/// Processes that a user may have where attempts are made. Root has no such bound, a room does.
pub const N_PROCESSES: u64 = 1000;

/// The bytes that a canary file must keep.
pub const WHOLE: &str = "whole";

pub struct Stage {
    pub token: String,
    pub repo: Repo,
    /// The user that everything runs as.
    user: Option<u32>,
    memory: &'static str,
    tcp: TcpListener,
    udp: UdpSocket,
    listeners: Vec<(&'static str, UnixListener)>,
    victim: Child,
    killed: Child,
    terminal: (OwnedFd, OwnedFd),
    segment: (i32, i32),
    before: Vec<(PathBuf, Tree)>,
    shared: [PathBuf; 2],
    dir: tempfile::TempDir,
}

impl Stage {
    /// Makes a stage in a directory that builds cannot see by themselves.
    pub fn new(parent: &Path, user: Option<u32>) -> Self {
        let dir = tempfile::Builder::new().prefix("esc").tempdir_in(parent).expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let token = format!("canary{}", dir.path().file_name().expect("a name").to_string_lossy());
        let shared = [PathBuf::from("/tmp").join(&token), PathBuf::from("/dev/shm").join(&token)];
        let repo = furnish(dir.path(), &token, &shared);
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        tcp.set_nonblocking(true).expect("set");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.set_nonblocking(true).expect("set");
        let listeners = listen(dir.path(), &token);
        let killed = victim(dir.path(), &token, user);
        let victim = victim(dir.path(), &token, user);
        let memory = token.clone().leak();
        let (terminal, segment) = (pseudo_terminal(), shared_segment(&token));
        let mut stage = Self {
            token,
            repo,
            user,
            memory,
            tcp,
            udp,
            listeners,
            victim,
            killed,
            terminal,
            segment,
            before: vec![],
            shared,
            dir,
        };
        stage.settle();
        stage
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Returns the text that tells the build script where all this is.
    pub fn text(&self) -> String {
        let path = |below: &str| self.path(below).display().to_string();
        let device = fs::metadata(self.dir.path()).expect("ours").dev();
        let disk = if device >> 8 == 0 { 0 } else { device };
        [
            ("token", self.token.clone()),
            ("home", path("home")),
            ("cache", path("cache")),
            ("keep", path("cache/build")),
            ("repo", path("repo")),
            ("canary", path("canary")),
            ("copies", path("copies")),
            ("read_only", path("read_only")),
            ("agent", path("run/agent")),
            ("docker", path("run/docker.sock")),
            ("tmp_file", self.shared[0].display().to_string()),
            ("shm_file", self.shared[1].display().to_string()),
            ("tcp", self.tcp.local_addr().expect("bound").port().to_string()),
            ("udp", self.udp.local_addr().expect("bound").port().to_string()),
            ("abstract", format!("{}-abstract", self.token)),
            ("rights", format!("{}-rights", self.token)),
            ("victim", self.victim.id().to_string()),
            ("killed", self.killed.id().to_string()),
            ("tester", std::process::id().to_string()),
            ("memory", (self.memory.as_ptr() as usize).to_string()),
            ("shm_key", self.segment.0.to_string()),
            ("handle", handle_of(&self.path("home/.netrc"))),
            ("disk", disk.to_string()),
        ]
        .map(|(name, value)| format!("{name}={value}\n"))
        .concat()
    }

    /// Makes a program run as from the terminal of a person with secrets in the environment and a descriptor left open.
    pub fn careless(&self, mut command: Command, n_processes: Option<u64>) -> Command {
        let terminal = self.terminal.1.as_raw_fd();
        let secret = fs::File::open(self.path("home/.netrc")).expect("ours");
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("CARGO_HOME", self.path("home/.cargo"))
            .env("AWS_SECRET_ACCESS_KEY", &self.token)
            .env("GITHUB_TOKEN", &self.token)
            .env("SSH_AUTH_SOCK", self.path("run/agent"))
            .stdin(Stdio::null());
        // SAFETY: between fork and exec; plain system calls on descriptors that are held until then, nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                if n_processes.is_some() {
                    let few = rustix::process::Rlimit { current: n_processes, maximum: n_processes };
                    rustix::process::setrlimit(rustix::process::Resource::Nproc, few)?;
                }
                if libc::ioctl(terminal, libc::TIOCSCTTY, 0) < 0 || libc::dup2(secret.as_raw_fd(), CARELESS) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Returns whether what an attempt was after has happened out here.
    pub fn seen(&mut self, name: &str) -> bool {
        let holds = |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(&self.token));
        let planted = |what: &str| found_below(self.dir.path(), &format!("planted-{what}-{}", self.token));
        match name {
            "kill-process" => self.killed.try_wait().expect("a child").is_some(),
            "tcp-loopback" => self.tcp.accept().is_ok(),
            "udp-name-server" => self.udp.recv(&mut [0; 64]).is_ok(),
            "abstract-socket" | "ssh-agent" | "docker-socket" => self.listener(name).accept().is_ok(),
            "descriptor-through-abstract-socket" => self.writes_through_a_descriptor(),
            "daemon" => !self.running("daemon").is_empty(),
            "descriptor-kept" => !self.running("writer").is_empty(),
            "write-authorized-keys" => holds(self.path("home/.ssh/authorized_keys")),
            "write-shell-profile" => holds(self.path("home/.bashrc")),
            "write-cargo-configuration" => holds(self.path("home/.cargo/config.toml")),
            "write-git-hook" => holds(self.path("repo/.git/hooks/post-checkout")),
            "write-git-configuration" => holds(self.path("repo/.git/config")),
            "write-ld-preload" => holds(self.path("etc/ld.so.preload")) || holds("/etc/ld.so.preload".into()),
            "write-program-of-the-host" => {
                let program = format!("df-{}", self.token);
                holds(self.path("local").join(&program)) || holds(Path::new("/usr/local/bin").join(program))
            }
            "write-shared-tmp" => holds(left(&self.shared[0])),
            "write-shared-memory-file" => holds(left(&self.shared[1])),
            "write-toolchain" => {
                planted("toolchain") || found_below(&sysroot().join("etc"), &format!("planted-toolchain-{}", self.token))
            }
            "plant-link-at-temporary-target" => fs::read(self.path("canary/overwritten")).expect("a canary") != WHOLE.as_bytes(),
            "swap-output-directory" => self.path("canary/program").exists(),
            _ => planted(name.strip_prefix("write-").expect("every other attempt says by itself what came of it")),
        }
    }

    /// Copies the program as a careless builder does: to a temporary name first, following whatever lies there.
    pub fn copy_carelessly(&self, program: &Path) {
        let temporary = self.path("copies/program.tmp");
        fs::copy(program, &temporary).expect("copied");
        fs::rename(&temporary, self.path("copies/program")).expect("renamed");
        fs::copy(program, self.path("copies/swapped/program")).expect("copied");
    }

    /// Says that everything is as it has to stay from now on.
    pub fn settle(&mut self) {
        give(self.dir.path(), self.user);
        self.before = self.now();
    }

    /// Returns the places that a build must leave as they were and that are not.
    pub fn changed(&self) -> Vec<String> {
        let now = self.now();
        let pairs = self.before.iter().zip(&now);
        pairs
            .flat_map(|((place, before), (_, now))| {
                now.differences(before).into_iter().map(move |d| format!("{}: {d:?}", place.display()))
            })
            .collect()
    }

    fn now(&self) -> Vec<(PathBuf, Tree)> {
        ["home", "canary", "repo", "read_only", "local", "etc", "cache/objects", "cache/build/target/other"]
            .map(|below| (self.path(below), Tree::read(&self.path(below))))
            .into()
    }

    /// Returns the processes that attempts of this stage left behind.
    pub fn running(&self, kind: &str) -> Vec<i32> {
        let wanted = format!("{kind}-{}", self.token);
        let pids = fs::read_dir("/proc").expect("a /proc").flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split(|&b| b == 0).any(|argument| argument == wanted.as_bytes())
            })
            .collect()
    }

    /// Returns the processes in whose arguments the token is.
    pub fn mentioned(&self) -> Vec<String> {
        let pids = fs::read_dir("/proc").expect("a /proc").flatten();
        let lines = pids
            .filter_map(|entry| Some(String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ")));
        lines.filter(|line| line.contains(&self.token)).collect()
    }

    /// Returns what is left of rooms and outputs in the cache directory.
    pub fn rooms(&self) -> Vec<String> {
        let entries = |name: &str| fs::read_dir(self.path("cache/build").join(name)).into_iter().flatten().flatten();
        ["room", "rooms", "output"]
            .iter()
            .flat_map(|name| entries(name))
            .map(|entry| entry.path().display().to_string())
            .collect()
    }

    fn listener(&self, name: &str) -> &UnixListener {
        &self.listeners.iter().find(|(known, _)| *known == name).expect("it was made").1
    }

    /// Takes the descriptor that a build sent and writes through it, now that the build is over.
    fn writes_through_a_descriptor(&self) -> bool {
        let Ok((stream, _)) = self.listener("descriptor-through-abstract-socket").accept() else { return false };
        stream.set_nonblocking(false).expect("set");
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut received = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 8];
        let parts = &mut [std::io::IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(stream.as_fd(), parts, &mut received, rustix::net::RecvFlags::empty()).expect("a message");
        let mut descriptors = received.drain().filter_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors.collect::<Vec<_>>()),
            _ => None,
        });
        descriptors.next().is_some_and(|all| all.into_iter().any(|one| File::from(one).write_all(b"changed").is_ok()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in [&mut self.victim, &mut self.killed] {
            child.kill().ok();
            child.wait().ok();
        }
        for pid in self.running("daemon").into_iter().chain(self.running("writer")) {
            df_testkit::survivors::send(pid.cast_unsigned(), libc::SIGKILL);
        }
        for path in &self.shared {
            fs::remove_file(path).ok();
            fs::remove_file(left(path)).ok();
        }
        // SAFETY: removing a segment of our own touches no memory.
        unsafe { libc::shmctl(self.segment.1, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// Returns where the compiler is.
pub fn sysroot() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().expect("a compiler");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

fn left(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-left", path.display()))
}

/// Fills the directories of a stage.
fn furnish(dir: &Path, token: &str, shared: &[PathBuf]) -> Repo {
    let secret = |path: PathBuf| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, token).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
    };
    let home = [".ssh/id_ed25519", ".aws/credentials", ".cargo/credentials.toml", ".netrc"].map(|file| format!("home/{file}"));
    let other = ["cache/objects/secret", "cache/build/target/other/secret"].map(str::to_owned);
    home.iter().chain(&other).for_each(|file| secret(dir.join(file)));
    shared.iter().cloned().for_each(secret);
    let made =
        ["etc", "local", "toolchain", "toolchain_etc", "read_only", "run", "copies/swapped", "home/.cargo/registry", "canary"];
    let kept = ["src", "layers", "cargo/registry", "recipes"].map(|name| format!("cache/build/{name}"));
    for name in made.into_iter().chain(kept.iter().map(String::as_str)) {
        fs::create_dir_all(dir.join(name)).expect("made");
    }
    fs::write(dir.join("canary/overwritten"), WHOLE).expect("written");
    let repo = Repo::new(&dir.join("repo"));
    secret(dir.join("repo/.env"));
    fs::create_dir_all(dir.join("repo/.git/hooks")).expect("made");
    repo
}

fn listen(dir: &Path, token: &str) -> Vec<(&'static str, UnixListener)> {
    let in_file = |name: &str| UnixListener::bind(dir.join("run").join(name)).expect("a socket");
    let abstractly = |name: &str| {
        let address = SocketAddr::from_abstract_name(format!("{token}-{name}")).expect("a name");
        UnixListener::bind_addr(&address).expect("a socket")
    };
    let listeners = vec![
        ("ssh-agent", in_file("agent")),
        ("docker-socket", in_file("docker.sock")),
        ("abstract-socket", abstractly("abstract")),
        ("descriptor-through-abstract-socket", abstractly("rights")),
    ];
    listeners.iter().for_each(|(_, listener)| listener.set_nonblocking(true).expect("set"));
    listeners
}

fn give(dir: &Path, user: Option<u32>) {
    if let Some(user) = user {
        let status = Command::new("chown").args(["-R", &format!("{user}:{user}")]).arg(dir).status().expect("chown");
        assert!(status.success(), "given to {user}");
    }
}

/// A process with a secret in its environment, in its working directory and on its standard input.
fn victim(dir: &Path, token: &str, user: Option<u32>) -> Child {
    let mut command = Command::new("/bin/sleep");
    let secret = File::open(dir.join("home/.netrc")).expect("ours");
    command.arg("600").env_clear().env("VICTIM", token).current_dir(dir.join("home/.ssh")).stdin(secret);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.spawn().expect("a process")
}

fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let (mut controller, mut terminal) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: the two places are ours; names and settings may be null.
    let answer = unsafe { libc::openpty(&mut controller, &mut terminal, none, none.cast(), none.cast()) };
    assert_eq!(answer, 0, "a terminal");
    // SAFETY: the call just opened both, and nobody else owns them.
    unsafe { (OwnedFd::from_raw_fd(controller), OwnedFd::from_raw_fd(terminal)) }
}

/// Makes a System V segment that everybody may read, with the secret in it.
fn shared_segment(token: &str) -> (i32, i32) {
    static NEXT: AtomicI32 = AtomicI32::new(0);
    let key = (std::process::id().cast_signed() & 0x3f_ffff) << 8 | (NEXT.fetch_add(1, Ordering::Relaxed) & 0xff);
    // SAFETY: the segment is ours, a page long, and detached only by the end of the process.
    unsafe {
        let id = libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666);
        assert!(id >= 0, "a segment");
        let address = libc::shmat(id, std::ptr::null(), 0);
        std::ptr::copy_nonoverlapping(token.as_ptr(), address.cast(), token.len());
        (key, id)
    }
}

/// Returns what opens a file without a path: `<kind>:<hex>`, or an empty one where the file system has none.
fn handle_of(path: &Path) -> String {
    let path = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    let mut handle = [0_u8; 136];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = 0_i32;
    // SAFETY: the buffer has room for the 128 bytes that it says, after its eight of lengths.
    let answer =
        unsafe { libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), handle.as_mut_ptr(), &mut mount, 0) };
    if answer < 0 {
        return "0:".to_owned();
    }
    let word = |at: usize| handle[at..at + 4].try_into().expect("four bytes");
    let len = u32::from_ne_bytes(word(0)) as usize;
    let hex: String = handle[8..8 + len].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hex}", i32::from_ne_bytes(word(4)))
}

fn found_below(dir: &Path, name: &str) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        entry.file_name() == name || (is_dir && found_below(&entry.path(), name))
    })
}
