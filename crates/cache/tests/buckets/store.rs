//! The contract of every store, kept by the one in a bucket: with both servers, through the real client.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use df_cache::s3::aws::{AwsObjects, AwsOptions};
use df_cache::s3::{Options, S3Store};
use df_core::Timestamp;
use df_testkit::s3::{Moto, Server};

use crate::support::options;

#[test]
fn a_store_on_a_server_of_this_project_keeps_the_contract() {
    let server = Server::start();
    keeps_the_contract(&options(&server.endpoint(), server.bucket(), server.credentials()));
}

#[test]
fn a_store_on_a_server_of_another_house_keeps_the_contract() {
    let moto = Moto::start();
    keeps_the_contract(&options(&moto.endpoint(), moto.bucket(), ("some", "key")));
}

/// Each store gets a prefix and a directory of its own.
fn keeps_the_contract(bucket: &AwsOptions) {
    let (local, n) = (tempfile::tempdir().expect("a directory"), Cell::new(0));
    df_cache::contract::run(|| {
        n.set(n.get() + 1);
        let address = format!("s3://{}/caches/{}", bucket.address.bucket(), n.get()).parse().expect("an address");
        let objects = AwsObjects::open(&AwsOptions { address, ..bucket.clone() }).expect("a client");
        let options = Options::new("a test", Timestamp(1_000)).expect("random numbers");
        let options = Options { grace: Duration::ZERO, pause: Arc::new(|_| {}), ..options };
        S3Store::open(Arc::new(objects), &local.path().join(n.get().to_string()), options)
    });
    assert!(n.get() > 5, "it ran");
}
