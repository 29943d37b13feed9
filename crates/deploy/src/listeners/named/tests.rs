//! Names that move, against the real file system: who gets which connection.

use super::super::group::Group;
use super::*;
use crate::claim::ClaimError;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SOON: Duration = Duration::from_secs(10);

struct Place {
    dir: tempfile::TempDir,
    path: SocketPath,
}

fn place() -> Place {
    // Short, and on a path that others cannot change whatever TMPDIR says.
    let dir = tempfile::Builder::new().prefix("df-n").tempdir_in("/tmp").unwrap();
    let path = SocketPath::new(dir.path().join("a.sock").to_str().unwrap()).unwrap();
    Place { dir, path }
}

fn group(place: &Place, generations: &[u64]) -> Group {
    let group = Group::new(Endpoint::Unix(place.path.clone()));
    group.allow(Access { owner: None, mode: 0o666 });
    generations.iter().for_each(|&g| drop(group.add(g).unwrap()));
    group
}

fn names(place: &Place) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(place.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &str) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A program: answers every connection with its generation, until its listener is closed.
fn program_of(listener: OwnedFd, generation: u64) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::from(listener);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.write_all(&generation.to_le_bytes()).unwrap();
        }
    })
}

fn ask(mut stream: TcpStream) -> u64 {
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    u64::from_le_bytes(answer)
}

#[test]
fn clients_reach_the_serving_and_the_prober_the_trial() {
    let place = place();
    let group = group(&place, &[1]);
    drop(group.add_on_trial(2).unwrap());
    let own = group.trial_path().unwrap();
    assert_eq!((mode(place.path.as_str()), mode(&own)), (0o666, 0o600), "one on trial is for its user alone");
    let _client = UnixStream::connect(place.path.as_str()).unwrap();
    assert_eq!((group.queue_len(1).unwrap(), group.queue_len(2).unwrap()), (1, 0));
    let _prober = group.dial_trial(SOON).unwrap();
    assert_eq!(group.queue_len(2).unwrap(), 1);
    group.steer(2, None).unwrap();
    assert_eq!(mode(place.path.as_str()), 0o666);
    assert!(std::fs::symlink_metadata(place.path.as_str()).unwrap().file_type().is_socket(), "it is no link");
    assert_eq!(group.queue_len(1).unwrap(), 1, "who was in the queue stays there");
    group.steer(1, None).unwrap();
    let _back = UnixStream::connect(place.path.as_str()).unwrap();
    assert_eq!(names(&place), [".a.sock.df-1", ".a.sock.df-2", "a.sock"]);
    assert_eq!(group.remove(2).unwrap(), 1);
    assert_eq!(names(&place), [".a.sock.df-1", "a.sock"]);
}

#[test]
fn handoffs_under_load_lose_no_client_and_show_no_client_the_trial() {
    let place = place();
    let group = group(&place, &[]);
    let mut old = program_of(group.add(1).unwrap(), 1);
    let mut last = None;
    let (oldest, newest, done) = (AtomicU64::new(1), AtomicU64::new(1), AtomicBool::new(false));
    let load = || {
        let mut n_asked = 0;
        while !done.load(Ordering::SeqCst) {
            let before = oldest.load(Ordering::SeqCst);
            // Not by the group, whose lock would let nobody see a moment without a name.
            let answer = ask(TcpStream::from(OwnedFd::from(UnixStream::connect(place.path.as_str()).unwrap())));
            assert!((before..=newest.load(Ordering::SeqCst)).contains(&answer), "generation {answer} answered");
            n_asked += 1;
        }
        n_asked
    };
    std::thread::scope(|scope| {
        let clients = [scope.spawn(load), scope.spawn(load)];
        for new in 2..=12 {
            let program = program_of(group.add_on_trial(new).unwrap(), new);
            (0..20).for_each(|_| assert_eq!(ask(group.dial_trial(SOON).unwrap()), new));
            newest.store(new, Ordering::SeqCst);
            group.steer(new, None).unwrap();
            oldest.store(new, Ordering::SeqCst);
            // As long as a client may need that has read the name and not yet reached the socket behind it.
            assert!(group.wait_drained(new - 1, Duration::from_millis(200), SOON).unwrap());
            assert_eq!(group.remove(new - 1).unwrap(), 0);
            old.join().unwrap();
            old = program;
        }
        done.store(true, Ordering::SeqCst);
        last = Some(old);
        assert!(clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>() > 100);
    });
    group.close().unwrap();
    last.unwrap().join().unwrap();
    assert_eq!(names(&place), [] as [&str; 0]);
}

