//! Connections between two versions that are threads of this process, and against ends that misbehave.

use super::message::Message;
use super::socket::Packet;
use super::*;
use crate::parent;
use crate::scarce;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn address() -> NotifyAddress {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("df-connection-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    NotifyAddress::Abstract(name.into_bytes())
}

fn handoff(address: &NotifyAddress) -> Arc<Handoff> {
    let choices = parse_choices("lines=hand-over:logs=drain:noise=drop").expect("good choices");
    Arc::new(Handoff::new(Some(address), choices).expect("the address is free"))
}

/// A client and its connection at the service.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    client.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (client, listener.accept().expect("accept").0)
}

fn connection(stream: TcpStream, state: &[u8]) -> Connection {
    Connection { socket: stream.into(), tag: "counter/1".into(), state: state.to_vec(), unread: b"ne".to_vec() }
}

/// A version that takes, and what it got.
struct Taking {
    draining: Draining,
    taken: Receiver<Connection>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Taking {
    fn start(handoff: &Arc<Handoff>, accepts: fn(&Connection) -> bool) -> Self {
        let draining = Draining::detached().expect("eventfd");
        let (sender, taken) = channel();
        let (handoff, seen) = (Arc::clone(handoff), draining.clone());
        let thread = thread::spawn(move || handoff.take(&seen, accepts, |taken| sender.send(taken).expect("the test listens")));
        Self { draining, taken, thread }
    }

    fn next(&self) -> Connection {
        self.taken.recv_timeout(PATIENCE).expect("a connection was taken")
    }

    /// Ends it; returns what else it got.
    fn end(self) -> Vec<Connection> {
        self.draining.begin();
        self.thread.join().expect("no panic").expect("take");
        self.taken.iter().collect()
    }
}

/// Introduces us to a version as its other end.
fn meet(address: &NotifyAddress, role: Role) -> OwnedFd {
    let [ours, theirs] = socket::pair().expect("pair");
    let to = socket::connect(address).expect("it listens");
    socket::send(to.as_fd(), &role.encode(), Some(theirs.as_fd())).expect("send");
    ours
}

fn say(to: &OwnedFd, message: &Message) {
    socket::send(to.as_fd(), &message.encode(), None).expect("send");
}

fn hear(from: &OwnedFd) -> (Message, Option<OwnedFd>) {
    assert!(poll_readable(&[from.as_fd()], deadline_in(PATIENCE)).expect("poll"), "nothing was said");
    let mut buffer = vec![0; message::MAX_PACKET];
    let packet = socket::receive(from.as_fd(), &mut buffer).expect("receive");
    (Message::parse(&buffer[..packet.len]).expect("a message"), packet.descriptor)
}

fn hello() -> Message {
    Message::Hello { lowest: 1, highest: 1 }
}

fn offer(number: u32) -> Message {
    Message::Offer(Offer { number, tag: "counter/1".into(), state: vec![7], unread: vec![] })
}

fn echo(mut client: TcpStream, service: OwnedFd) {
    let mut service = TcpStream::from(service);
    service.set_read_timeout(Some(PATIENCE)).expect("timeout");
    client.write_all(b"x").expect("the connection is open");
    service.read_exact(&mut [0]).expect("the connection is open");
    service.write_all(b"y").expect("the connection is open");
    client.read_exact(&mut [0]).expect("the connection is open");
}

#[test]
fn a_connection_goes_over_with_its_state_and_its_unread_bytes() {
    let (old, new) = (address(), address());
    let (giver, taker) = (handoff(&old), handoff(&new));
    let taking = Taking::start(&taker, |offered| offered.tag == "counter/1");
    parent::introduce(&old, &new, |_, pid| pid == std::process::id().cast_signed()).expect("both listen");
    for n in 0..5 {
        let (client, service) = connected();
        let given = giver.give("lines", connection(service, &[n]), PATIENCE).expect("it is wanted");
        assert_eq!(given, Given::Taken);
        let taken = taking.next();
        assert_eq!((taken.tag.as_str(), &taken.state[..], &taken.unread[..]), ("counter/1", &[n][..], &b"ne"[..]));
        echo(client, taken.socket);
    }
    drop(giver);
    assert!(taking.end().is_empty());
}

#[test]
fn many_threads_give_at_once() {
    let (old, new) = (address(), address());
    let (giver, taker) = (handoff(&old), handoff(&new));
    let taking = Taking::start(&taker, |_| true);
    parent::introduce(&old, &new, |_, _| true).expect("both listen");
    let (clients, services): (Vec<_>, Vec<_>) = (0..40).map(|_| connected()).unzip();
    thread::scope(|threads| {
        for (n, service) in (0..).zip(services) {
            let giver = &giver;
            threads.spawn(move || giver.give("lines", connection(service, &[n]), PATIENCE).expect("it is wanted"));
        }
    });
    drop(giver);
    let mut taken = taking.end();
    taken.sort_by_key(|taken| taken.state[0]);
    assert_eq!(taken.len(), 40);
    clients.into_iter().zip(taken).for_each(|(client, taken)| echo(client, taken.socket));
}

#[test]
fn the_supervisor_hears_how_many_connections_went_and_how_many_stayed() {
    let (old, new, supervisor) = (address(), address(), address());
    let heard = parent::NotifySocket::bind(supervisor.clone()).expect("the address is free");
    let choices = parse_choices("lines=hand-over:logs=drain:noise=drop").expect("good choices");
    let giver = Handoff::new(Some(&old), choices).expect("the address is free").telling(Some(supervisor));
    let taker = handoff(&new);
    let taking = Taking::start(&taker, |offered| offered.state[0] % 10 != 0);
    parent::introduce(&old, &new, |_, _| true).expect("both listen");
    let counted = |given, kept| crate::protocol::Counted { given, kept };
    let whole = BTreeMap::from([("lines".to_owned(), counted(36, 4)), ("logs".to_owned(), counted(0, 1))]);
    let (deadline, expected) = (Instant::now() + PATIENCE, whole.clone());
    let hearing = thread::spawn(move || {
        let (mut last, mut all) = (BTreeMap::new(), vec![]);
        while last != expected {
            let received = heard.receive_until(deadline).expect("receive");
            let Some(parent::Received::Notification(said)) = received else { panic!("{received:?} after {last:?}") };
            last = said.connections;
            all.push(last.get("lines").copied().unwrap_or_default());
        }
        all
    });
    let (_clients, services): (Vec<_>, Vec<_>) = (0..40).map(|_| connected()).unzip();
    thread::scope(|threads| {
        for (n, service) in (0..).zip(services) {
            let giver = &giver;
            threads.spawn(move || drop(giver.give("lines", connection(service, &[n]), PATIENCE)));
        }
    });
    // Of what is dropped there is nothing to tell.
    for port in ["logs", "noise"] {
        drop(giver.give(port, connection(connected().1, &[]), PATIENCE));
    }
    let all = hearing.join().expect("all of it was told");
    assert!(all.is_sorted_by(|a, b| a.given <= b.given && a.kept <= b.kept), "numbers only grow: {all:?}");
    drop(giver);
    taking.end();
}

#[test]
fn a_connection_that_is_not_wanted_is_kept_as_it_was() {
    let (old, new) = (address(), address());
    let (giver, taker) = (handoff(&old), handoff(&new));
    let _taking = Taking::start(&taker, |offered| offered.state == [1]);
    parent::introduce(&old, &new, |_, _| true).expect("both listen");
    let (client, service) = connected();
    let kept = giver.give("lines", connection(service, &[0]), PATIENCE).expect_err("it is not wanted");
    assert_eq!((kept.why, &kept.connection.state[..], &kept.connection.unread[..]), (Why::Refused, &[0][..], &b"ne"[..]));
    echo(client, kept.connection.socket);
    let (_client, service) = connected();
    giver.give("lines", connection(service, &[1]), PATIENCE).expect("the next one is wanted");
}

#[test]
fn each_port_has_its_choice() {
    let giver = handoff(&address());
    for (port, expect) in [("lines", Why::NoSuccessor), ("logs", Why::Drain), ("unheard-of", Why::Drain)] {
        let (client, service) = connected();
        let kept = giver.give(port, connection(service, &[]), PATIENCE).expect_err("nobody is there");
        assert_eq!(kept.why, expect);
        echo(client, kept.connection.socket);
    }
    let (mut client, service) = connected();
    assert_eq!(giver.give("noise", connection(service, &[]), PATIENCE).expect("dropped"), Given::Dropped);
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    assert_eq!(parse_choices("http=keep"), Err("http=keep".to_owned()));
    assert_eq!(parse_choices("http"), Err("http".to_owned()));
    assert_eq!(parse_choices(""), Ok(BTreeMap::new()));
}

#[test]
fn what_is_too_long_is_kept() {
    let giver = handoff(&address());
    for (tag, state_len, unread_len) in [("", 0, 0), ("t", message::MAX_STATE + 1, 0), ("t", 0, message::MAX_UNREAD + 1)] {
        let (_client, service) = connected();
        let (socket, state, unread) = (service.into(), vec![0; state_len], vec![0; unread_len]);
        let long = Connection { socket, tag: tag.into(), state, unread };
        assert_eq!(giver.give("lines", long, PATIENCE).expect_err("too long").why, Why::TooLarge);
    }
}

#[test]
fn the_longest_state_goes_over() {
    let (old, new) = (address(), address());
    let (giver, taker) = (handoff(&old), handoff(&new));
    let taking = Taking::start(&taker, |_| true);
    parent::introduce(&old, &new, |_, _| true).expect("both listen");
    let (_client, service) = connected();
    let (state, unread) = (vec![1; message::MAX_STATE], vec![2; message::MAX_UNREAD]);
    let long = Connection { socket: service.into(), tag: "t".repeat(64), state: state.clone(), unread: unread.clone() };
    giver.give("lines", long, PATIENCE).expect("it fits");
    let taken = taking.next();
    assert_eq!((taken.state, taken.unread), (state, unread));
}

#[test]
fn a_version_that_does_not_answer_gets_nothing() {
    let (old, new) = (address(), address());
    let (giver, silent) = (handoff(&old), handoff(&new));
    parent::introduce(&old, &new, |_, _| true).expect("both listen");
    let (client, service) = connected();
    let kept = giver.give("lines", connection(service, &[]), SHORT).expect_err("it says nothing");
    assert_eq!(kept.why, Why::Unanswered);
    echo(client, kept.connection.socket);
    drop(giver);
    assert!(Taking::start(&silent, |_| true).end().is_empty());
}

#[test]
fn an_offer_that_was_taken_back_is_not_served_when_the_taker_awakes() {
    let (old, new) = (address(), address());
    let giver = handoff(&old);
    let taker = handoff(&new);
    let end = meet(&old, Role::Give);
    say(&end, &hello());
    let (client, service) = connected();
    // It has said hello and hangs: the offer lies before it, and then its withdrawal.
    let kept = giver.give("lines", connection(service, &[]), SHORT).expect_err("it hangs");
    assert_eq!(kept.why, Why::Unanswered);
    drop(giver);
    let to = socket::connect(&new).expect("it listens");
    socket::send(to.as_fd(), &Role::Take.encode(), Some(end.as_fd())).expect("send");
    drop(end);
    assert!(Taking::start(&taker, |_| true).end().is_empty(), "it was taken back");
    echo(client, kept.connection.socket);
}

#[test]
fn a_taker_that_dies_before_it_says_taken_leaves_the_connection_where_it_was() {
    for accepts in [false, true] {
        let old = address();
        let giver = handoff(&old);
        let end = meet(&old, Role::Give);
        say(&end, &hello());
        let (client, service) = connected();
        let giving = thread::spawn(move || giver.give("lines", connection(service, &[]), PATIENCE));
        assert_eq!(hear(&end).0, hello());
        let (Message::Offer(offer), Some(_copy)) = hear(&end) else { panic!("no offer") };
        if accepts {
            say(&end, &Message::Accept(offer.number));
            assert_eq!(hear(&end).0, Message::Commit(offer.number));
        }
        drop(end);
        let kept = giving.join().expect("no panic").expect_err("it died");
        assert_eq!(kept.why, Why::Gone);
        echo(client, kept.connection.socket);
    }
}

#[test]
fn a_taker_that_hangs_after_commit_is_waited_for_and_keeps_nobody_else_waiting() {
    let old = address();
    let giver = handoff(&old);
    let end = meet(&old, Role::Give);
    say(&end, &hello());
    let patience = Duration::from_secs(5);
    let (_client, service) = connected();
    let giving = thread::spawn({
        let giver = Arc::clone(&giver);
        move || giver.give("lines", connection(service, &[]), patience)
    });
    assert_eq!(hear(&end).0, hello());
    let (Message::Offer(offer), Some(_copy)) = hear(&end) else { panic!("no offer") };
    say(&end, &Message::Accept(offer.number));
    assert_eq!(hear(&end).0, Message::Commit(offer.number));
    let (_other, service) = connected();
    let kept = giver.give("lines", connection(service, &[]), SHORT).expect_err("the way out is taken");
    assert_eq!(kept.why, Why::Unanswered);
    let is_withdrawn = poll_readable(&[end.as_fd()], deadline_in(patience + SHORT)).expect("poll");
    assert!(!is_withdrawn, "it may be served already");
    say(&end, &Message::Taken(offer.number));
    assert_eq!(giving.join().expect("no panic").expect("it was taken"), Given::Taken);
}

#[test]
fn what_a_dead_giver_offered_is_served() {
    for commits in [false, true] {
        let new = address();
        let taking = Taking::start(&handoff(&new), |_| true);
        let end = meet(&new, Role::Take);
        say(&end, &hello());
        let (client, service) = connected();
        socket::send(end.as_fd(), &offer(1).encode(), Some(service.as_fd())).expect("send");
        drop(service);
        if commits {
            assert_eq!((hear(&end).0, hear(&end).0), (hello(), Message::Accept(1)));
            say(&end, &Message::Commit(1));
        }
        // With answers unread, as by a process that was killed.
        drop(end);
        echo(client, taking.next().socket);
    }
}

#[test]
fn a_giver_that_talks_nonsense_keeps_what_it_has() {
    let nonsense =
        [b"X".to_vec(), offer(1).encode(), hello().encode()[..5].to_vec(), Message::Accept(2).encode(), vec![0; 300_000]];
    for bytes in nonsense {
        let new = address();
        let taking = Taking::start(&handoff(&new), |_| true);
        let end = meet(&new, Role::Take);
        say(&end, &hello());
        let (_client, service) = connected();
        socket::send(end.as_fd(), &offer(1).encode(), Some(service.as_fd())).expect("send");
        assert_eq!((hear(&end).0, hear(&end).0), (hello(), Message::Accept(1)));
        // Too long for the socket is as good as too long for the other end.
        if socket::send(end.as_fd(), &bytes, None).is_err() {
            continue;
        }
        let mut buffer = [0; 16];
        assert!(poll_readable(&[end.as_fd()], deadline_in(PATIENCE)).expect("poll"));
        assert!(matches!(socket::receive(end.as_fd(), &mut buffer), Ok(Packet { len: 0, .. })), "it hung up");
        assert!(taking.end().is_empty());
    }
}

#[test]
fn ends_without_a_common_version_give_nothing() {
    let old = address();
    let giver = handoff(&old);
    let end = meet(&old, Role::Give);
    say(&end, &Message::Hello { lowest: 2, highest: 3 });
    let (client, service) = connected();
    let kept = giver.give("lines", connection(service, &[]), PATIENCE).expect_err("it speaks no version of ours");
    assert_eq!(kept.why, Why::Gone);
    echo(client, kept.connection.socket);
}

#[test]
fn introductions_that_make_no_sense_are_not_heard() {
    let old = address();
    let giver = handoff(&old);
    let [end, _other] = socket::pair().expect("pair");
    for (bytes, descriptor) in [(&b"hello"[..], Some(end.as_fd())), (&Role::Give.encode()[..], None), (&[0; 100][..], None)] {
        let to = socket::connect(&old).expect("it listens");
        socket::send(to.as_fd(), bytes, descriptor).expect("send");
    }
    let (_client, service) = connected();
    let kept = giver.give("lines", connection(service, &[]), PATIENCE).expect_err("nobody was introduced");
    assert_eq!(kept.why, Why::NoSuccessor);
}

#[test]
fn strangers_and_the_absent_are_not_introduced() {
    let (old, new) = (address(), address());
    let _giver = handoff(&old);
    let absent = parent::introduce(&old, &new, |_, _| true).expect_err("nobody listens");
    assert!(matches!(absent, parent::IntroduceError::Nobody(Role::Take)), "{absent}");
    let _taker = handoff(&new);
    let stranger = parent::introduce(&old, &new, |role, _| role == Role::Give).expect_err("it is another process");
    assert!(matches!(stranger, parent::IntroduceError::Stranger { role: Role::Take, .. }), "{stranger}");
}

#[test]
fn two_versions_cannot_listen_at_one_address() {
    let old = address();
    let _first = handoff(&old);
    let again = Handoff::new(Some(&old), BTreeMap::new()).expect_err("it is in use");
    assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn an_introduction_that_comes_when_no_descriptor_is_free_is_heard_later() {
    scarce::alone("connection::tests::an_introduction_that_comes_when_no_descriptor_is_free_is_heard_later", || {
        let at = address();
        let taker = handoff(&at);
        let [ours, theirs] = socket::pair().expect("pair");
        let to = socket::connect(&at).expect("it listens");
        socket::send(to.as_fd(), &Role::Take.encode(), Some(theirs.as_fd())).expect("send");
        // None for the connection; then one for it, and none for the end that comes with it.
        for n in [0, 1] {
            let _limit = scarce::leave(n);
            let mut met = taker.lock();
            let asked = taker.admit(&mut met);
            assert!(met.to_take.is_empty() && matches!(asked, Ok(Admitted::Short)), "{n}: {asked:?}");
        }
        let limit = scarce::leave(1);
        let taking = Taking::start(&taker, |_| true);
        drop(limit);
        say(&ours, &hello());
        assert_eq!(hear(&ours).0, hello());
        drop((ours, theirs));
        assert!(taking.end().is_empty());
    });
}
