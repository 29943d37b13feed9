//! What only a store on disk can get wrong: damage, dying processes, several processes at once, full disks.

use super::*;
use crate::blobs::Nothing;
use crate::contract::{self, Source, assert_healed, assert_whole, big, image, release};
use crate::gc::NOTHING;
use crate::index::list;
use crate::roots::Policy;
use crate::scrub::Damaged;
use df_testkit::Seed;
use df_testkit::faults::{flip_byte, kill_moments};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_000);

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(&dir.join("store")).expect("a store")
}

fn example() -> (Manifest, Source) {
    image(&[b"first", b"second", b"", &big(5)])
}

/// The n-th image that workers put: some blobs shared by all, some of its own, one large.
fn numbered(n: u64) -> (Manifest, Source) {
    let own = Seed(n).random().bytes(5_000);
    let mut large = big(0);
    large[..8].copy_from_slice(&n.to_le_bytes());
    image(&[b"shared", &own, &own[..100], &large])
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for path in list(dir).expect("a directory") {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = std::cell::Cell::new(0);
    contract::run(|| {
        count.set(count.get() + 1);
        DiskStore::open(&dir.path().join(count.get().to_string())).expect("a store")
    });
}

#[test]
fn what_was_put_is_there_for_the_next_process_and_without_its_index() {
    let dir = tempfile::tempdir().expect("a directory");
    let (manifest, blobs) = example();
    open(dir.path()).put(&release("a", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    assert_whole(&open(dir.path()), &manifest, &blobs);
    for segment in files(&dir.path().join("store/idx")) {
        fs::remove_file(segment).expect("removed");
    }
    assert_whole(&open(dir.path()), &manifest, &blobs);
    assert_eq!(list(&dir.path().join("store/tmp")).expect("a directory"), Vec::<PathBuf>::new());
}

#[test]
fn many_puts_keep_the_index_short() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let images: Vec<_> = (0..40_u8).map(|n| image(&[&[n; 10]])).collect();
    for (manifest, blobs) in &images {
        store.put_image(manifest, blobs, NOW).expect("put");
    }
    assert!(files(&dir.path().join("store/idx")).len() < 20);
    let fresh = open(dir.path());
    images.iter().for_each(|(manifest, blobs)| assert_whole(&fresh, manifest, blobs));
}

#[test]
fn a_directory_that_is_no_store_or_not_ours_alone_is_refused_and_unchanged() {
    let dir = tempfile::tempdir().expect("a directory");
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("precious"), "x").expect("written");
    assert!(matches!(DiskStore::open(&foreign), Err(OpenError::Foreign { .. })));
    assert_eq!(files(&foreign), [foreign.join("precious")]);
    let store = dir.path().join("store");
    drop(open(dir.path()));
    symlink(&store, dir.path().join("link")).expect("a link");
    assert!(matches!(DiskStore::open(&dir.path().join("link")), Err(OpenError::Exposed { .. })));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o777)).expect("mode");
    assert!(matches!(DiskStore::open(&store), Err(OpenError::Exposed { .. })));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).expect("mode");
    fs::set_permissions(store.join("FORMAT"), fs::Permissions::from_mode(0o644)).expect("mode");
    fs::write(store.join("FORMAT"), "df store 2\n").expect("written");
    assert!(matches!(DiskStore::open(&store), Err(OpenError::Format { .. })));
}

#[test]
fn an_interrupted_creation_is_finished_by_the_next_open() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    fs::remove_file(dir.path().join("store/FORMAT")).expect("removed");
    fs::remove_dir(dir.path().join("store/big/07")).expect("removed");
    let (manifest, blobs) = example();
    let store = open(dir.path());
    store.put_image(&manifest, &blobs, NOW).expect("put");
    assert_whole(&store, &manifest, &blobs);
}

