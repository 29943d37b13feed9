//! What every server must do for a cache, on two that have nothing in common.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use df_cache::s3::aws::AwsObjects;
use df_cache::s3::objects::{Body, Condition, Etag, Objects as _};
use df_cache::s3::probe::{self, Probed};
use df_core::Timestamp;
use df_testkit::s3::{Moto, Server};

use crate::support::{body, key, of, of_moto, pattern, put, variant};

#[test]
fn a_server_of_this_project_keeps_the_contract() {
    let server = Server::start();
    run(&of(&server));
    assert!(server.keys().iter().all(|key| key.starts_with(crate::support::PREFIX)), "{:?}", server.keys());
}

#[test]
fn a_server_of_another_house_keeps_the_contract() {
    let moto = Moto::start();
    run(&of_moto(&moto));
}

fn run(objects: &AwsObjects) {
    conditional_writes_are_probed(objects);
    what_is_put_is_got(objects);
    conditions_hold(objects);
    ranges_are_exact(objects);
    lists_have_all_pages_in_order(objects);
    a_batch_removes_what_is_there_and_what_is_not(objects);
    long_bodies_go_in_parts(objects);
    no_upload_is_left_over(objects);
    every_request_is_counted(objects);
}

fn conditional_writes_are_probed(objects: &AwsObjects) {
    let bytes = Arc::from(&b"a new cache"[..]);
    assert_eq!(probe::conditions(objects, &key("df-cache.json"), &bytes).expect("an answer"), Probed::Conditional);
    assert_eq!(variant(probe::conditions(objects, &key("df-cache.json"), &bytes)), "Changed");
}

fn what_is_put_is_got(objects: &AwsObjects) {
    for (name, bytes) in [("empty", vec![]), ("one", vec![7]), ("d/some/more", pattern(1 << 20))] {
        let etag = put(objects, name, &bytes);
        let object = objects.get(&key(name), bytes.len() as u64).expect("there");
        assert_eq!((object.bytes, object.etag), (bytes, etag), "{name}");
    }
    assert_eq!(variant(objects.get(&key("one"), 0)), "TooLong");
    assert_eq!(variant(objects.get(&key("none"), 10)), "Absent");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&pattern(3 << 20)).expect("write");
    let part = Body::File { file: Arc::new(file), offset: 1 << 20, len: 1 << 20 };
    objects.put(&key("part"), &part, &Condition::Always).expect("a put");
    assert_eq!(objects.get(&key("part"), 1 << 20).expect("there").bytes, pattern(3 << 20)[1 << 20..2 << 20]);
}

fn conditions_hold(objects: &AwsObjects) {
    let head = key("conditions/head");
    let put = |bytes: &[u8], condition: &Condition| objects.put(&head, &body(bytes), condition);
    let nobodys = Condition::Matches(Etag("\"0123456789abcdef0123456789abcdef\"".to_owned()));
    assert_eq!(variant(put(b"0", &nobodys)), "Changed", "nothing is there");
    let first = put(b"1", &Condition::Absent).expect("free");
    assert_eq!(variant(put(b"2", &Condition::Absent)), "Changed");
    assert_eq!(variant(put(b"2", &nobodys)), "Changed");
    let second = put(b"2", &Condition::Matches(first.clone())).expect("its state");
    assert_eq!(variant(put(b"3", &Condition::Matches(first))), "Changed", "a state that was");
    let object = objects.get(&head, 1).expect("there");
    assert_eq!((object.bytes, object.etag), (b"2".to_vec(), second));
}

fn ranges_are_exact(objects: &AwsObjects) {
    let bytes = pattern(100_000);
    put(objects, "ranges", &bytes);
    for (from, len) in [(0, 1), (0, 100_000), (99_999, 1), (500, 40_000), (7, 0)] {
        assert_eq!(objects.get_range(&key("ranges"), from as u64, len as u64).expect("there"), bytes[from..from + len]);
    }
    for (from, len) in [(0, 100_001), (100_000, 1), (99_999, 2), (u64::MAX, 1), (u64::MAX - 5, 5)] {
        assert_eq!(variant(objects.get_range(&key("ranges"), from, len)), "Malformed", "{from} {len}");
    }
    assert_eq!(variant(objects.get_range(&key("none"), 0, 1)), "Absent");
}

fn lists_have_all_pages_in_order(objects: &AwsObjects) {
    let names: Vec<String> = (0..1234).map(|i| format!("list/{i:04}-x")).collect();
    std::thread::scope(|scope| {
        for names in names.chunks(200) {
            scope.spawn(move || names.iter().for_each(|name| drop(put(objects, name, name.as_bytes()))));
        }
    });
    let listed = objects.list("list/").expect("a list");
    assert_eq!(listed.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>(), names);
    assert!(listed.iter().all(|listed| listed.len == 11));
    assert_eq!(objects.list("list/000").expect("a list").len(), 10);
    assert_eq!(objects.list("nothing/").expect("a list"), []);
}

fn a_batch_removes_what_is_there_and_what_is_not(objects: &AwsObjects) {
    put(objects, "listed", b"a neighbour");
    let mut keys: Vec<_> = objects.list("list/").expect("a list").into_iter().map(|listed| listed.key).collect();
    keys.push(key("list/never-there"));
    let before = objects.requests().delete;
    objects.delete(&keys).expect("removed");
    assert_eq!(objects.requests().delete - before, 2, "a thousand at a time");
    assert_eq!(objects.list("list/").expect("a list"), []);
    objects.delete(&keys).expect("nothing to do");
    objects.delete(&[]).expect("nothing to do");
    assert_eq!(objects.get(&key("listed"), 100).expect("there").bytes, b"a neighbour");
}

fn long_bodies_go_in_parts(objects: &AwsObjects) {
    let bytes = pattern(70 << 20);
    let path = tempfile::NamedTempFile::new().expect("a file");
    path.as_file().write_all(&bytes).expect("write");
    let file = Arc::new(File::open(path.path()).expect("open"));
    let body = Body::File { file, offset: 0, len: bytes.len() as u64 };
    let before = objects.requests().put;
    let etag = objects.put(&key("w/long"), &body, &Condition::Absent).expect("a put");
    assert_eq!(objects.requests().put - before, 7, "begin, five parts, complete");
    let object = objects.get(&key("w/long"), 100 << 20).expect("there");
    assert!(object.bytes == bytes && object.etag == etag);
    assert_eq!(variant(objects.put(&key("w/long"), &body, &Condition::Absent)), "Changed");
    objects.put(&key("w/long"), &body, &Condition::Matches(etag)).expect("its state");
}

fn every_request_is_counted(objects: &AwsObjects) {
    let before = objects.requests();
    put(objects, "counted", &[1; 1000]);
    objects.get(&key("counted"), 1000).expect("there");
    objects.get_range(&key("counted"), 10, 20).expect("there");
    objects.list("counted").expect("a list");
    let after = objects.requests();
    assert_eq!(
        (after.put - before.put, after.get - before.get, after.list - before.list, after.delete),
        (1, 2, 1, before.delete)
    );
    assert_eq!((after.bytes_up - before.bytes_up, after.bytes_down - before.bytes_down), (1000, 1020));
}

fn no_upload_is_left_over(objects: &AwsObjects) {
    assert_eq!(objects.abandon(Timestamp(i64::MAX)).expect("a list"), 0);
}