#[test]
fn what_is_closed_is_closed_for_its_program_too() {
    let place = place();
    let group = group(&place, &[]);
    let program = program_of(group.add(1).unwrap(), 1);
    let held = UnixStream::connect(place.path.as_str()).unwrap();
    group.remove(1).unwrap();
    program.join().unwrap();
    drop(held);
    assert_eq!(UnixStream::connect(place.path.as_str()).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_first_version_on_trial_is_not_at_the_path() {
    let place = place();
    let group = group(&place, &[]);
    drop(group.add_on_trial(1).unwrap());
    assert_eq!(UnixStream::connect(place.path.as_str()).unwrap_err().kind(), io::ErrorKind::NotFound);
    let _prober = group.dial_trial(SOON).unwrap();
    group.steer(1, None).unwrap();
    let _client = UnixStream::connect(place.path.as_str()).unwrap();
}

#[test]
fn an_exclusive_successor_gets_the_waiting_clients() {
    let place = place();
    let group = group(&place, &[1]);
    let waiting = UnixStream::connect(place.path.as_str()).unwrap();
    let program = program_of(group.pass(1, 2).unwrap(), 2);
    assert_eq!(ask(TcpStream::from(OwnedFd::from(waiting))), 2);
    assert_eq!((group.record().serving, names(&place)), (Some(2), vec![".a.sock.df-2".to_owned(), "a.sock".to_owned()]));
    group.close().unwrap();
    program.join().unwrap();
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else() {
    let place = place();
    let path = Path::new(place.path.as_str());
    drop(UnixListener::bind(path).unwrap());
    drop(group(&place, &[1]));
    std::fs::remove_file(path).unwrap();

    let other = UnixListener::bind(path).unwrap();
    let refusal = Group::new(Endpoint::Unix(place.path.clone())).add(2).unwrap_err();
    assert!(matches!(&refusal, GroupError::Place(PlaceError::Claim(ClaimError::Held { .. }))), "{refusal}");
    assert!(refusal.to_string().contains(&format!("(pid {})", std::process::id())), "{refusal}");
    drop(other);
    std::fs::remove_file(path).unwrap();

    let target = place.dir.path().join("target");
    std::fs::write(&target, "precious").unwrap();
    let lays: [&dyn Fn(); 3] =
        [&|| std::fs::write(path, "precious").unwrap(), &|| std::os::unix::fs::symlink(&target, path).unwrap(), &|| {
            std::fs::create_dir(path).unwrap()
        }];
    for lay in lays {
        lay();
        let refusal = Group::new(Endpoint::Unix(place.path.clone())).add(3).unwrap_err();
        assert!(matches!(&refusal, GroupError::Place(PlaceError::NotSocket { .. })), "{refusal}");
        let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path));
    }
    assert_eq!(std::fs::read_to_string(target).unwrap(), "precious");
}

#[test]
fn names_of_versions_that_nobody_remembers_are_swept_and_no_others() {
    let place = place();
    let dir = place.dir.path();
    for name in [".a.sock.df-1", ".a.sock.df-22", ".a.sock.df-x", ".b.sock.df-1"] {
        drop(UnixListener::bind(dir.join(name)).unwrap());
    }
    std::fs::write(dir.join(".a.sock.df-5"), "precious").unwrap();
    let _listens = UnixListener::bind(dir.join(".a.sock.df-4")).unwrap();
    let _group = group(&place, &[7]);
    assert_eq!(names(&place), [".a.sock.df-4", ".a.sock.df-5", ".a.sock.df-7", ".a.sock.df-x", ".b.sock.df-1", "a.sock"]);
}

#[test]
fn a_stranger_who_takes_the_path_is_not_pushed_out() {
    let place = place();
    let group = group(&place, &[1]);
    drop(group.add_on_trial(2).unwrap());
    std::fs::remove_file(place.path.as_str()).unwrap();
    let _stranger = UnixListener::bind(place.path.as_str()).unwrap();
    assert!(matches!(group.steer(2, None), Err(GroupError::Place(PlaceError::Claim(_)))));
    assert_eq!(group.record().serving, Some(1));
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let place = place();
    let dir = |name: &str, mode: u32| {
        let dir = place.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
        dir
    };
    let refusal = |dir: &Path| {
        let path = SocketPath::new(dir.join("a.sock").to_str().unwrap()).unwrap();
        Group::new(Endpoint::Unix(path)).add(1).map(drop).map_err(|error| error.to_string())
    };
    assert!(refusal(&dir("open", 0o777)).unwrap_err().contains("can be changed by other users"));
    assert!(refusal(&dir("group", 0o775)).unwrap_err().contains("can be changed by other users"));
    let sticky = dir("sticky", 0o1777);
    refusal(&sticky).unwrap();
    refusal(&sticky.join("made")).unwrap();
    assert_eq!(mode(sticky.join("made").to_str().unwrap()) & 0o022, 0);
    assert!(refusal(&sticky.join("not/made")).unwrap_err().contains("is not there"));
    let link = place.dir.path().join("link");
    std::os::unix::fs::symlink(&sticky, &link).unwrap();
    assert!(refusal(&link).unwrap_err().contains("is a link"));
}

#[test]
fn a_successor_adopts_what_is_left_and_both_can_serve() {
    let place = place();
    let before = group(&place, &[1, 2]);
    before.steer(2, None).unwrap();
    let record = before.record();
    let sockets = vec![Some(before.listener(1).unwrap()), Some(before.listener(2).unwrap())];
    drop(before);
    let after = Group::adopt(&record, sockets).unwrap();
    let _client = UnixStream::connect(place.path.as_str()).unwrap();
    assert_eq!((after.queue_len(1).unwrap(), after.queue_len(2).unwrap()), (0, 1));
    after.steer(1, None).unwrap();
    let _client = UnixStream::connect(place.path.as_str()).unwrap();
    assert_eq!(after.queue_len(1).unwrap(), 1);
    let elsewhere = UnixListener::bind(place.dir.path().join("elsewhere")).unwrap();
    let wrong = Group::adopt(&record, vec![Some(OwnedFd::from(elsewhere)), None]).unwrap_err();
    assert!(matches!(wrong, GroupError::WrongRecord { .. }));
}

#[test]
fn a_socket_is_its_users() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else can give a file away
    }
    let place = place();
    let group = Group::new(Endpoint::Unix(place.path.clone()));
    let owner = crate::launch::Ids { uid: 65534, gid: 65534, groups: vec![] };
    group.allow(Access { owner: Some(owner), mode: 0o640 });
    drop(group.add(1).unwrap());
    let found = std::fs::symlink_metadata(place.path.as_str()).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((found.uid(), found.gid(), found.permissions().mode() & 0o7777), (65534, 65534, 0o640));
}