/// Every byte of every small file is flipped in turn: no read answers wrongly, verify names it, repair heals it.
#[test]
fn every_flipped_byte_is_named_and_healed() {
    // Hundreds of commits: in memory where there is such a place, because nothing here is about durability.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let (manifest, mut blobs) = image(&[b"first", b"second"]);
    let store = open(dir.path());
    blobs.insert(manifest.image().0, manifest.encode());
    let mut flips = 0;
    for kind in ["packs", "img"] {
        for at in 0.. {
            store.flush().expect("flushed");
            store.put(&release("a", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
            let file = files(&store.root().join(kind))[0].clone();
            if at == file.metadata().expect("there").len() {
                break;
            }
            flip_byte(&file, at);
            let fresh = open(dir.path());
            for (digest, len) in manifest.blobs() {
                if let Ok(bytes) = fresh.read(digest, len) {
                    assert_eq!(bytes, blobs[&digest], "{kind} byte {at}");
                }
            }
            assert_eq!(fresh.manifest(manifest.image()).is_ok(), kind == "packs");
            assert!(!fresh.verify().expect("read").is_empty(), "{kind} byte {at}");
            assert_healed(&fresh, &manifest, &blobs, &[]);
            assert!(!files(&store.root().join("quarantine")).is_empty(), "the damaged file is kept");
            flips += 1;
        }
    }
    assert!(flips > 300);
}

#[test]
fn damage_to_large_blobs_and_releases_and_missing_packs_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (manifest, blobs) = example();
    let store = open(dir.path());
    store.put(&release("a", 1, manifest.image()), &manifest, &blobs, NOW).expect("put");
    let large = Digest::of(&big(5));
    assert_eq!(store.read_blob(large, 9, 1).expect("a part"), [5]);
    flip_byte(&store.layout.big(large), 1 << 19);
    assert!(store.read(large, big(5).len() as u64).is_err());
    assert!(matches!(open(dir.path()).read_blob(large, 9, 1), Err(ReadError::Damaged { .. })));
    assert_healed(&store, &manifest, &blobs, &[large]);
    fs::remove_file(store.layout.big(large)).expect("removed");
    assert!(!store.has(manifest.image()).expect("read"));
    assert_healed(&store, &manifest, &blobs, &[large]);
    fs::remove_file(&files(&store.root().join("packs"))[0]).expect("removed");
    assert!(!store.has(manifest.image()).expect("read"));
    assert_healed(&store, &manifest, &blobs, &[Digest::of(b"first"), Digest::of(b"second"), Digest::of(b"")]);
    flip_byte(&files(&store.root().join("refs"))[0], 20);
    assert_eq!(store.releases().expect("read"), []);
    assert!(matches!(store.verify().expect("read")[..], [Damage { what: Damaged::Release(_), .. }]));
    let gone = store.repair(&Nothing).expect("repaired").gone;
    assert!(gone.len() == 1 && gone[0].starts_with("release ") && gone[0].contains("is lost"), "{gone:?}");
    store.put_release(&release("a", 1, manifest.image()), NOW).expect("put again");
    assert_eq!(store.verify().expect("read"), []);
}

#[test]
fn a_damaged_document_is_named_moved_away_and_can_come_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let (manifest, blobs) = example();
    let release = release("greeter", 1, manifest.image());
    store.put(&release, &manifest, &blobs, NOW).expect("put");
    let attach = |bytes: &[u8]| store.attach(&release.app, release.id(), Document::Sbom, bytes).expect("attached");
    let attached = || store.attached(&release.app, release.id(), Document::Sbom);
    assert!(attach(b"{\"bomFormat\":\"CycloneDX\"}"));
    let file = store.document_file(&release.app, release.id(), Document::Sbom).expect("read").expect("it is there");
    assert_eq!(fs::read(&file).expect("a file"), b"{\"bomFormat\":\"CycloneDX\"}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o444);
    flip_byte(&file, 3);
    assert!(matches!(attached(), Err(ReadError::Damaged { .. })));
    assert!(matches!(store.verify().expect("read")[..], [Damage { what: Damaged::Document(_), .. }]));
    assert!(attach(b"{}"), "a damaged one does not count as there");
    assert_eq!(attached().expect("read").as_deref(), Some(&b"{}"[..]));
    assert_eq!(store.repair(&Nothing).expect("repaired").gone, [""; 0], "it is there again");
    assert!(!file.exists());
    assert_eq!(store.verify().expect("read"), []);
    assert_eq!(attached().expect("read").as_deref(), Some(&b"{}"[..]));
    flip_byte(&store.document_file(&release.app, release.id(), Document::Sbom).expect("read").expect("it is there"), 0);
    let gone = store.repair(&Nothing).expect("repaired").gone;
    assert!(gone.len() == 1 && gone[0].starts_with("document "), "{gone:?}");
}

#[test]
fn attestations_that_two_attached_at_once_are_read_as_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let (manifest, blobs) = example();
    let release = release("greeter", 1, manifest.image());
    store.put(&release, &manifest, &blobs, NOW).expect("put");
    let both = include_bytes!("../../../core/testdata/attestations-v1.json");
    let both = df_core::Bundle::decode(both).expect("a bundle");
    let statement = df_core::attestation::Statement::release(&df_core::attestation::Subject::of(&release));
    let of = |n: usize| df_core::Bundle::new(&statement, vec![both.attestations()[n].clone()]).encode();
    let place = || store.document_file(&release.app, release.id(), Document::Attestations).expect("read").expect("there");
    assert!(store.attach(&release.app, release.id(), Document::Attestations, &of(0)).expect("attached"));
    // As somebody does who read before that was there.
    let beside = place().with_file_name(Document::Attestations.file_name(Digest::of(&of(1))));
    fs::write(&beside, of(1)).expect("written");
    let attached = || store.attached(&release.app, release.id(), Document::Attestations).expect("read").expect("there");
    assert_eq!(df_core::Bundle::decode(&attached()).expect("a bundle").attestations(), both.attestations());
    assert_eq!(store.verify().expect("read"), []);
}

