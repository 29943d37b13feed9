//! Addresses that anybody can read by, and who must not see them.

use std::net::SocketAddr;
use std::time::Duration;

use df_cache::s3::aws::AwsObjects;
use df_cache::s3::objects::Objects as _;
use df_testkit::net::http_get;
use df_testkit::s3::Server;

use crate::support::{key, of, options, put, variant};

fn fetch(url: &str) -> String {
    let (addr, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let addr: SocketAddr = addr.parse().expect("an address");
    let answer = http_get(addr, &format!("/{path}"), Duration::from_secs(10));
    answer.map_or_else(|error| error.to_string(), |answer| format!("{answer:?}"))
}

#[test]
fn an_address_reads_its_object_and_no_other() {
    let server = Server::start();
    let objects = of(&server);
    put(&objects, "w/image", b"the image");
    put(&objects, "w/other", b"the other");
    let url = objects.url(&key("w/image"), Duration::from_secs(900)).expect("an address");
    assert!(url.starts_with(&server.endpoint()) && url.contains("X-Amz-Expires=900"));
    assert!(fetch(&url).contains("the image"), "{}", fetch(&url));
    let other = url.replace("/w/image", "/w/other");
    assert!(!fetch(&other).contains("the other"), "the signature is of one object");
    let longer = url.replace("X-Amz-Expires=900", "X-Amz-Expires=9000");
    assert!(!fetch(&longer).contains("the image"), "the lifetime is signed too");
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let server = Server::start();
    let options = options(&server.endpoint(), server.bucket(), server.credentials());
    let objects = AwsObjects::open(&options).expect("a client");
    let printed = format!("{options:?} {objects:?}");
    let error = objects.url(&key("w/image"), Duration::from_secs(8 * 24 * 3600)).expect_err("at most a week");
    let printed = format!("{printed} {error} {error:?}");
    assert!(!printed.contains(server.credentials().1) && !printed.contains("X-Amz"), "{printed}");
    assert_eq!(variant::<()>(Err(error)), "Unreachable");
}
