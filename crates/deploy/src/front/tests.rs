//! What is put behind a proxy, and how.

use super::*;
use df_core::name::Label;

fn place(label: &str, address: &str, handoff: Handoff) -> Place {
    Place { label: label.parse().expect("a label"), address: address.parse().expect("an address"), handoff, mode: None }
}

fn http(port: &str) -> Probe {
    Probe::Http { port: port.parse().expect("a label"), path: "/".into(), status: 200 }
}

#[test]
fn each_way_has_its_descriptor_and_http_is_spoken_where_a_probe_asks_so() {
    let behind = [
        place("admin", "127.0.0.1:20001", Handoff::Proxy),
        place("raw", "10.0.0.7:9", Handoff::Listener),
        place("web", "127.0.0.1:20002", Handoff::Proxy),
        place("own", "10.0.0.7:8", Handoff::Restart),
    ];
    let label = |text: &str| text.parse::<Label>().expect("a label");
    let expected = [
        Way { label: label("admin"), speaks: Speaks::Tcp, descriptor: 3, port: 20_001 },
        Way { label: label("web"), speaks: Speaks::Http, descriptor: 5, port: 20_002 },
    ];
    assert_eq!(ways(&behind, &[http("web"), Probe::Tcp { port: label("admin") }]), expected);
}

#[test]
fn a_program_gets_a_free_port_for_each_that_is_behind_a_proxy_and_no_other_moves() {
    let places = [place("admin", "10.0.0.7:80", Handoff::Proxy), place("own", "10.0.0.7:81", Handoff::Restart)];
    let (one, other) = (behind(&places).expect("a port"), behind(&places).expect("a port"));
    assert_eq!((&one[1], &other[1]), (&places[1], &places[1]));
    let address = one[0].address.socket().expect("an address");
    assert!(address.ip() == Ipv4Addr::LOCALHOST && address.port() >= 1024, "{address}");
    assert_eq!(Place { address: places[0].address.clone(), ..one[0].clone() }, places[0]);
}

#[test]
fn port_is_that_of_http_else_the_first() {
    let port = |places: &[Place]| port_variable(places).map(|(name, value)| format!("{name}={value}"));
    let (admin, web) = (place("admin", "127.0.0.1:1", Handoff::Proxy), place("http", "127.0.0.1:2", Handoff::Proxy));
    assert_eq!(port(&[admin.clone(), web.clone()]).as_deref(), Some("PORT=2"));
    assert_eq!(port(std::slice::from_ref(&admin)).as_deref(), Some("PORT=1"));
    assert_eq!(port(&[Place { handoff: Handoff::Listener, ..web }]), None);
}

#[test]
fn haproxy_is_found_where_it_may_be_executed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (plain, program) = (dir.path().join("plain"), dir.path().join("program"));
    for (dir, mode) in [(&plain, 0o644), (&program, 0o755)] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir(dir).expect("made");
        std::fs::write(dir.join("haproxy"), "").expect("written");
        std::fs::set_permissions(dir.join("haproxy"), std::fs::Permissions::from_mode(mode)).expect("set");
    }
    let [plain, program] = [&plain, &program].map(|dir| dir.to_str().expect("text"));
    assert_eq!(look(&[plain, program]), Some(Path::new(program).join("haproxy")));
    assert_eq!(look(&[plain]), None);
    assert_eq!(
        FrontError::NoProxy.to_string(),
        "handoff: proxy needs the program haproxy, 2.6 or newer, and this node has none (looked in /usr/local/sbin, /usr/local/bin, \
         /usr/sbin, /usr/bin, /sbin, /bin): apt install haproxy"
    );
}

#[test]
fn what_has_no_proxied_port_is_started_as_it_is() {
    let spec = crate::launch::tests::script("exit 0");
    let places = [place("http", "127.0.0.1:1", Handoff::Listener)];
    assert!(wrap(&spec, &places, &[http("http")], Duration::from_secs(1)).expect("it needs none") == spec);
}
