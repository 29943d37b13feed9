//! Rooms at work: real ones, on this machine. Each test runs as who runs the tests; one of them starts all again as nobody.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::process::Order;

/// A directory of the host and a room that has parts of it.
struct Stage {
    dir: tempfile::TempDir,
    mounts: Vec<Mount>,
}

/// How a program ended and what it said.
struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Stage {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), mounts: vec![] }
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        give(&path).unwrap();
        path
    }

    fn with(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    #[track_caller]
    fn run(&self, command: &[&str]) -> Said {
        let args: Vec<String> = command[1..].iter().map(|&arg| arg.to_owned()).collect();
        let environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let room = Room { mounts: self.mounts.clone(), host_name: "df".to_owned() };
        let order = Order {
            program: Path::new(command[0]),
            args: &args,
            dir: Path::new("/"),
            environment: &environment,
            room: Some(&room),
        };
        let (inside, outputs) = start(&order, &room).unwrap();
        let (mut stdout, mut stderr) = (outputs.stdout, outputs.stderr);
        let reader = std::thread::spawn(move || {
            let mut text = vec![];
            stderr.read_to_end(&mut text).unwrap();
            text
        });
        let mut out = vec![];
        stdout.read_to_end(&mut out).unwrap();
        let err = reader.join().unwrap();
        let status = inside.wait().unwrap().code();
        Said { status, out: String::from_utf8_lossy(&out).into_owned(), err: String::from_utf8_lossy(&err).into_owned() }
    }

    #[track_caller]
    fn sh(&self, script: &str) -> Said {
        self.run(&["/bin/sh", "-c", script])
    }
}

fn is_root() -> bool {
    who::Who::here() == who::Who::Root
}

/// Starts one test of this program again, elsewhere or as somebody else.
fn again(before: &[&str], program: &Path, test: &str, variable: (&str, &Path)) -> std::process::Command {
    let mut words: Vec<&std::ffi::OsStr> = before.iter().map(|word| (*word).as_ref()).collect();
    words.extend::<[&std::ffi::OsStr; 4]>([program.as_ref(), test.as_ref(), "--exact".as_ref(), "--nocapture".as_ref()]);
    let mut command = std::process::Command::new(words[0]);
    command.args(&words[1..]).env(variable.0, variable.1);
    command
}

fn itself() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Looks again and again until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Whether nobody holds the lock that [`DAEMON`] takes.
fn is_free(dir: &Path) -> bool {
    fs::File::open(dir.join("lock")).is_ok_and(|file| file.try_lock().is_ok())
}

/// Leaves behind, in a session of its own and with another parent, a process that holds a lock and never ends.
const DAEMON: &str = "touch /df/w/lock; (setsid setsid flock /df/w/lock sh -c ': > /df/w/held; while :; do sleep 1; done' \
                      </dev/null >/dev/null 2>&1 &) ; until test -e /df/w/held; do :; done; ";

#[test]
fn a_program_sees_only_the_constant_places() {
    let said = Stage::new().sh("echo $(ls -A /) /dev/*; echo /etc/*; id; pwd; hostname; umask; ls -A /df /tmp /dev/shm");
    let expected = ["bin", "dev", "etc", "lib", "lib32", "lib64", "libexec", "libx32", "proc", "sbin", "tmp", "usr"];
    let mut lines = said.out.lines();
    let (devices, top): (Vec<&str>, Vec<&str>) = lines.next().unwrap().split(' ').partition(|path| path.starts_with("/dev/"));
    assert_eq!(top.iter().filter(|path| !expected.contains(path)).count(), 0, "{top:?}");
    let expected = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"];
    assert_eq!(devices, expected.map(|name| format!("/dev/{name}")));
    let expected = ["alternatives", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd"];
    let etc = lines.next().unwrap();
    assert!(etc.split(' ').all(|path| expected.contains(&path.trim_start_matches("/etc/"))), "{etc}");
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest[0].split(" groups=").next().unwrap(), "uid=1000(builder) gid=1000(builder)");
    assert_eq!(rest[1..], ["/", "df", "0022", "/dev/shm:", "", "/tmp:"]);
}

#[test]
fn a_program_has_no_rights_and_plain_signals() {
    let said = Stage::new().run(&["/bin/cat", "/proc/self/status"]);
    let field = |name: &str| said.out.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "SigIgn:", "SigBlk:"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:"), field("Seccomp_filters:")), ("1", "2", "3"));
    assert_eq!((field("Uid:"), field("Gid:")), ("1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000"));
    if is_root() {
        assert_eq!(field("Groups:"), "");
    }
}

