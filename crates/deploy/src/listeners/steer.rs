//! The classic BPF program that chooses a member of the group for each new connection, or each datagram.
//!
//! It runs on the packet that opens a connection, or on the datagram; both begin with the ports at the same place. Loads at `SKF_NET_OFF` start at the network header; the ports stand at the
//! transport header, 20 bytes further for IPv4 without options and 40 for IPv6 without extension headers. A packet that has either goes to the serving
//! generation unseen: ours has none, and at those offsets it would hold bytes of the sender's choice.
//!
//! What the kernel does with the answer (`reuseport_select_sock`): an index in the group chooses that socket; one beyond its end
//! falls back to a hash over all members, as if there were no program; a load beyond the packet answers 0.

use libc::sock_filter;
use rustix::net::sockopt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// The transport protocol of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Tells whether a socket still gets what comes: a listener that was shut down has left its group.
    pub fn takes(self, socket: &OwnedFd) -> bool {
        self == Protocol::Udp || sockopt::socket_acceptconn(socket).unwrap_or(false)
    }
}

/// What a group gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packets {
    pub protocol: Protocol,
    pub family: Family,
}

impl Packets {
    /// Returns what comes to an address.
    pub fn at(protocol: Protocol, address: &SocketAddr) -> Self {
        Packets { protocol, family: Family::of(address) }
    }
}

/// The network protocol of a group; a group has one, because IPv6 sockets are made with IPV6_V6ONLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Returns the family of an address.
    pub fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Returns the program: connections from one of the prober's endpoints go to the trial's index, all others to the serving one.
///
/// An endpoint matches by address and port. Endpoints of the other family match nothing.
pub fn program(packets: Packets, serving_index: usize, trial: Option<(usize, &[SocketAddr])>) -> Vec<sock_filter> {
    let mut code = Vec::new();
    if let Some((trial_index, endpoints)) = trial.filter(|(_, endpoints)| !endpoints.is_empty()) {
        code.extend(refuse_options(packets, serving_index));
        for endpoint in endpoints.iter().filter(|e| Family::of(e) == packets.family) {
            code.extend(match_endpoint(endpoint, trial_index));
        }
    }
    code.push(answer(serving_index));
    code
}

/// Returns the filter of a listener that has nobody beside it to send clients to: packets from the prober's endpoints pass, all others are dropped.
pub fn gate(packets: Packets, endpoints: &[SocketAddr]) -> Vec<sock_filter> {
    program(packets, DROP, Some((PASS, endpoints)))
}

/// Returns the filter of a socket that nothing shall reach any more.
pub fn drop_all() -> Vec<sock_filter> {
    vec![answer(DROP)]
}

/// What a socket's filter answers for a packet that nobody shall see.
const DROP: usize = 0;
/// What it answers for one that passes whole.
const PASS: usize = u32::MAX as usize;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Answers "serving" unless the transport header follows the plain network header.
fn refuse_options(packets: Packets, serving_index: usize) -> [sock_filter; 3] {
    let next_header = match packets.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let (offset, expect) = match packets.family {
        Family::V4 => (0, 0x45), // version 4, header of 5 words: no options
        Family::V6 => (6, next_header as u32),
    };
    [load(LOAD_BYTE, offset), jump_equal(expect, 1, 0), answer(serving_index)]
}

/// Answers "trial" if source address and port are the endpoint's, else goes on behind this block.
fn match_endpoint(endpoint: &SocketAddr, trial_index: usize) -> Vec<sock_filter> {
    let (words, address_at, port_at) = match endpoint.ip() {
        IpAddr::V4(ip) => (vec![u32::from(ip)], 12, 20),
        IpAddr::V6(ip) => (ip.octets().chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]])).collect(), 8, 40),
    };
    let len = 2 * words.len() + 3;
    let mut code = Vec::with_capacity(len);
    for (i, word) in words.into_iter().enumerate() {
        code.push(load(LOAD_WORD, address_at + 4 * i as u32));
        code.push(jump_equal(word, 0, (len - code.len() - 1) as u8));
    }
    code.push(load(LOAD_HALF, port_at));
    code.push(jump_equal(endpoint.port().into(), 0, 1));
    code.push(answer(trial_index));
    code
}

fn load(code: u16, offset: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k: (libc::SKF_NET_OFF as u32).wrapping_add(offset) }
}

fn jump_equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: JUMP_EQUAL, jt, jf, k }
}