#[test]
fn a_store_from_before_documents_takes_them_and_loses_those_of_releases_that_are_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (manifest, blobs) = example();
    let release = release("greeter", 1, manifest.image());
    open(dir.path()).put(&release, &manifest, &blobs, NOW).expect("put");
    fs::remove_dir(dir.path().join("store/docs")).expect("removed");
    let store = open(dir.path());
    assert_eq!(store.attached(&release.app, release.id(), Document::Sbom).expect("read"), None);
    store.flush().expect("flushed");
    store.put(&release, &manifest, &blobs, NOW).expect("put");
    assert!(store.attach(&release.app, release.id(), Document::Provenance, b"{}").expect("attached"));
    // As a program does that knows no documents.
    fs::remove_file(store.layout.release(&release.app, release.id())).expect("removed");
    gc::perform(&store, &gc::plan(&store.contents().expect("read"), &NOTHING)).expect("collected");
    assert_eq!(files(&dir.path().join("store/docs")), Vec::<PathBuf>::new());
}

#[test]
fn a_repair_without_a_source_says_what_is_lost_and_a_put_brings_it_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (manifest, blobs) = example();
    let store = open(dir.path());
    store.put_image(&manifest, &blobs, NOW).expect("put");
    let pack = files(&store.root().join("packs"))[0].clone();
    flip_byte(&pack, 60);
    let bad_source = Source::from_iter(blobs.keys().map(|digest| (*digest, b"bad".to_vec())));
    let repaired = store.repair(&bad_source).expect("repaired");
    assert_eq!((repaired.lost.len(), repaired.healed.len(), &repaired.images[..]), (1, 0, &[manifest.image()][..]));
    assert!(!store.has(manifest.image()).expect("read"));
    assert!(!pack.exists() && files(&store.root().join("quarantine")).len() == 1);
    assert_eq!(store.put_image(&manifest, &blobs, NOW).expect("put").n_blobs, 1, "the whole ones were saved");
    assert_whole(&store, &manifest, &blobs);
    assert_eq!(store.verify().expect("read"), []);
}

#[test]
fn a_cut_pack_costs_only_what_was_cut_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let (manifest, blobs) = example();
    let store = open(dir.path());
    store.put_image(&manifest, &blobs, NOW).expect("put");
    let pack = files(&store.root().join("packs"))[0].clone();
    let bytes = fs::read(&pack).expect("a pack");
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("mode");
    // The first record is whole, the second is torn, footer and trailer are gone.
    fs::write(&pack, &bytes[..80]).expect("cut");
    let fresh = open(dir.path());
    assert_eq!(fresh.read(Digest::of(b"first"), 5).expect("whole"), b"first");
    assert!(fresh.read(Digest::of(b"second"), 6).is_err());
    assert_healed(&fresh, &manifest, &blobs, &[Digest::of(b"second")]);
}