#[test]
fn root_leaves_its_groups_outside() {
    if !is_root() {
        return;
    }
    let test = "sandbox::tests::a_program_has_no_rights_and_plain_signals";
    let output = again(&["setpriv", "--groups", "4,4321"], &itself(), test, ("LANG", Path::new("C"))).output().unwrap();
    assert!(output.status.success() && output.stdout.windows(8).any(|part| part == b"1 passed"), "{output:?}");
}

#[test]
fn what_a_program_writes_belongs_to_who_builds() {
    use std::os::unix::fs::MetadataExt as _;
    let stage = Stage::new();
    let dir = stage.make("w");
    let stage = stage.with(Mount::Writable { host: dir.clone(), inside: "/df/w".into() });
    assert_eq!(stage.sh("echo 1 > /df/w/file").status, Some(0));
    let owner = fs::metadata(dir.join("file")).unwrap().uid();
    assert_eq!(owner, if is_root() { who::OUTSIDE } else { rustix::process::geteuid().as_raw() });
}

#[test]
fn root_finds_what_lies_below_the_closed_directory_of_somebody() {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::new();
    let dir = stage.make("home/w");
    if is_root() {
        std::os::unix::fs::chown(stage.dir.path().join("home"), Some(4321), Some(8765)).unwrap();
    }
    fs::set_permissions(stage.dir.path().join("home"), fs::Permissions::from_mode(0o700)).unwrap();
    let stage = stage.with(Mount::Writable { host: dir.clone(), inside: "/df/w".into() });
    assert_eq!(stage.sh("id -u > /df/w/file").status, Some(0));
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "1000\n");
}

#[test]
fn nothing_of_df_is_held_open() {
    let file = fs::File::open("/proc/self/status").unwrap();
    // SAFETY: a descriptor of our own; the copy lacks CLOEXEC, which is the point. Nothing else here uses the number.
    unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&file), 77) };
    let said = Stage::new().sh("echo /proc/self/fd/*; echo again > /dev/stderr");
    // The shell expands the name in the process that has 0, 1 and 2 and what it reads the directory with.
    assert!(said.out.split_whitespace().count() <= 4 && !said.out.contains("77"), "{}", said.out);
    assert_eq!(said.err, "again\n");
}

#[test]
fn the_loopback_of_the_host_is_elsewhere() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
    let outside = std::process::Command::new("/bin/bash").args(["-c", &script]).output().unwrap();
    assert!(outside.status.success(), "the try itself does not work: {outside:?}");
    assert_ne!(Stage::new().run(&["/bin/bash", "-c", &script]).status, Some(0));
    // Landlock alone would forbid that too.
    let devices = Stage::new().run(&["/bin/cat", "/proc/self/net/dev"]).out;
    let names: Vec<&str> = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(names, ["lo"]);
}

#[test]
fn what_is_left_running_is_dead_before_the_end_is_known() {
    let stage = Stage::new();
    let dir = stage.make("w");
    let stage = stage.with(Mount::Writable { host: dir.clone(), inside: "/df/w".into() });
    let said = stage.sh(&format!("{DAEMON} flock -n /df/w/lock true || echo held"));
    assert_eq!(said.out, "held\n", "the daemon was not at work: {}", said.err);
    assert!(is_free(&dir));
}

#[test]
fn writes_go_to_the_upper_directory_only() {
    let stage = Stage::new();
    let (lower, read_only) = (stage.dir.path().join("lower"), stage.dir.path().join("ro,with:signs"));
    for dir in [&lower, &read_only] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("old"), "old").unwrap();
        fs::write(dir.join("changed"), "1").unwrap();
        give(dir).unwrap();
    }
    // Signs that mean something among the options of an overlay.
    let (upper, work) = (stage.make("upper,a:b\\c"), stage.make("work,a:b\\c"));
    if !has_overlay(stage.dir.path()) {
        return;
    }
    let layered = Mount::Layered { lower: lower.clone(), upper: upper.clone(), work: work.clone(), inside: "/df/src".into() };
    let stage = stage.with(layered).with(Mount::ReadOnly { host: read_only.clone(), inside: "/df/ro".into() });
    let said = stage.sh("cd /df/src && rm old && echo 2 > changed && echo new > new && cat * ; cd /df/ro; \
         (echo 2 > changed) 2>/dev/null; (echo 2 > new) 2>/dev/null; rm -f old 2>/dev/null; chmod 777 old . 2>/dev/null; \
         touch -d 1990-01-01 old 2>/dev/null; mount -o remount,rw /df/ro 2>/dev/null; echo end");
    assert_eq!(said.out, "2\nnew\nend\n", "{}", said.err);
    for dir in [&lower, &read_only] {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["changed", "old"]);
        assert_eq!(fs::read_to_string(dir.join("changed")).unwrap(), "1");
        assert!(fs::metadata(dir.join("old")).unwrap().modified().unwrap().elapsed().unwrap().as_secs() < 3600);
    }
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new\n");
    for path in [upper, work] {
        remove(&path).unwrap();
    }
}

