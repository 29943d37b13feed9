use super::*;
use crate::contract::Source;
use crate::durable;
use crate::export;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry { path: path.parse().expect("a path"), kind }
}

fn file(bytes: &[u8], executable: bool) -> Kind {
    Kind::File { executable, len: bytes.len() as u64, digest: Digest::of(bytes) }
}

fn example() -> (Manifest, Source) {
    let long = format!("d/{}", "n".repeat(150));
    let link = |target: &str| Kind::Symlink { target: target.as_bytes().into() };
    let manifest = Manifest::new(vec![
        entry("a", file(b"hello\n", false)),
        entry("b", file(&[7; 600], true)),
        entry("d", Kind::Directory),
        entry("d/empty", Kind::Directory),
        entry(&long, file(b"hello\n", false)),
        entry("l", link("d/empty")),
        entry("m", link(&long)),
    ]);
    (manifest.expect("a tree"), [&b"hello\n"[..], &[7; 600]].iter().map(|b| (Digest::of(b), b.to_vec())).collect())
}

fn read_bytes(bytes: &[u8], max_len: u64) -> Result<(Manifest, Source), TarError> {
    let spool = tempfile::tempdir().expect("a directory");
    let located = read(&mut &bytes[..], spool.path(), ReadOptions { max_len, ..ReadOptions::default() })?;
    let blobs = located.files.iter().map(|(digest, path)| (*digest, fs::read(path).expect("spooled"))).collect();
    Ok((located.manifest, blobs))
}

/// Writes a header and contents as a hostile program would: any name, any kind, any mode.
fn raw(name: &[u8], target: &[u8], kind: u8, mode: u32, contents: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, target, kind, mode, contents.len() as u64).to_vec();
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 2 * BLOCK]].concat()
}

