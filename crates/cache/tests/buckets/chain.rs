//! As whom the client asks when nobody says: each test runs this binary again with an environment of its own, for an environment is a whole process's.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use df_cache::s3::aws::{AwsObjects, AwsOptions};
use df_cache::s3::objects::Objects as _;
use df_testkit::s3::Server;

use crate::support::{PREFIX, key, of, put};

const BUCKET: &str = "DF_TEST_BUCKET";

/// Opens the bucket that the environment names, and reads an object; a test of itself it is not.
#[test]
fn child() {
    let Ok(bucket) = std::env::var(BUCKET) else { return };
    let options = AwsOptions::new(format!("s3://{bucket}/{PREFIX}").parse().expect("an address"));
    match AwsObjects::open(&options) {
        Ok(objects) => println!(
            "<<{}>>",
            objects.get(&key("a"), 10).map_or_else(|error| error.to_string(), |object| format!("{:?}", object.bytes))
        ),
        Err(error) => println!("<<{error}>>"),
    }
}

/// Runs the child in a home of its own and returns what it said, and how long that took.
fn ask(home: &Path, env: &[(&str, &str)]) -> (String, Duration) {
    let begun = Instant::now();
    let exe = std::env::current_exe().expect("this test");
    let output = Command::new(exe)
        .args(["--exact", "chain::child", "--nocapture"])
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin")
        .env(BUCKET, "df-test")
        // A port on which nobody listens in place of the cloud's own address: no test reaches beyond this machine.
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
        .envs(env.iter().copied())
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.split_once("<<").and_then(|(_, rest)| rest.split_once(">>")).map(|(said, _)| said.to_owned());
    (said.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr))), begun.elapsed())
}

#[test]
fn without_credentials_it_says_soon_what_to_set() {
    let home = tempfile::tempdir().expect("a home");
    let (said, took) = ask(home.path(), &[("AWS_REGION", "us-east-1")]);
    assert!(said.contains("AWS_ACCESS_KEY_ID") && said.contains("AWS_PROFILE"), "{said}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (said, _) = ask(home.path(), &[]);
    assert!(said.contains("AWS_REGION"), "{said}");
}

#[test]
fn a_machine_s_service_that_is_silent_costs_a_second() {
    let home = tempfile::tempdir().expect("a home");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let (said, took) = ask(home.path(), &[("AWS_REGION", "us-east-1"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)]);
    assert!(said.contains("AWS credentials"), "{said}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn environment_profile_and_process_are_the_chain() {
    let server = Server::start();
    put(&of(&server), "a", b"x");
    let (id, secret) = server.credentials();
    let endpoint = server.endpoint();
    let endpoint = ("AWS_ENDPOINT_URL_S3", endpoint.as_str());
    let home = tempfile::tempdir().expect("a home");

    let (said, _) = ask(home.path(), &[endpoint, ("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)]);
    assert_eq!(said, "[120]", "by environment");

    let process = home.path().join("keys");
    let json = format!(r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "{secret}"}}"#);
    std::fs::write(&process, format!("#!/bin/sh\necho once >> {0}.count\necho '{json}'\n", process.display())).expect("write");
    std::fs::set_permissions(&process, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let config = format!(
        "[default]\nregion = eu-central-2\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n\n[profile asked]\nregion = us-east-1\ncredential_process = {}\n",
        process.display()
    );
    std::fs::create_dir(home.path().join(".aws")).expect("mkdir");
    std::fs::write(home.path().join(".aws/config"), config).expect("write");
    assert_eq!(ask(home.path(), &[endpoint]).0, "[120]", "by profile");
    assert_eq!(ask(home.path(), &[endpoint, ("AWS_PROFILE", "asked")]).0, "[120]", "by process");
    let count = std::fs::read_to_string(home.path().join("keys.count")).expect("it ran");
    assert_eq!(count, "once\n", "it may ask a person");
}

#[test]
fn an_endpoint_of_the_environment_is_checked_like_any_other() {
    let home = tempfile::tempdir().expect("a home");
    for endpoint in ["http://169.254.169.254", "http://minio.example.org", "file:///etc/passwd", "https://a:b@c"] {
        let (said, _) =
            ask(home.path(), &[("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
        assert_eq!(said, "AWS_ENDPOINT_URL names no server to ask", "{endpoint}");
    }
}
