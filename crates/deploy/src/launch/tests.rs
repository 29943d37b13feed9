//! The launcher, by starting real programs. The test binary plays `df-node`: started with a variable set, one test is `launch_main`.

use super::*;
use crate::listeners::Group;
use crate::members;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

const SOON: Duration = Duration::from_secs(20);
const PLAY: &str = "DF_TEST_PLAYS_THE_LAUNCHER";

/// Returns a launcher that starts this test binary again.
pub fn launcher() -> Launcher {
    Launcher {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "launch::tests::plays_the_launcher", "--nocapture"].map(OsString::from).to_vec(),
        env: vec![(PLAY.into(), "1".into())],
    }
}

/// Returns the order to run a script.
pub fn script(text: &str) -> LaunchSpec {
    LaunchSpec {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        directory: "/".into(),
        listeners: Vec::new(),
        user: None,
        limits: Limits::default(),
    }
}

#[test]
fn plays_the_launcher() {
    if std::env::var_os(PLAY).is_some() {
        launch_main();
    }
}

fn spawn(spec: &LaunchSpec, listeners: &[&TcpListener], log: &std::fs::File) -> Result<Process, LaunchError> {
    let listeners: Vec<BorrowedFd<'_>> = listeners.iter().map(|listener| listener.as_fd()).collect();
    launcher().spawn(spec, &listeners, log.as_fd(), SOON)
}

fn output(spec: &LaunchSpec, listeners: &[&TcpListener]) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let appending = std::fs::OpenOptions::new().append(true).open(log.path()).unwrap();
    let process = spawn(spec, listeners, &appending).unwrap();
    let exit = process.wait(SOON).unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(exit, Some(Exit::Code(0)), "{text}");
    text
}

#[track_caller]
fn check(spec: &LaunchSpec, expect: &str) {
    assert_eq!(output(spec, &[]).trim_end(), expect);
}

#[track_caller]
fn check_refused(spec: &LaunchSpec, listeners: &[&TcpListener], expect: &str) {
    let log = tempfile::tempfile().unwrap();
    let error = spawn(spec, listeners, &log).unwrap_err();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    assert_eq!(format!("{error}{cause}"), expect);
}

