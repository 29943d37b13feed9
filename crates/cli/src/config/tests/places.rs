//! What names a place, and who must vouch for what comes from there: nodes, caches, paths, trust.

use super::*;

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["../x", "/abs", "a//b", "''", "a/", "~", "~/x", "a/../b", "."] {
        for text in [
            format!("{LEAST}run: {{ exec: {path} }}"),
            format!("app: a\nbuild: {{ include: {{ {path}: x }} }}"),
            format!("app: a\nbuild: {{ include: {{ x: {path} }} }}"),
            format!("app: a\nbuild: {{ command: x, output: {path} }}"),
            format!("{LEAST}verify: [ {{ command: {path} }} ]"),
        ] {
            assert!(parse(&text).is_err(), "{text}");
        }
    }
    for path in ["../x", "a//b", "''", "a/", "'~'", "~/x", "~root/x", "/a/../b"] {
        for text in [format!("{LEAST}paths: {{ data: {path} }}"), run_with(&format!("env_file: {path}"))] {
            assert!(parse(&text).is_err(), "{text}");
        }
        if path != "~/x" {
            assert!(parse(&format!("{LEAST}cache: {{ local: {path} }}")).is_err(), "{path}");
        }
    }
    refused(
        &format!("{LEAST}paths: {{ data: /srv/a/data, tmp: /srv/a }}"),
        "3:8: paths: data (/srv/a/data) lies within tmp (/srv/a); they must be apart",
    );
    refused(
        &run_with("exec: x").replace("exec: bin/a", "x-y: 1").replace("exec: x", "exec: /bin/sh"),
        "6:9: run.exec: path \"/bin/sh\" has an empty component, or begins or ends with a slash",
    );
}

#[test]
fn a_cache_elsewhere_is_a_bucket_or_a_directory_and_nothing_that_only_looks_like_one() {
    let config = good(&format!(
        "{LEAST}cache: {{ remote: 's3://releases/web', region: eu-west-1, endpoint: 'https://s3.example.org' }}\n"
    ));
    let Some(Remote::Bucket(address)) = &config.cache.remote else { panic!("{:?}", config.cache.remote) };
    assert_eq!((address.to_string().as_str(), config.cache.region.as_deref()), ("s3://releases/web", Some("eu-west-1")));
    assert_eq!(
        good(&format!("{LEAST}cache: {{ remote: 'file:/srv/cache' }}\n")).cache.remote,
        Some(Remote::Directory("/srv/cache".into()))
    );
    let bad = [
        "remote: 's3://../x'",
        "remote: 's3://key:secret@bucket'",
        "remote: 's3://bucket/a/../b'",
        "remote: 's3://bucket/%2e%2e'",
        "remote: 'https://bucket'",
        "remote: 'file:'",
        "remote: /srv/cache",
        "region: 'eu west'",
        "endpoint: 'http://169.254.169.254'",
        "endpoint: 'http://s3.example.org'",
        "endpoint: 'file:///etc/passwd'",
        "endpoint: 'https://user:word@s3.example.org'",
    ];
    for line in bad {
        assert!(parse(&format!("{LEAST}cache: {{ {line} }}")).is_err(), "{line}");
    }
}

#[test]
fn whoever_must_vouch_is_named_by_keys_that_can() {
    let one = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    let two = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
    let trust = |line: &str| parse(&format!("{LEAST}trust: {{ {line} }}\n")).map(|config| config.trust);
    let policy = trust(&format!("threshold: 1, keys: [ '{one} release', '{two}' ]")).expect("good");
    assert_eq!((policy.to_string().as_str(), policy.is_asking()), ("1 of 2 keys", true));
    assert!(!trust("threshold: 0, keys: []").expect("the default").is_asking());
    let bad = [
        ("threshold: 1".to_owned(), "trust: 1 of 0 keys can never vouch"),
        (format!("threshold: 2, keys: [ '{one}' ]"), "trust: 2 of 1 keys can never vouch"),
        (format!("keys: [ '{one}', '{two}' ]"), "trust: 0 of 2 keys asks for nothing: name a threshold from 1 to 2, or no keys"),
        (format!("threshold: 1, keys: [ '{one}', '{one} again' ]"), "is there twice"),
        ("threshold: 1, keys: [ a ]".to_owned(), "trust.keys[0]: is not an ssh public key, as one line of a .pub file has it"),
        ("threshold: -1".to_owned(), "trust.threshold"),
        (format!("threshold: 1, keys: '{one}'"), "trust.keys: a list is needed"),
    ];
    for (line, words) in bad {
        let said = trust(&line).expect_err("refused").to_string();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn addresses_and_directories_of_the_file_on_disk_are_checked() {
    let config = good(&format!("{LEAST}nodes: [ 'local:n1', root@host, 'ssh://host:22/srv' ]\ncache: {{ local: cache }}\n"));
    assert_eq!(config.nodes, ["local:n1", "root@host", "ssh://host:22/srv"]);
    assert_eq!(config.cache.directory(Path::new("/home/u"), Path::new("/p")), Path::new("/p/cache"));
    assert_eq!(CacheConfig::default().directory(Path::new("/home/u"), Path::new("/p")), Path::new("/home/u/.cache/df"));
    for node in ["-oProxyCommand=x", "'a b'", "'a;b'", "''", "'local:'"] {
        assert!(parse(&format!("{LEAST}nodes: [ {node} ]")).is_err(), "{node}");
    }
    refused(&format!("{LEAST}nodes: [ a, a ]"), "3:13: nodes[1]: \"a\" stands here already");
    let same = "3:33: run.ports.b: listens where \"a\" does";
    refused(&format!("{LEAST}run: {{ exec: a, ports: {{ a: 80, b: 80 }} }}"), same);
}
