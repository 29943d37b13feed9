//! The group against the real kernel: who gets which connection.

use super::super::group::Group;
use super::*;
use crate::claim::ClaimError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HOSTS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];
const SOON: Duration = Duration::from_secs(10);

fn group(host: &str, generations: &[u64]) -> Group {
    let group = group_at(host);
    generations.iter().for_each(|&g| drop(group.add(g).unwrap()));
    group
}

fn group_at(host: &str) -> Group {
    Group::new(host.parse::<SocketAddr>().unwrap())
}

fn tcp(group: &Group) -> SocketAddr {
    group.record().address.socket().unwrap()
}

fn n_probers(group: &Group) -> usize {
    match group {
        Group::Internet(group) => group.lock().probers.len(),
        Group::Named(_) => unreachable!("groups here are at addresses"),
    }
}

fn clients(group: &Group, n: usize) -> Vec<TcpStream> {
    (0..n).map(|_| group.dial_serving(SOON).unwrap()).collect()
}

/// Waits until the queues of the generations are exactly these; a connection is queued a moment after the client has it.
#[track_caller]
fn check_queues(group: &Group, expect: &[(u64, u32)]) {
    let deadline = Instant::now() + SOON;
    loop {
        let found: Vec<(u64, u32)> = expect.iter().map(|&(g, _)| (g, group.queue_len(g).unwrap())).collect();
        if found == expect {
            return;
        }
        assert!(Instant::now() < deadline, "queues {found:?}, expected {expect:?}");
        std::thread::yield_now();
    }
}

#[test]
fn clients_reach_the_serving_and_the_prober_the_trial() {
    for host in HOSTS {
        let group = group(host, &[1, 2]);
        group.steer(1, None).unwrap();
        let _before = clients(&group, 300);
        check_queues(&group, &[(1, 300), (2, 0)]);
        group.steer(1, Some(2)).unwrap();
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(group.dial_trial(SOON).unwrap());
            held.extend(clients(&group, 4));
        }
        check_queues(&group, &[(1, 500), (2, 50)]);
        group.steer(2, None).unwrap();
        let _after = clients(&group, 200);
        check_queues(&group, &[(1, 500), (2, 250)]);
    }
}

#[test]
fn whoever_leaves_first_clients_reach_the_serving() {
    for host in HOSTS {
        for (serving, leave) in [(1, [2, 3]), (1, [3, 2]), (2, [1, 3]), (2, [3, 1]), (3, [1, 2]), (3, [2, 1])] {
            let group = group(host, &[1, 2, 3]);
            group.steer(serving, None).unwrap();
            assert_eq!(group.remove(leave[0]).unwrap(), 0);
            let _held = clients(&group, 100);
            check_queues(&group, &[(serving, 100), (leave[1], 0)]);
            group.steer(serving, Some(leave[1])).unwrap();
            let _prober = group.dial_trial(SOON).unwrap();
            check_queues(&group, &[(serving, 100), (leave[1], 1)]);
            assert_eq!(group.remove(leave[1]).unwrap(), 1);
            let _held_too = clients(&group, 100);
            check_queues(&group, &[(serving, 200)]);
        }
    }
}

#[test]
fn removing_under_load_strays_no_client() {
    let done = AtomicBool::new(false);
    for _ in 0..30 {
        let group = group(HOSTS[0], &[1, 2, 3]);
        group.steer(3, None).unwrap();
        done.store(false, Ordering::Relaxed);
        let n_clients = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut held = Vec::new();
                while !done.load(Ordering::Relaxed) || held.len() < 20 {
                    held.extend(clients(&group, 1));
                }
                held
            });
            check_at_least(&group, 3, 5);
            group.remove(1).unwrap();
            done.store(true, Ordering::Relaxed);
            load.join().unwrap()
        });
        check_queues(&group, &[(3, n_clients.len() as u32), (2, 0)]);
        drop(group.add(4).unwrap());
        assert_eq!(group.record().slots, [Some(4), Some(2), Some(3)], "the spare was not used");
    }
}

#[track_caller]
fn check_at_least(group: &Group, generation: u64, n: u32) {
    let deadline = Instant::now() + SOON;
    while group.queue_len(generation).unwrap() < n {
        assert!(Instant::now() < deadline, "no load");
        std::thread::yield_now();
    }
}

