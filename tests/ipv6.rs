//! Ports of IPv6 go from version to version as those of IPv4 do. A machine without a loopback address of IPv6 tries none of it, and says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use df_testkit::net;
use df_testkit::process::wait_until;

use crate::other_ports::{Load, PATIENCE, Versions, ask, switch_under_load};
use crate::support::World;

const VERIFY: &str = "verify:\n  - http: { port: http, path: / }\n";

/// Returns whether this machine has IPv6; if not, says what was not tried.
fn has_ipv6(what: &str) -> bool {
    let is_there = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !is_there {
        eprintln!("skipped: this machine has no ::1, so {what} was not tried");
    }
    is_there
}

/// Asks over HTTP, over a connection of its own; returns the commit that answers.
fn get(at: SocketAddr) -> Result<String, String> {
    let answer = net::get(at, "/", PATIENCE).map_err(|loss| format!("{at}: {loss:?}"))?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status == 200 && body.len() == 40 { Ok(body) } else { Err(format!("{at}: {} {body}", answer.status)) }
}

#[test]
fn deploys_and_rollbacks_over_ipv6_lose_no_request() {
    if !has_ipv6("a port at ::1") {
        return;
    }
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, net::free_port(Ipv6Addr::LOCALHOST)));
    let (versions, ports) = (Versions::new("tcp6"), format!("ports: {{ http: \"{at}\" }}"));
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "tcp", &ports, VERIFY)).collect();
    let sick = versions.commit(3, "tcp, sick", &ports, VERIFY);
    let world = World::of(versions.repo.dir(), 1);
    switch_under_load(&world, &commits, &sick, move || get(at));
    // What the node saw as a client of its own went over IPv6 too.
    let deployed = world.df(["--json", "deploy", "--commit-hash", &commits[1]]).ok();
    let handoff = &deployed.events("handoff")[0];
    assert!(handoff["requests"].as_u64() >= Some(10) && handoff["lost"] == 0, "{handoff}");
    assert_eq!((&handoff["connections_handed_over"], handoff["connections_drained"].is_u64()), (&0.into(), true), "{handoff}");
    let shown = world.df(["status"]).ok().stdout;
    assert!(shown.contains(&format!("http={at}")), "{shown}");
    world.df(["verify"]).ok();
    world.df(["stop"]).ok();
    assert!(get(at).is_err(), "what was stopped listens no more");
}

#[test]
fn a_version_that_binds_its_ipv6_port_by_itself_loses_some_in_the_same_harness() {
    if !has_ipv6("the control") {
        return;
    }
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, net::free_port(Ipv6Addr::LOCALHOST)));
    let (versions, run) = (Versions::new("tcp6-binds"), format!("ports: {{ http: \"{at}\" }}\n  handoff: restart"));
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "tcp-binds, \"{addr:http}\"", &run, VERIFY)).collect();
    let world = World::of(versions.repo.dir(), 1);
    world.deploy(&commits[0]);
    wait_until(PATIENCE, || get(at).ok()).expect("it serves");
    let load = Load::start(move || get(at));
    load.wait_for(50);
    world.deploy(&commits[1]);
    load.wait_for_losses();
}

#[test]
fn datagrams_over_ipv6_are_answered_over_deploys_and_rollbacks() {
    if !has_ipv6("a UDP port at ::1") {
        return;
    }
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, net::free_port(Ipv6Addr::LOCALHOST)));
    let (versions, ports) = (Versions::new("udp6"), format!("ports: {{ echo: \"udp:{at}\" }}"));
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "udp", &ports, "")).collect();
    let sick = versions.commit(3, "udp, sick", &ports, "verify:\n  - command: bin/no-such-program\n");
    let world = World::of(versions.repo.dir(), 1);
    let numbers = Arc::new(AtomicU32::new(0));
    switch_under_load(&world, &commits, &sick, move || ask(at, numbers.fetch_add(1, Relaxed)));
}

#[test]
fn a_port_of_both_families_is_two_ports_of_one_number_and_loses_nobody_of_either() {
    if !has_ipv6("a port of both families") {
        return;
    }
    let port = net::free_port(Ipv6Addr::UNSPECIFIED);
    let (versions, ports) = (Versions::new("both"), format!("ports: {{ http: \"0.0.0.0:{port}\", http6: \"[::]:{port}\" }}"));
    let commits: Vec<String> = (1..=2).map(|n| versions.commit(n, "tcp", &ports, VERIFY)).collect();
    let sick = versions.commit(3, "tcp, sick", &ports, VERIFY);
    let world = World::of(versions.repo.dir(), 1);
    let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let numbers = Arc::new(AtomicU32::new(0));
    let in_turn = move || get(SocketAddr::from((addresses[numbers.fetch_add(1, Relaxed) as usize % 2], port)));
    switch_under_load(&world, &commits, &sick, in_turn);
}

#[test]
fn a_port_at_all_addresses_of_ipv6_takes_no_client_of_ipv4() {
    if !has_ipv6("a port at [::]") {
        return;
    }
    let port = net::free_port(Ipv6Addr::UNSPECIFIED);
    let versions = Versions::new("six");
    let commit = versions.commit(1, "tcp", &format!("ports: {{ http: \"[::]:{port}\" }}"), VERIFY);
    let world = World::of(versions.repo.dir(), 1);
    world.deploy(&commit);
    assert_eq!(get(SocketAddr::from((Ipv6Addr::LOCALHOST, port))), Ok(commit));
    assert!(get(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_err(), "another program may have that one");
}