#[test]
fn listeners_come_first_and_nothing_else_is_open() {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let inheritable = std::fs::File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(&inheritable, rustix::io::FdFlags::empty()).unwrap();
    let mut spec = script("echo $$ $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES; exec ls -l /proc/self/fd");
    spec.listeners = ["http", "admin", "tls"].map(String::from).to_vec();
    let log = tempfile::NamedTempFile::new().unwrap();
    let appending = std::fs::OpenOptions::new().append(true).open(log.path()).unwrap();
    let process = spawn(&spec, &listeners.iter().collect::<Vec<_>>(), &appending).unwrap();
    process.wait(SOON).unwrap();
    let (pid, log_path) = (process.pid(), log.path().display());
    let mut expect = format!("{pid} {pid} 3 http:admin:tls\n0 /dev/null\n1 {log_path}\n2 {log_path}\n");
    for (number, listener) in (3..).zip(&listeners) {
        let inode = rustix::fs::fstat(listener).unwrap().st_ino;
        expect += &format!("{number} socket:[{inode}]\n");
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    let open =
        text.lines().filter_map(|line| line.split_once(" -> ")).map(|(row, target)| (row.rsplit(' ').next().unwrap(), target));
    let open = open.filter(|(_, target)| !target.starts_with("/proc/")); // the directory that ls itself reads
    let found = open.map(|(number, target)| format!("{number} {target}"));
    let found: Vec<String> = text.lines().take(1).map(String::from).chain(found).collect();
    assert_eq!(found, expect.lines().collect::<Vec<_>>());
}

/// What a supervisor does after it was killed: from records alone to steering again.
#[test]
fn a_successor_takes_the_listeners_back_from_running_programs() {
    let group = Group::new("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
    let log = tempfile::tempfile().unwrap();
    let start = |generation| {
        let mut spec = script("exec sleep 100");
        spec.listeners = vec!["http".into()];
        let listener = group.add(generation).unwrap();
        launcher().spawn(&spec, &[listener.as_fd()], log.as_fd(), SOON).unwrap()
    };
    let programs = [start(1), start(2)];
    group.steer(1, Some(2)).unwrap();
    let record = group.record();
    drop(group);
    let adopted = programs.each_ref().map(|program| Process::adopt(program.record()).unwrap());
    let taken = adopted.each_ref().map(|process| process.take_listener(3, &record.address).unwrap());
    let group = Group::adopt(&record, taken.map(Some).into()).unwrap();
    assert_eq!(group.record(), record);
    let _held = (group.dial_serving(SOON).unwrap(), group.dial_trial(SOON).unwrap(), group.dial_trial(SOON).unwrap());
    let deadline = std::time::Instant::now() + SOON;
    while (group.queue_len(1).unwrap(), group.queue_len(2).unwrap()) != (1, 2) {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    for program in &programs {
        program.kill_all().unwrap();
        program.wait(SOON).unwrap();
    }
}

#[test]
fn a_program_without_ports_is_told_of_none() {
    check(&script("env | sort | grep -v ^PWD= | grep -v ^_= | grep -v ^DF_RUN="), "PATH=/usr/bin:/bin");
}

#[test]
fn arguments_environment_and_directory_arrive_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let mut spec = script("printf '%s|' \"$0\" \"$@\" \"$SECRET\"; pwd");
    spec.args.extend(["zero", "a b", "", "$(x)'\"\n"].map(String::from));
    spec.env.insert("SECRET".into(), "x=y z\n".into());
    spec.directory = path.clone();
    check(&spec, &format!("zero|a b||$(x)'\"\n|x=y z\n|{}", path.display()));
}

#[test]
fn a_large_environment_fits() {
    let mut spec = script("echo ${#V1} ${#V9}");
    spec.env.extend((1..=9).map(|i| (format!("V{i}"), "x".repeat(100_000))));
    check(&spec, "100000 100000");
}

#[test]
fn secrets_stand_in_no_argument_list() {
    let mut spec = script("tr '\\0' ' ' < /proc/$$/cmdline");
    spec.env.insert("SECRET".into(), "hunter2".into());
    assert!(!output(&spec, &[]).contains("hunter2"));
}

#[test]
fn it_leads_a_session_without_ignored_or_blocked_signals_or_new_privileges() {
    // By exec: a shell blocks signals while it starts others.
    let status = "grep -E '^(Sig(Blk|Ign)|NoNewPrivs)' /proc/self/status";
    let session = "echo session $(cut -d' ' -f5,6 /proc/$$/stat) of $$; umask";
    let text = output(&script(&format!("{session}; exec {status}")), &[]);
    let pid = text.lines().next().unwrap().rsplit(' ').next().unwrap();
    let zero = "0000000000000000";
    let expect = format!("session {pid} {pid} of {pid}\n0022\nSigBlk:\t{zero}\nSigIgn:\t{zero}\nNoNewPrivs:\t1\n");
    assert_eq!(text, expect);
}

#[test]
fn limits_are_set() {
    let mut spec = script("ulimit -n; ulimit -v; ulimit -Hn");
    spec.limits = Limits { nofile: Some(123), memory: Some(1 << 30), pids: None };
    let counted = members::tests::counts();
    check(&spec, if counted { "123\nunlimited\n123" } else { "123\n1048576\n123" });
}

/// What holds is said as it is.
#[test]
fn who_is_limited_alone_is_not_said_to_be_limited_together() {
    let limits = Limits { nofile: None, memory: Some(300 << 20), pids: Some(7) };
    let alone =
        "address space 300M for each of its processes, because nobody counts their memory here, 7 processes and threads at once";
    assert_eq!(limits.in_words(&Members::default()).as_deref(), Some(alone));
    assert_eq!(limits.of_each(&Members::default()), limits);
    assert_eq!(Limits { nofile: Some(1), ..Limits::default() }.in_words(&Members::default()), None);
}

#[test]
fn it_runs_as_its_user_with_its_groups() {
    if !rustix::process::geteuid().is_root() {
        return; // an ordinary user can become nobody else
    }
    let mut spec = script("grep -E '^(Uid|Gid|Groups)' /proc/$$/status | tr '\\t' ' '");
    spec.user = Some(Ids { uid: 12345, gid: 23456, groups: vec![23456, 34567] });
    let text = output(&spec, &[]);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines, ["Uid: 12345 12345 12345 12345", "Gid: 23456 23456 23456 23456", "Groups: 23456 34567"]);
}

#[test]
fn a_failed_step_is_named_with_its_path() {
    let mut missing = script("");
    missing.program = "/nonexistent/program".into();
    check_refused(&missing, &[], "execute /nonexistent/program: No such file or directory (os error 2)");
    let mut nowhere = script("");
    nowhere.directory = "/nonexistent".into();
    check_refused(&nowhere, &[], "enter directory /nonexistent: No such file or directory (os error 2)");
}

#[test]
fn a_file_that_is_no_program_is_not_given_to_a_shell() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    std::fs::write(&path, "echo ran\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut spec = script("");
    spec.program = path.clone();
    check_refused(&spec, &[], &format!("execute {}: Permission denied (os error 13)", path.display()));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    check_refused(&spec, &[], &format!("execute {}: Exec format error (os error 8)", path.display()));
}

#[test]
fn orders_that_can_not_be_carried_out_are_refused_before_anything_starts() {
    let with = |change: fn(&mut LaunchSpec)| {
        let mut spec = script("");
        change(&mut spec);
        spec
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let paths = "program and directory must be absolute paths";
    let variable = "an environment variable has a name or value that can't be passed on";
    check_refused(&with(|s| s.program = "sh".into()), &[], &format!("start sh: {paths}"));
    check_refused(&with(|s| s.directory = ".".into()), &[], &format!("start /bin/sh: {paths}"));
    check_refused(&with(|s| s.args.push("a\0".into())), &[], "start /bin/sh: an argument holds a NUL byte");
    check_refused(&with(|s| drop(s.env.insert("A=B".into(), "".into()))), &[], &format!("start /bin/sh: {variable}"));
    check_refused(&with(|s| drop(s.env.insert("LISTEN_FDS".into(), "9".into()))), &[], &format!("start /bin/sh: {variable}"));
    let mismatch = "start /bin/sh: the listeners do not match their names, or are too many";
    check_refused(&with(|_| ()), &[&listener], mismatch);
    check_refused(
        &with(|s| s.listeners.push("a:b".into())),
        &[&listener],
        "start /bin/sh: a listener's name holds a colon or a control character",
    );
}

#[test]
fn a_launcher_that_dies_or_hangs_is_an_error_and_leaves_nothing() {
    let log = tempfile::tempfile().unwrap();
    let other = |program: &str, args: &[&str]| Launcher {
        program: program.into(),
        args: args.iter().map(OsString::from).collect(),
        env: Vec::new(),
    };
    let dead = other("/bin/sh", &["-c", "exit 3"]).spawn(&script(""), &[], log.as_fd(), SOON).unwrap_err();
    assert_eq!(dead.to_string(), "the launcher for /bin/sh ended: exit status 3");
    let short = Duration::from_millis(50);
    let hung = other("/bin/sh", &["-c", "exec sleep 100"]).spawn(&script(""), &[], log.as_fd(), short).unwrap_err();
    assert!(matches!(hung, LaunchError::Launcher { ref source, .. } if source.kind() == io::ErrorKind::WouldBlock), "{hung:?}");
    let none = other("/nonexistent", &[]).spawn(&script(""), &[], log.as_fd(), SOON).unwrap_err();
    assert!(matches!(none, LaunchError::Launcher { ref source, .. } if source.kind() == io::ErrorKind::NotFound));
}