/// The fallback that makes spares necessary: the kernel ignores an index beyond the group.
#[test]
fn an_index_beyond_the_group_spreads_clients_over_all_members() {
    for host in HOSTS {
        let group = group(host, &[1, 2]);
        let code = program(Packets::at(Protocol::Tcp, &tcp(&group)), 7, None);
        sys::attach(group.listener(1).unwrap(), &code).unwrap();
        let _held = clients(&group, 200);
        check_at_least(&group, 1, 1);
        check_at_least(&group, 2, 1);
    }
}

#[test]
fn a_queued_client_is_counted_and_the_count_returns_to_zero() {
    for host in HOSTS {
        let group = group(host, &[1]);
        let listener = std::net::TcpListener::from(group.listener(1).unwrap());
        check_queues(&group, &[(1, 0)]);
        let _held = clients(&group, 3);
        check_queues(&group, &[(1, 3)]);
        (0..3).for_each(|_| drop(listener.accept().unwrap()));
        check_queues(&group, &[(1, 0)]);
    }
}

#[test]
fn probes_at_once_all_reach_the_trial() {
    let group = group(HOSTS[0], &[1, 2]);
    group.steer(1, Some(2)).unwrap();
    let held: Vec<TcpStream> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3 * MAX_PROBERS).map(|_| scope.spawn(|| group.dial_trial(SOON).unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    check_queues(&group, &[(1, 0), (2, held.len() as u32)]);
    assert_eq!(n_probers(&group), 0);
}

#[test]
fn an_endpoint_is_forgotten_once_connected() {
    let group = group(HOSTS[0], &[1, 2]);
    group.steer(1, Some(2)).unwrap();
    let prober = group.dial_trial(SOON).unwrap();
    assert_ne!(prober.local_addr().unwrap(), tcp(&group));
    assert_eq!(n_probers(&group), 0);
    group.steer(2, None).unwrap();
    assert_eq!(group.dial_trial(SOON).unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(n_probers(&group), 0);
}

#[test]
fn a_listener_that_closes_is_closed_for_its_program_too() {
    let group = group(HOSTS[0], &[1]);
    let programs = std::net::TcpListener::from(group.listener(1).unwrap());
    let blocked = std::thread::spawn(move || programs.accept().map(drop));
    group.remove(1).unwrap();
    assert!(blocked.join().unwrap().is_err());
    assert_eq!(group.dial_serving(SOON).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_member_that_left_on_its_own_shifts_the_order() {
    let group = group(HOSTS[0], &[1, 2, 3]);
    group.steer(2, None).unwrap();
    shutdown(group.listener(1).unwrap(), Shutdown::Read).unwrap();
    group.steer(3, None).unwrap();
    let _held = clients(&group, 50);
    check_queues(&group, &[(2, 0), (3, 50)]);
    assert_eq!(group.record().slots, [Some(3), Some(2)]);
}

#[test]
fn an_order_that_is_lost_is_not_guessed() {
    let group = group(HOSTS[0], &[1, 2, 3, 4]);
    for leaver in [1, 2] {
        shutdown(group.listener(leaver).unwrap(), Shutdown::Read).unwrap();
    }
    assert!(matches!(group.steer(4, None), Err(GroupError::OrderLost { .. })));
}

#[test]
fn a_successor_adopts_what_is_left() {
    for host in HOSTS {
        let before = group(host, &[1, 2, 3]);
        before.steer(3, Some(2)).unwrap();
        let record = before.record();
        let sockets = vec![None, Some(before.listener(2).unwrap()), Some(before.listener(3).unwrap())];
        // What the death of the program that held the only descriptor does; tests that start programs may hold copies for a moment.
        shutdown(before.listener(1).unwrap(), Shutdown::Read).unwrap();
        drop(before);
        let after = Group::adopt(&record, sockets).unwrap();
        assert_eq!(after.record().slots, [Some(3), Some(2)]);
        let _held = clients(&after, 50);
        let _prober = after.dial_trial(SOON).unwrap();
        check_queues(&after, &[(3, 50), (2, 1)]);
    }
}

#[test]
fn a_record_that_fits_other_sockets_is_refused() {
    let (one, other) = (group(HOSTS[0], &[1]), group(HOSTS[0], &[1]));
    let refusal = |sockets| Group::adopt(&one.record(), sockets).unwrap_err();
    assert!(matches!(refusal(vec![]), GroupError::WrongRecord { .. }));
    assert!(matches!(refusal(vec![Some(other.listener(1).unwrap())]), GroupError::WrongRecord { .. }));
}

#[test]
fn a_foreign_socket_of_our_user_keeps_us_out() {
    for host in HOSTS {
        let foreign = socket::open_listener(&host.parse().unwrap(), None).unwrap();
        let address = local_address(&foreign).unwrap();
        let group = Group::new(address);
        assert!(matches!(group.add(1), Err(GroupError::Claim(ClaimError::Held { .. }))));
        shutdown(&foreign, Shutdown::Read).unwrap();
        drop(group.add(1).unwrap());
        let _foreign = socket::open_listener(&address, None).unwrap();
        assert!(matches!(group.add(2), Err(GroupError::Claim(ClaimError::Held { .. }))));
        assert_eq!(group.record().slots, [Some(1)]);
    }
}

#[test]
fn a_foreign_socket_that_does_not_share_is_named() {
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusal = Group::new(foreign.local_addr().unwrap()).add(1).unwrap_err().to_string();
    assert!(refusal.ends_with(&format!("(pid {})", std::process::id())), "{refusal}");
}

#[test]
fn a_wildcard_is_dialled_on_loopback() {
    for host in ["0.0.0.0:0", "[::]:0"] {
        let group = group(host, &[1, 2]);
        group.steer(1, Some(2)).unwrap();
        let _held = (clients(&group, 20), group.dial_trial(SOON).unwrap());
        check_queues(&group, &[(1, 20), (2, 1)]);
    }
}

#[test]
fn an_exclusive_successor_gets_the_waiting_clients() {
    let group = group(HOSTS[0], &[1]);
    let _waiting = clients(&group, 7);
    let listener = std::net::TcpListener::from(group.pass(1, 2).unwrap());
    check_queues(&group, &[(2, 7)]);
    drop(listener.accept().unwrap());
    assert_eq!(group.record().serving, Some(2));
}

#[test]
fn generations_are_checked() {
    let group = Arc::new(group(HOSTS[0], &[1, 2]));
    assert!(matches!(group.add(2), Err(GroupError::Present { generation: 2, .. })));
    assert!(matches!(group.steer(3, None), Err(GroupError::Absent { generation: 3, .. })));
    assert!(matches!(group.steer(1, Some(3)), Err(GroupError::Absent { generation: 3, .. })));
    assert!(matches!(group.remove(1), Err(GroupError::Serving { generation: 1, .. })));
    assert!(matches!(group.pass(1, 2), Err(GroupError::Present { generation: 2, .. })));
    assert_eq!((group.record().serving, group.record().trial), (Some(1), None));
}

/// A program: answers every connection with its generation, until its listener is closed.
fn program_of(group: &Group, generation: u64) -> std::thread::JoinHandle<()> {
    let listener = std::net::TcpListener::from(group.add(generation).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            io::Write::write_all(&mut stream, &generation.to_le_bytes()).unwrap();
        }
    })
}

fn ask(mut stream: TcpStream) -> u64 {
    let mut answer = [0; 8];
    io::Read::read_exact(&mut stream, &mut answer).unwrap();
    u64::from_le_bytes(answer)
}

#[test]
fn a_queue_that_nobody_empties_is_not_drained() {
    let group = group(HOSTS[0], &[1, 2]);
    let _waiting = clients(&group, 1);
    group.steer(2, None).unwrap();
    assert!(!group.wait_drained(1, Duration::from_millis(1), Duration::from_millis(50)).unwrap());
    assert!(group.wait_drained(2, Duration::from_millis(1), SOON).unwrap());
}

#[test]
fn handoffs_under_load_lose_no_client_and_show_no_client_the_trial() {
    use std::sync::atomic::AtomicU64;
    for host in HOSTS {
        let group = group_at(host);
        let mut old_program = program_of(&group, 1);
        let (oldest, newest, done) = (AtomicU64::new(1), AtomicU64::new(1), AtomicBool::new(false));
        let load = || {
            let mut n_asked = 0;
            while !done.load(Ordering::SeqCst) {
                let before = oldest.load(Ordering::SeqCst);
                let answer = ask(group.dial_serving(SOON).unwrap());
                let after = newest.load(Ordering::SeqCst);
                assert!((before..=after).contains(&answer), "generation {answer} answered, {before} to {after} may have");
                n_asked += 1;
            }
            n_asked
        };
        std::thread::scope(|scope| {
            let clients = [scope.spawn(load), scope.spawn(load)];
            for new in 2..=15 {
                let program = program_of(&group, new);
                group.steer(new - 1, Some(new)).unwrap();
                (0..20).for_each(|_| assert_eq!(ask(group.dial_trial(SOON).unwrap()), new));
                newest.store(new, Ordering::SeqCst);
                group.steer(new, None).unwrap();
                assert!(group.wait_drained(new - 1, Duration::from_millis(20), SOON).unwrap());
                oldest.store(new, Ordering::SeqCst);
                assert_eq!(group.remove(new - 1).unwrap(), 0);
                std::mem::replace(&mut old_program, program).join().unwrap();
            }
            done.store(true, Ordering::SeqCst);
            let n_asked: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
            assert!(n_asked > 100, "too little load: {n_asked}");
        });
        group.remove(15).unwrap();
        old_program.join().unwrap();
    }
}

#[test]
fn where_nothing_serves_clients_wait_outside_while_the_first_is_on_trial() {
    for host in HOSTS {
        let group = group_at(host);
        drop(group.add_on_trial(1).unwrap());
        let address = tcp(&group);
        let client = std::thread::spawn(move || TcpStream::connect_timeout(&address, SOON));
        for n in 1..=5 {
            let _held = group.dial_trial(SOON).unwrap();
            // The prober is seen, the client is not.
            check_queues(&group, &[(1, n)]);
        }
        let hasty = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert_eq!(hasty.unwrap_err().kind(), io::ErrorKind::TimedOut);
        group.steer(1, None).unwrap();
        client.join().unwrap().expect("who kept trying gets in when the first one serves");
        let _more = clients(&group, 10);
        check_queues(&group, &[(1, 16)]);
    }
}

#[test]
fn clients_of_a_first_version_that_fails_are_refused() {
    let group = group_at(HOSTS[0]);
    drop(group.add_on_trial(1).unwrap());
    let address = tcp(&group);
    group.remove(1).unwrap();
    assert_eq!(TcpStream::connect_timeout(&address, SOON).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    drop(group.add_on_trial(2).unwrap());
    group.steer(2, None).unwrap();
    drop(group.add_on_trial(3).unwrap());
    let _held = (clients(&group, 20), group.dial_trial(SOON).unwrap());
    check_queues(&group, &[(2, 20), (3, 1)]);
}

#[test]
fn who_may_set_no_filter_has_a_first_version_all_the_same() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let group = group_at(HOSTS[0]);
    // Rights are each thread's own.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rights = capabilities(None).unwrap();
            rights.effective.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, rights).unwrap();
            drop(group.add_on_trial(1).unwrap());
        });
    });
    let _prober = group.dial_trial(SOON).unwrap();
    group.steer(1, None).unwrap();
    let _clients = clients(&group, 10);
    check_queues(&group, &[(1, 11)]);
}