#[test]
fn a_collection_that_cannot_know_what_is_needed_removes_no_blob() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let (one, one_blobs) = numbered(1);
    let (two, two_blobs) = numbered(2);
    store.put(&release("a", 1, one.image()), &one, &one_blobs, NOW).expect("put");
    store.put(&release("a", 2, two.image()), &two, &two_blobs, NOW).expect("put");
    flip_byte(&store.layout.image(two.image()), 30);
    let plan = gc::plan(&store.contents().expect("read"), &Policy { count: 1, older: Timestamp(i64::MAX) });
    assert!(store.collect(&plan).is_err());
    flip_byte(&store.layout.image(two.image()), 30);
    assert_whole(&store, &two, &two_blobs);
    let plan = gc::plan(&store.contents().expect("read"), &Policy { count: 1, older: Timestamp(i64::MAX) });
    store.collect(&plan).expect("collected");
    assert_whole(&store, &two, &two_blobs);
    assert_eq!(store.stats().expect("read").n_blobs, 4);
}

#[test]
fn a_pack_that_is_mostly_dead_is_written_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let noise = Seed(1).random().bytes(50_000);
    let (mostly, mostly_blobs) = image(&[b"kept", &noise]);
    let (kept, kept_blobs) = image(&[b"kept"]);
    store.put_image(&mostly, &mostly_blobs, NOW).expect("put");
    store.put_image(&kept, &kept_blobs, NOW).expect("put");
    store.pin(kept.image(), "test").expect("pinned");
    let other_process = open(dir.path());
    assert_whole(&other_process, &kept, &kept_blobs);
    let collected = store.collect(&gc::plan(&store.contents().expect("read"), &NOTHING)).expect("collected");
    assert!((collected.n_images, collected.n_blobs) == (1, 1) && collected.bytes > 49_000, "{collected:?}");
    assert!(store.stats().expect("read").stored_bytes < 1_000);
    for store in [store, other_process, open(dir.path())] {
        assert_whole(&store, &kept, &kept_blobs);
    }
}

/// The other side of the tests with several processes: this test program, started again with its work in the environment.
#[test]
fn worker() {
    let Ok(work) = std::env::var("DF_CACHE_WORKER") else { return };
    let [dir, what, from, count] = work.split('|').collect::<Vec<_>>()[..] else { panic!("{work}") };
    let (from, count): (u64, u64) = (from.parse().expect("a number"), count.parse().expect("a number"));
    let store = open(Path::new(dir));
    for n in from..from + count {
        if what == "collect" {
            let plan = gc::plan(&store.contents().expect("read"), &Policy { count: usize::MAX, older: Timestamp(i64::MAX) });
            store.collect(&plan).expect("collected");
        } else {
            let (manifest, blobs) = numbered(n);
            store.put(&release(what, n, manifest.image()), &manifest, &blobs, NOW).expect("put");
        }
    }
}

fn start(dir: &Path, what: &str, from: u64, count: u64) -> Child {
    let program = std::env::current_exe().expect("this program");
    let work = format!("{}|{what}|{from}|{count}", dir.display());
    let mut command = Command::new(program);
    command.args(["--exact", "disk::tests::worker", "--nocapture"]).env("DF_CACHE_WORKER", work);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started")
}