#[test]
fn nothing_of_the_machine_can_be_set() {
    let said = Stage::new().sh(
        "find /proc /usr /etc /dev -maxdepth 5 -writable ! -type l ! -path '/proc/*/fd/*' ! -path '/proc/*/task/*/fd/*' 2>/dev/null | grep -v ^/dev/shm; \
         for file in /proc/sys/kernel/hostname /proc/self/oom_score_adj /usr/x /x; do (echo 0 > $file) 2>/dev/null && echo wrote $file; done",
    );
    let mut writable: Vec<&str> = said.out.lines().collect();
    writable.sort_unstable();
    assert_eq!(writable, ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"]);
}

#[test]
fn calls_that_reach_out_are_refused() {
    let tries = [
        "unshare -U true",
        "unshare -m true",
        "chmod u+s /tmp/file",
        "chmod g+s /tmp/file",
        "install -m 4755 /bin/true /tmp/s",
        "mknod /tmp/device c 1 3",
        "mount -t tmpfs none /tmp",
        "chroot / true",
        "hostname x; test $(hostname) = x",
        "date -s 2000-01-01",
        // open with O_CREAT and a mode with the set-user-id bit
        "perl -e 'sysopen(F, \"/tmp/made\", 0101, 04755) or exit 1'",
        // socket: AF_NETLINK, AF_ALG, AF_VSOCK, AF_PACKET
        "perl -e 'socket(S, 16, 3, 0) or exit 1'",
        "perl -e 'socket(S, 38, 5, 0) or exit 1'",
        "perl -e 'socket(S, 40, 1, 0) or exit 1'",
        "perl -e 'socket(S, 17, 3, 0) or exit 1'",
        // TIOCSTI
        "perl -e '$x = \"a\"; ioctl(STDIN, 0x5412, $x) or exit($!{EPERM} ? 1 : 0)'",
        "kill -9 1 && ! kill -0 1",
    ];
    let script: String =
        tries.iter().enumerate().map(|(index, it)| format!("({it}) >/dev/null 2>&1 && echo {index}\n")).collect();
    let said =
        Stage::new().sh(&format!(": > /tmp/file\nperl -e 'socket(S, 1, 1, 0) or exit 1' && echo perl works\n{script}true"));
    assert_eq!(said.out, "perl works\n", "{}", said.err);
}

#[test]
fn a_compiler_works_and_what_it_made_runs() {
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output();
    let Some(sysroot) = sysroot.ok().filter(|output| output.status.success()) else { return };
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim_end());
    let stage = Stage::new();
    let (target, registry) = (stage.make("target"), stage.make("registry"));
    let target = if has_overlay(stage.dir.path()) {
        let (upper, work) = (stage.make("upper"), stage.make("work"));
        Mount::Layered { lower: target, upper, work, inside: "/df/target".into() }
    } else {
        Mount::Writable { host: target, inside: "/df/target".into() }
    };
    let stage = stage
        .with(Mount::ReadOnly { host: sysroot, inside: "/df/toolchain".into() })
        .with(Mount::Private { inside: "/df/cargo".into() })
        .with(Mount::ReadOnly { host: registry, inside: "/df/cargo/registry".into() })
        .with(Mount::Private { inside: "/df/home".into() })
        .with(Mount::Private { inside: "/df/src".into() })
        .with(target);
    let said = stage.sh(
        "export PATH=/df/toolchain/bin:$PATH HOME=/df/home CARGO_HOME=/df/cargo CARGO_TARGET_DIR=/df/target
         cd /df/src && cargo init -q --vcs none --name hello && printf '[lib]\\npath = \"lib.rs\"\\n' >> Cargo.toml &&
         echo 'pub fn word() -> &'\"'\"'static str { env!(\"WORD\") } #[test] fn works() { std::thread::spawn(|| word()).join().unwrap(); }' > lib.rs &&
         echo 'fn main() { println!(\"cargo::rustc-env=WORD=hello\") }' > build.rs &&
         echo 'fn main() { println!(\"{}\", hello::word()) }' > src/main.rs &&
         cargo test -q --offline >&2 && cargo build -q --offline --release && /df/target/release/hello && cc --version >/dev/null && echo cc",
    );
    assert_eq!(said.out, "hello\ncc\n", "{}", said.err);
}