/// Sends numbered datagrams from several sockets, so that a hash would spread them.
fn send(group: &Group, numbers: std::ops::Range<u32>) {
    let to = tcp(group);
    for number in numbers {
        let from = std::net::UdpSocket::bind((to.ip(), 0)).unwrap();
        from.send_to(&number.to_le_bytes(), to).unwrap();
    }
}

/// Reads what waits at a generation's socket.
fn received(group: &Group, generation: u64) -> Vec<u32> {
    let socket = std::net::UdpSocket::from(group.listener(generation).unwrap());
    socket.set_nonblocking(true).unwrap();
    let mut numbers = vec![];
    let mut datagram = [0; 4];
    while socket.recv(&mut datagram).is_ok() {
        numbers.push(u32::from_le_bytes(datagram));
    }
    numbers
}

fn datagrams_at(host: &str, generations: &[u64]) -> Group {
    let group = Group::new(Endpoint::Udp(host.parse().unwrap()));
    generations.iter().for_each(|&g| drop(group.add(g).unwrap()));
    group
}

#[test]
fn datagrams_reach_the_serving_and_no_other() {
    for host in HOSTS {
        let group = datagrams_at(host, &[1, 2]);
        send(&group, 0..50);
        assert!(group.queue_len(1).unwrap() > 0 && group.queue_len(2).unwrap() == 0);
        group.steer(2, None).unwrap();
        send(&group, 50..100);
        assert_eq!(received(&group, 1), (0..50).collect::<Vec<_>>(), "what was queued stays where it is");
        assert_eq!(received(&group, 2), (50..100).collect::<Vec<_>>());
        assert!(group.wait_drained(1, Duration::from_millis(1), SOON).unwrap());
        assert_eq!(group.dial_serving(SOON).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}

#[test]
fn a_datagram_without_a_byte_waits_too() {
    let group = datagrams_at(HOSTS[0], &[1]);
    let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    from.send_to(&[], tcp(&group)).unwrap();
    assert_eq!(group.queue_len(1).unwrap(), 1);
}

#[test]
fn a_socket_of_datagrams_whose_generation_ended_is_emptied_for_the_next() {
    for host in HOSTS {
        let group = datagrams_at(host, &[1, 2]);
        // As a program has one, and a child of it that nobody knows of.
        let copy = std::net::UdpSocket::from(group.listener(1).unwrap());
        copy.set_nonblocking(true).unwrap();
        send(&group, 0..3);
        group.steer(2, None).unwrap();
        assert_eq!(group.remove(1).unwrap(), 3);
        assert_eq!(copy.recv(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&group, 10..40);
        drop(group.add_on_trial(3).unwrap());
        assert_eq!(group.record().slots, [Some(3), Some(2)]);
        send(&group, 40..70);
        assert_eq!(received(&group, 2), (10..70).collect::<Vec<_>>(), "neither the spare nor the trial gets one");
        group.steer(3, None).unwrap();
        send(&group, 70..80);
        assert_eq!(received(&group, 3), (70..80).collect::<Vec<_>>());
        group.remove(2).unwrap();
        assert_eq!(group.remove(3).unwrap(), 0);
    }
}

#[test]
fn datagrams_before_the_first_version_serves_reach_nobody() {
    let group = datagrams_at(HOSTS[0], &[]);
    drop(group.add_on_trial(1).unwrap());
    send(&group, 0..5);
    group.steer(1, None).unwrap();
    send(&group, 5..10);
    assert_eq!(received(&group, 1), (5..10).collect::<Vec<_>>());
    group.close().unwrap();
    let at = tcp(&group);
    let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    from.send_to(b"late", at).unwrap();
}

#[test]
fn a_successor_adopts_sockets_of_datagrams() {
    let before = datagrams_at(HOSTS[0], &[1, 2]);
    before.steer(2, None).unwrap();
    let record = before.record();
    let sockets = vec![Some(before.listener(1).unwrap()), Some(before.listener(2).unwrap())];
    assert!(record.sockets.iter().all(|inode| *inode > 0) && record.address.to_string().starts_with("udp:127.0.0.1:"));
    drop(before);
    let after = Group::adopt(&record, sockets).unwrap();
    send(&after, 0..20);
    assert_eq!(received(&after, 2).len(), 20);
    let of_tcp = GroupRecord { address: Endpoint::Tcp(tcp(&after)), ..record };
    assert!(Group::adopt(&of_tcp, vec![None, None]).is_ok(), "nothing found is nothing wrong");
}

/// The kernel's rule that steering avoids: without a filter datagrams go to whoever their sender hashes to.
#[test]
fn without_a_filter_datagrams_are_spread() {
    let group = datagrams_at(HOSTS[0], &[1, 2]);
    let everywhere = program(Packets::at(Protocol::Udp, &tcp(&group)), 7, None);
    sys::attach(group.listener(1).unwrap(), &everywhere).unwrap();
    send(&group, 0..100);
    assert!(!received(&group, 1).is_empty() && !received(&group, 2).is_empty());
}