fn finish(child: Child) {
    let output = child.wait_with_output().expect("waited");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn writers_and_collectors_at_once_lose_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let workers = [
        start(dir.path(), "one", 0, 12),
        start(dir.path(), "two", 6, 12),
        start(dir.path(), "collect", 0, 25),
        start(dir.path(), "collect", 0, 25),
    ];
    workers.into_iter().for_each(finish);
    let store = open(dir.path());
    assert_eq!(store.releases().expect("read").len(), 24);
    for n in 0..18 {
        let (manifest, blobs) = numbered(n);
        assert_whole(&store, &manifest, &blobs);
    }
    assert_eq!(store.verify().expect("read"), []);
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_good_store_and_its_leftovers_are_swept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = Seed::from_env_or(7).random();
    drop(open(dir.path()));
    let mut killed = 0;
    for (round, moment) in kill_moments(&mut random, 24, Duration::from_millis(160)).into_iter().enumerate() {
        let mut child = start(dir.path(), "killed", 100 * round as u64, 100);
        // Not a wait for something to happen: the moment of the kill is what varies here.
        std::thread::park_timeout(moment);
        killed += u32::from(child.try_wait().expect("waited").is_none());
        child.kill().expect("killed");
        child.wait().expect("waited");
        let store = open(dir.path());
        for stored in store.releases().expect("read") {
            assert!(store.has(stored.release.image).expect("read"), "round {round}");
        }
        for stored in store.contents().expect("read").images {
            let manifest = store.manifest(stored.image).expect("a manifest");
            for (digest, len) in manifest.blobs() {
                store.read(digest, len).expect("a blob");
            }
        }
        assert_eq!(store.verify().expect("read"), []);
    }
    assert!(killed > 10, "the workers ended before they were killed");
    let store = open(dir.path());
    store.collect(&gc::plan(&store.contents().expect("read"), &NOTHING)).expect("collected");
    let left: Vec<PathBuf> =
        ["tmp", "packs", "big", "img", "refs", "pins"].iter().flat_map(|d| files(&store.root().join(d))).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(list(&store.root().join("tmp")).expect("a directory"), Vec::<PathBuf>::new());
}

#[test]
fn a_full_disk_is_an_error_and_what_was_there_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = match df_testkit::faults::Tmpfs::mount(&dir.path().join("disk"), 6 << 20) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("not run: {error}"),
    };
    fs::set_permissions(disk.dir(), fs::Permissions::from_mode(0o700)).expect("mode");
    let store = open(disk.dir());
    let (kept, kept_blobs) = numbered(1);
    store.put(&release("a", 1, kept.image()), &kept, &kept_blobs, NOW).expect("put");
    let noise = Seed(3).random().bytes(9 << 20);
    let parts: Vec<&[u8]> = noise.chunks(700_000).collect();
    for files in [parts, vec![&noise]] {
        let (manifest, blobs) = image(&files);
        let error = store.put_image(&manifest, &blobs, NOW).expect_err("no room");
        let PutError::Store(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(!store.has(manifest.image()).expect("read"));
        assert_whole(&store, &kept, &kept_blobs);
        assert_eq!(list(&store.root().join("tmp")).expect("a directory"), Vec::<PathBuf>::new());
    }
    let (after, after_blobs) = numbered(2);
    store.put(&release("a", 2, after.image()), &after, &after_blobs, NOW).expect("there is room again");
    assert_eq!(store.verify().expect("read"), []);
}

#[test]
fn a_sync_that_fails_fails_the_put_and_names_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return eprintln!("not run: strace is not here to make syncs fail");
    }
    drop(open(dir.path()));
    let mut failed = 0;
    for n in 1..=9 {
        let work = format!("{}|synced|{n}|1", dir.path().display());
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", &format!("inject=fsync:error=EIO:when={n}")]);
        command.arg(std::env::current_exe().expect("this program"));
        command.args(["--exact", "disk::tests::worker"]).env("DF_CACHE_WORKER", work).stdout(Stdio::null()).stderr(Stdio::null());
        let good = command.status().expect("started").success();
        failed += u32::from(!good);
        let store = open(dir.path());
        let (manifest, blobs) = numbered(n);
        // The last sync of a put is that of a directory: its name is there then, whole, and only the promise of durability is not given.
        if good || store.has(manifest.image()).expect("read") {
            assert_whole(&store, &manifest, &blobs);
        }
        assert_eq!(store.verify().expect("read"), [], "sync {n}");
        store.put(&release("synced", n, manifest.image()), &manifest, &blobs, NOW).expect("put again");
        assert_whole(&store, &manifest, &blobs);
    }
    assert!((6..9).contains(&failed), "each sync of a put counts, and a put has no more than eight: {failed}");
}