#[test]
fn a_program_that_is_not_there_is_not_the_machines_fault() {
    let environment = BTreeMap::new();
    let room = Room { mounts: vec![], host_name: "df".to_owned() };
    let order = Order {
        program: Path::new("/usr/bin/absent"),
        args: &[],
        dir: Path::new("/"),
        environment: &environment,
        room: Some(&room),
    };
    let (inside, _outputs) = start(&order, &room).unwrap();
    let failed = inside.wait().unwrap_err();
    assert!(matches!(&failed, Failed::Start(error) if error.kind() == std::io::ErrorKind::NotFound), "{failed:?}");
}

/// Not a promise of its own: what the next test starts, and kills.
#[test]
fn a_room_that_is_held() {
    let Some(dir) = std::env::var_os("DF_TEST_HELD_ROOM") else { return };
    Stage::new()
        .with(Mount::Writable { host: dir.into(), inside: "/df/w".into() })
        .sh(&format!("{DAEMON} while :; do sleep 1; done"));
}

#[test]
fn a_df_that_is_killed_takes_the_room_with_it() {
    let stage = Stage::new();
    let dir = stage.make("w");
    let mut df = again(&[], &itself(), "sandbox::tests::a_room_that_is_held", ("DF_TEST_HELD_ROOM", &dir));
    // What it leaves when it is killed goes with our own.
    df.env("TMPDIR", stage.dir.path());
    let mut df = df.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    until("the daemon in the room is at work", || dir.join("held").exists());
    assert!(!is_free(&dir));
    df.kill().unwrap();
    df.wait().unwrap();
    until("the room is dead", || is_free(&dir));
}

/// Not a promise of its own: what the next test starts where there are no user namespaces.
#[test]
fn a_machine_that_is_asked() {
    let Some(dir) = std::env::var_os("DF_TEST_ASKED_DIR") else { return };
    let answer = lacking(Path::new(&dir)).map_or_else(|| "nothing".to_owned(), |lacking| lacking.to_string());
    fs::write(Path::new(&dir).join("answer"), answer).unwrap();
}

#[test]
fn what_a_machine_lacks_is_named() {
    let asked = |script: &str| {
        let dir = tempfile::tempdir().unwrap();
        let before = ["unshare", "-Urm", "sh", "-c", script, "sh"];
        let test = "sandbox::tests::a_machine_that_is_asked";
        let output = again(&before, &itself(), test, ("DF_TEST_ASKED_DIR", dir.path())).output().unwrap();
        fs::read_to_string(dir.path().join("answer")).unwrap_or_else(|_| panic!("{output:?}"))
    };
    assert_eq!(asked("exec \"$@\""), "nothing");
    let line = asked("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"");
    assert!(line.starts_with("user namespaces (No space left on device") && line.contains("user.max_user_namespaces="), "{line}");
    let line = asked("echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"");
    assert!(line.starts_with("net namespaces") && line.contains("user.max_net_namespaces="), "{line}");
    // What a container does to its /proc.
    let line = asked("mount -t tmpfs none /proc/sys/fs && exec \"$@\"");
    assert!(line.starts_with("a /proc of one's own") && line.contains("systempaths=unconfined"), "{line}");
}

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    if !is_root() {
        return;
    }
    let dir = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = dir.path().join("tests");
    fs::copy(itself(), &program).unwrap();
    let scratch = dir.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    std::os::unix::fs::chown(&scratch, Some(65534), Some(65534)).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    let output = command.arg("sandbox::").env("TMPDIR", &scratch).current_dir("/").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("test sandbox::tests::a_program_sees_only"), "{said}");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "something was left behind");
}

/// Where this machine gives no group (to an ordinary user, most of the time) there is nothing to see.
#[test]
fn a_room_is_in_groups_of_its_own_and_they_go_with_it() {
    let own = |controller: &str| {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path =
            groups.lines().find_map(|line| line.split_once(&format!(":{controller}:/")).map(|(_, path)| path.to_owned()))?;
        Some(Path::new("/sys/fs/cgroup").join(controller).join(path))
    };
    for controller in ["memory", "pids"] {
        let Some(own) = own(controller) else { continue };
        let tried = own.join(format!("df-try-{}", std::process::id()));
        if fs::create_dir(&tried).is_err() {
            println!("no group of {controller} can be had here");
            continue;
        }
        fs::remove_dir(&tried).unwrap();
        let said = Stage::new().run(&["/bin/cat", "/proc/self/cgroup"]).out;
        let line = said.lines().find(|line| line.contains(&format!(":{controller}:"))).unwrap_or_default().to_owned();
        let (_, name) = line.rsplit_once('/').unwrap_or_default();
        assert!(name.starts_with("df-room-"), "{controller}: {said}");
        assert!(!own.join(name).exists(), "{} is left", own.join(name).display());
    }
}
