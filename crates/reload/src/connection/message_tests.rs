//! Tables for the format.

use super::*;

fn offer(tag: &str, state: &[u8], unread: &[u8]) -> Offer {
    Offer { number: 1, tag: tag.to_owned(), state: state.to_vec(), unread: unread.to_vec() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// Every message, as the page for other languages has it.
fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let seven = 7_u64.to_le_bytes();
    vec![
        ("introduction: give", Role::Give.encode().to_vec()),
        ("introduction: take", Role::Take.encode().to_vec()),
        ("hello", Message::Hello { lowest: 1, highest: 1 }.encode()),
        ("offer", Message::Offer(offer("counter/1", &seven, b"ne")).encode()),
        ("accept", Message::Accept(1).encode()),
        ("refuse", Message::Refuse(1).encode()),
        ("commit", Message::Commit(1).encode()),
        ("taken", Message::Taken(1).encode()),
        ("withdraw", Message::Withdraw(1).encode()),
    ]
}

#[test]
fn the_page_for_other_languages_shows_these_bytes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/handoff-protocol.md");
    // Packed alone, this crate has no pages beside it.
    let Ok(page) = std::fs::read_to_string(path) else { return };
    for (name, bytes) in examples() {
        let line = format!("{name}: {}", hex(&bytes));
        assert!(page.lines().any(|found| found == line), "docs/handoff-protocol.md lacks the line\n{line}");
    }
    let bounds = format!("tag 1 to {MAX_TAG} bytes, state at most {MAX_STATE}, unread at most {MAX_UNREAD}");
    assert!(page.contains(&bounds), "docs/handoff-protocol.md lacks: {bounds}");
}

#[test]
fn what_is_encoded_is_what_is_parsed() {
    let full = offer(&"t".repeat(MAX_TAG), &vec![1; MAX_STATE], &vec![2; MAX_UNREAD]);
    for message in [
        Message::Hello { lowest: 1, highest: 65535 },
        Message::Offer(offer("x", b"", b"")),
        Message::Offer(full),
        Message::Accept(0),
        Message::Refuse(u32::MAX),
        Message::Commit(2),
        Message::Taken(3),
        Message::Withdraw(4),
    ] {
        let packet = message.encode();
        assert!(packet.len() <= MAX_PACKET);
        assert_eq!(Message::parse(&packet), Ok(message));
    }
    for role in [Role::Give, Role::Take] {
        assert_eq!(Role::parse(&role.encode()), Ok(role));
    }
}

#[test]
fn every_packet_that_is_cut_or_too_long_is_refused() {
    for (name, packet) in examples().into_iter().skip(2) {
        for len in 0..packet.len() {
            assert!(Message::parse(&packet[..len]).is_err(), "{name} cut to {len}");
        }
        let longer = Message::parse(&[packet.as_slice(), b"x"].concat());
        assert_eq!(longer.is_ok(), name == "hello", "{name} with a byte more");
    }
    for packet in [&b""[..], b"dfho", b"dfho\x02G", b"dfho\x01X", b"dfho\x01GG", b"DFHO\x01G"] {
        assert!(Role::parse(packet).is_err(), "{packet:?}");
    }
}

#[test]
fn hostile_packets_are_refused() {
    for bad in [offer("", b"", b""), offer("two words", b"", b""), offer("\u{e9}", b"", b""), offer(&"t".repeat(65), b"", b"")] {
        assert_eq!(Message::parse(&Message::Offer(bad).encode()), Err(PacketError::Offer));
    }
    let large = offer("x", &vec![0; MAX_STATE + 1], b"");
    assert_eq!(Message::parse(&Message::Offer(large).encode()), Err(PacketError::Offer));
    let huge = [&b"O\x01\0\0\0\x01"[..], &u32::MAX.to_le_bytes(), &u32::MAX.to_le_bytes(), b"x"].concat();
    assert_eq!(Message::parse(&huge), Err(PacketError::Offer));
    let not_text = [&b"O\x01\0\0\0\x01"[..], &[0; 8], b"\xff"].concat();
    assert_eq!(Message::parse(&not_text), Err(PacketError::Offer));
    assert_eq!(Message::parse(b"X\0\0\0\0"), Err(PacketError::Unknown("X\\x00\\x00\\x00\\x00".to_owned())));
    assert_eq!(Message::parse(b"Hdfhx\x01\0\x01\0"), Err(PacketError::Unknown("dfhx\\x01\\x00\\x01\\x00".to_owned())));
}

#[test]
fn the_highest_version_that_both_know_is_spoken() {
    for (ours, lowest, highest, expect) in [
        (1..=1, 1, 1, Some(1)),
        (1..=1, 1, 9, Some(1)),
        (1..=3, 1, 2, Some(2)),
        (2..=3, 1, 2, Some(2)),
        (1..=1, 2, 9, None),
        (2..=3, 1, 1, None),
        (1..=3, 3, 2, None),
    ] {
        assert_eq!(common_version(&ours, lowest, highest), expect, "{ours:?} and {lowest}..={highest}");
    }
}