#[track_caller]
fn check(parts: &[Vec<u8>], expected: &str) {
    let error = read_bytes(&archive(parts), 1 << 20).expect_err("refused");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn equal_images_give_equal_bytes_and_come_back_as_the_same_image() {
    let (manifest, source) = example();
    let mut bytes = vec![];
    write(&manifest, &source, &mut bytes).expect("written");
    assert_eq!(Digest::of(&bytes).to_string(), include_str!("../../testdata/tar-v1.digest").trim());
    assert_eq!(read_bytes(&bytes, 1 << 20).expect("read"), (manifest.clone(), source));
    let dir = tempfile::tempdir().expect("a directory");
    let (spool, out) = (dir.path().join("spool"), dir.path().join("out"));
    fs::create_dir(&spool).expect("made");
    let located = read(&mut &bytes[..], &spool, ReadOptions::default()).expect("read");
    export::tree(&located.manifest, &located, &out).expect("exported");
    assert_eq!(crate::check::tree(&out, &manifest).expect("read"), []);
    durable::remove_tree(&out).expect("removed");
}

#[test]
fn what_another_program_writes_is_read() {
    let parts = [
        raw(b"./", b"", b'5', 0o755, b""),
        raw(b"./bin/hi", b"", b'0', 0o755, b"hi"),
        raw(b"./bin/", b"", b'5', 0o2755, b""),
        raw(b"pax", b"", b'x', 0o644, &pax_record("mtime", b"12.5")),
        raw(b"./twin", b"./bin/hi", b'1', 0o755, b""),
        raw(b"././@LongLink", b"", b'L', 0o644, &[&[b'x'; 120][..], b"\0"].concat()),
        raw(b"cut", b"", b'0', 0o600, b""),
    ];
    let (manifest, _) = read_bytes(&[archive(&parts), vec![0; 9000 / BLOCK * BLOCK]].concat(), 1 << 20).expect("an image");
    let expected = Manifest::new(vec![
        entry("bin", Kind::Directory),
        entry("bin/hi", file(b"hi", true)),
        entry("twin", file(b"hi", true)),
        entry(&"x".repeat(120), file(b"", false)),
    ]);
    assert_eq!(manifest, expected.expect("a tree"));
}

#[test]
fn what_no_image_can_hold_is_refused_and_never_skipped() {
    let ok = |name: &[u8]| raw(name, b"", b'0', 0o644, b"x");
    check(&[ok(b"../x")], "a name that no image can hold");
    check(&[ok(b"a/../../x")], "a name that no image can hold");
    check(&[ok(b"/etc/passwd")], "a name that no image can hold");
    check(&[ok(b"a//b")], "a name that no image can hold");
    check(&[ok(b"a"), ok(b"a")], "lists a twice");
    check(&[ok(b"a"), raw(b"a/", b"", b'5', 0o755, b"")], "lists a twice");
    check(&[raw(b"a", b"b", b'2', 0o777, b""), ok(b"a/x")], "leads through something that is no directory");
    check(&[ok(b"a"), ok(b"a/x")], "leads through something that is no directory");
    check(&[ok(b"a/x"), ok(b"a")], "lists a twice");
    check(&[raw(b"l", b"/etc", b'2', 0o777, b"")], "a link in the archive");
    check(&[raw(b"l", b"../x", b'2', 0o777, b"")], "a link in the archive");
    check(&[raw(b"l", b"", b'2', 0o777, b"")], "not a tree");
    check(&[raw(b"h", b"later", b'1', 0o644, b""), ok(b"later")], "no earlier file");
    check(&[raw(b"l", b"x", b'2', 0o777, b""), raw(b"h", b"l", b'1', 0o644, b"")], "no earlier file");
    check(&[raw(b"h", b"/etc/passwd", b'1', 0o644, b"")], "a name that no image can hold");
    check(&[raw(b"c", b"", b'3', 0o644, b"")], "is a device");
    check(&[raw(b"b", b"", b'4', 0o644, b"")], "is a device");
    check(&[raw(b"f", b"", b'6', 0o644, b"")], "is a fifo");
    check(&[raw(b"s", b"", b'S', 0o644, b"")], "is a sparse file");
    check(&[raw(b"u", b"", b'Z', 0o644, b"")], "is of an unknown kind");
    check(&[raw(b"u", b"", b'0', 0o4755, b"")], "setuid");
    check(&[raw(b"d/", b"", b'5', 0o755, b"x")], "has contents");
    check(
        &[raw(b"p", b"", b'x', 0o644, &pax_record("SCHILY.xattr.security.capability", b"x")), ok(b"a")],
        "a record that no image can keep",
    );
    check(&[raw(b"p", b"", b'x', 0o644, &pax_record("GNU.sparse.major", b"1")), ok(b"a")], "a record that no image can keep");
    check(&[raw(b"p", b"", b'x', 0o644, &pax_record("size", b"9")), ok(b"a")], "two sizes");
    check(&[raw(b"p", b"", b'x', 0o644, &pax_record("path", b"../x")), ok(b"a")], "a name that no image can hold");
    check(&[raw(b"p", b"", b'g', 0o644, &pax_record("path", b"a")), ok(b"a")], "names all entries at once");
    check(&[raw(b"p", b"", b'x', 0o644, b"99 path=x\n"), ok(b"a")], "a record that no image can keep");
    check(&[raw(b"p", b"", b'x', 0o644, b"x"), ok(b"a")], "a record that no image can keep");
    check(&[raw(b"p", b"", b'x', 0o644, &pax_record("path", b"a"))], "does not follow");
    check(&[raw(b"p", b"", b'L', 0o644, &vec![b'x'; 70_000]), ok(b"a")], "too long");
    check(&[raw(b"a", b"", b'0', 0o644, &vec![0; 2 << 20])], "more than is allowed");
}

#[test]
fn a_claim_of_a_tebibyte_costs_nothing() {
    let huge = header(b"a", b"", b'0', 0o644, 1 << 40).to_vec();
    assert!(matches!(read_bytes(&huge, 1 << 20), Err(TarError::TooLarge)));
    assert!(matches!(read_bytes(&huge, u64::MAX), Err(TarError::Truncated)));
}

#[test]
fn cut_garbled_and_continued_archives_are_refused() {
    let (manifest, source) = example();
    let mut bytes = vec![];
    write(&manifest, &source, &mut bytes).expect("written");
    for len in (0..bytes.len() - 2 * BLOCK).step_by(100) {
        assert!(matches!(read_bytes(&bytes[..len], 1 << 20), Err(TarError::Truncated)), "{len} bytes");
    }
    for at in 0..BLOCK {
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        assert!(read_bytes(&bad, 1 << 20).is_err(), "byte {at}");
    }
    bytes.extend_from_slice(&raw(b"more", b"", b'0', 0o644, b""));
    assert!(matches!(read_bytes(&bytes, 1 << 20), Err(TarError::Trailing)));
}