fn answer(index: usize) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: index as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on a packet that starts at its network header, as the kernel does; loads beyond it answer 0.
    fn run(program: &[sock_filter], packet: &[u8]) -> u32 {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            let offset = i.k.wrapping_sub(libc::SKF_NET_OFF as u32) as usize;
            let field = |len: usize| packet.get(offset..offset + len).map(|b| b.iter().fold(0, |n, &x| n << 8 | u32::from(x)));
            let loaded = match i.code {
                LOAD_BYTE => field(1),
                LOAD_HALF => field(2),
                LOAD_WORD => field(4),
                JUMP_EQUAL => {
                    at += usize::from(if a == i.k { i.jt } else { i.jf });
                    continue;
                }
                RETURN => return i.k,
                other => panic!("instruction {other:#x} is not one we use"),
            };
            match loaded {
                Some(value) => a = value,
                None => return 0,
            }
        }
    }

    fn of(address: &SocketAddr) -> Packets {
        Packets::at(Protocol::Tcp, address)
    }

    fn packet(from: SocketAddr) -> Vec<u8> {
        let mut packet = match from.ip() {
            IpAddr::V4(ip) => {
                let mut header = vec![0u8; 20];
                header[0] = 0x45;
                header[12..16].copy_from_slice(&ip.octets());
                header
            }
            IpAddr::V6(ip) => {
                let mut header = vec![0u8; 40];
                (header[0], header[6]) = (0x60, 6);
                header[8..24].copy_from_slice(&ip.octets());
                header
            }
        };
        packet.extend(from.port().to_be_bytes());
        packet.extend([0; 18]);
        packet
    }

    fn endpoints(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[track_caller]
    fn check(probers: &[&str], from: &str, expect: u32) {
        let probers = endpoints(probers);
        let from: SocketAddr = from.parse().unwrap();
        let program = program(of(&from), 1, Some((2, &probers)));
        assert_eq!(run(&program, &packet(from)), expect, "from {from}");
    }

    #[test]
    fn only_address_and_port_together_reach_the_trial() {
        let v4 = ["127.0.0.1:5000", "127.0.0.1:6000", "10.1.2.3:5000"];
        check(&v4, "127.0.0.1:5000", 2);
        check(&v4, "127.0.0.1:6000", 2);
        check(&v4, "10.1.2.3:5000", 2);
        check(&v4, "10.1.2.3:6000", 1);
        check(&v4, "127.0.0.2:5000", 1);
        check(&v4, "127.0.0.1:5001", 1);
        let v6 = ["[::1]:5000", "[fe80::1:2:3:4]:6000"];
        check(&v6, "[::1]:5000", 2);
        check(&v6, "[fe80::1:2:3:4]:6000", 2);
        check(&v6, "[::1]:6000", 1);
        check(&v6, "[::2]:5000", 1);
        check(&v6, "[fe80::1:2:3:5]:6000", 1);
        check(&v6, "[1::1]:5000", 1);
    }

    #[test]
    fn without_a_trial_everybody_is_served() {
        let plain = program(of(&"1.1.1.1:1".parse().unwrap()), 3, None);
        assert_eq!(plain.len(), 1);
        assert_eq!(run(&plain, &packet("127.0.0.1:1".parse().unwrap())), 3);
        check(&[], "127.0.0.1:5000", 1);
    }

    #[test]
    fn an_endpoint_of_the_other_family_matches_nobody() {
        check(&["127.0.0.1:5000"], "[::ffff:127.0.0.1]:5000", 1);
        check(&["[::ffff:127.0.0.1]:5000"], "127.0.0.1:5000", 1);
    }

    #[test]
    fn options_and_extension_headers_go_to_the_serving() {
        for (from, at, byte) in [("127.0.0.1:5000", 0, 0x46), ("[::1]:5000", 6, 0)] {
            let prober = endpoints(&[from]);
            let mut packet = packet(prober[0]);
            packet[at] = byte;
            assert_eq!(run(&program(of(&prober[0]), 1, Some((2, &prober))), &packet), 1);
        }
    }

    #[test]
    fn a_datagram_is_told_by_the_same_places() {
        let prober = endpoints(&["[::1]:5000", "127.0.0.1:5000"]);
        for from in &prober {
            let code = program(Packets::at(Protocol::Udp, from), 1, Some((2, &prober)));
            let mut packet = packet(*from);
            if from.is_ipv6() {
                assert_eq!(run(&code, &packet), 1, "a next header that is not UDP");
                packet[6] = 17;
            }
            assert_eq!(run(&code, &packet), 2, "{from}");
        }
        assert_eq!(run(&drop_all(), &packet(prober[0])), 0);
    }

    #[test]
    fn sixteen_endpoints_all_match() {
        for host in ["10.0.0.1", "[fe80::1]"] {
            let probers: Vec<SocketAddr> = (0..16).map(|i| format!("{host}:{}", 40_000 + i).parse().unwrap()).collect();
            let code = program(of(&probers[0]), 0, Some((1, &probers)));
            assert!(code.len() < 256);
            probers.iter().for_each(|p| assert_eq!(run(&code, &packet(*p)), 1));
            assert_eq!(run(&code, &packet(format!("{host}:39999").parse().unwrap())), 0);
        }
    }
}
