//! Clients of the two servers, and short patience.

use std::sync::Arc;
use std::time::Duration;

use df_cache::s3::aws::{AccessKey, AwsObjects, AwsOptions, Patience};
use df_cache::s3::objects::{Body, Condition, Etag, Key, ObjectError, Objects as _};
use df_testkit::s3::{Moto, Server};

/// The prefix that the tests' caches have.
pub const PREFIX: &str = "some/prefix";

/// Patience for tests: pauses that nobody notices, silences that a busy machine does not mistake.
pub const PATIENCE: Patience = Patience {
    tries: 12,
    pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(40),
    altogether: Duration::from_secs(60),
    silence: Duration::from_secs(20),
    least_rate: 1 << 10,
};

/// Patience for those who wait for its end.
pub const IMPATIENCE: Patience = Patience { tries: 2, silence: Duration::from_millis(400), least_rate: 1 << 20, ..PATIENCE };

pub fn options(endpoint: &str, bucket: &str, (id, secret): (&str, &str)) -> AwsOptions {
    let address = format!("s3://{bucket}/{PREFIX}").parse().expect("an address");
    AwsOptions {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(endpoint.parse().expect("a loopback endpoint")),
        key: Some(AccessKey { id: id.to_owned(), secret: secret.to_owned() }),
        patience: PATIENCE,
        ..AwsOptions::new(address)
    }
}

pub fn of(server: &Server) -> AwsObjects {
    AwsObjects::open(&options(&server.endpoint(), server.bucket(), server.credentials())).expect("a client")
}

pub fn impatient(server: &Server) -> AwsObjects {
    let options = options(&server.endpoint(), server.bucket(), server.credentials());
    AwsObjects::open(&AwsOptions { patience: IMPATIENCE, ..options }).expect("a client")
}

pub fn of_moto(moto: &Moto) -> AwsObjects {
    AwsObjects::open(&options(&moto.endpoint(), moto.bucket(), ("some", "key"))).expect("a client")
}

pub fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

pub fn body(bytes: &[u8]) -> Body {
    Body::Bytes(Arc::from(bytes))
}

/// Bytes in which every 4 bytes are others.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len.div_ceil(4) as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

pub fn put(objects: &AwsObjects, name: &str, bytes: &[u8]) -> Etag {
    objects.put(&key(name), &body(bytes), &Condition::Always).expect("a put")
}

/// Returns the name of an error's variant.
pub fn variant<T>(result: Result<T, ObjectError>) -> String {
    match result {
        Ok(_) => "Ok".to_owned(),
        Err(error) => format!("{error:?}").split(' ').next().unwrap_or_default().to_owned(),
    }
}
