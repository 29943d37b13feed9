//! What is accepted here is accepted by OpenSSH, and what is refused here is refused there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use df_core::attestation::{Attestation, NAMESPACE, PublicKey, Statement, Subject};
use df_core::{Digest, ImageId};
use df_core::{RecipeKey, ReleaseId};

fn statement(app: &str) -> Statement {
    Statement::release(&Subject {
        release: ReleaseId(Digest::of(b"release")),
        app: app.parse().expect("a name"),
        commit: "0".repeat(40).parse().expect("a commit"),
        recipe_key: RecipeKey(Digest::of(b"recipe")),
        image: ImageId(Digest::of(b"image")),
    })
}

/// A key of ssh-keygen in a directory.
fn key(dir: &Path, name: &str, kind: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", name, "-t"]).args(kind).arg("-f").arg(&path).status();
    assert!(made.expect("ssh-keygen").success());
    path
}

fn public(key: &Path) -> PublicKey {
    let text = fs::read_to_string(key.with_extension("pub")).expect("a public key");
    text.trim_end().parse().expect("a key that is believed")
}

fn signed(key: &Path, namespace: &str, bytes: &[u8]) -> String {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(key);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh-keygen");
    child.stdin.take().expect("piped").write_all(bytes).expect("written");
    String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("text")
}

/// Asks OpenSSH whether `trusted` vouches for bytes.
fn openssh_verifies(dir: &Path, trusted: &PublicKey, armor: &str, bytes: &[u8]) -> bool {
    let (allowed, proof) = (dir.join("allowed"), dir.join("proof"));
    fs::write(&allowed, format!("release {trusted}\n")).expect("written");
    fs::write(&proof, armor).expect("written");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "verify", "-I", "release", "-n", NAMESPACE, "-f"]).arg(&allowed).arg("-s").arg(&proof);
    let quiet = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().expect("ssh-keygen");
    // Whoever refuses the proof may not read to the end.
    let _ = child.stdin.take().expect("piped").write_all(bytes);
    child.wait().expect("it ends").success()
}

fn we_verify(trusted: &PublicKey, armor: &str, statement: &Statement) -> bool {
    Attestation::from_armor(armor).is_ok_and(|it| it.key() == trusted && it.verify(statement).is_ok())
}

#[test]
fn openssh_and_we_agree_on_what_proves_a_statement() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = [&["ed25519"][..], &["ecdsa", "-b", "256"], &["rsa", "-b", "2048"]];
    for (n, kind) in keys.into_iter().enumerate() {
        let (mine, other) = (key(dir.path(), &format!("mine{n}"), kind), key(dir.path(), &format!("other{n}"), kind));
        let agree = |trusted: &Path, armor: &str, statement: &Statement, expected: bool, what: &str| {
            let trusted = public(trusted);
            assert_eq!(we_verify(&trusted, armor, statement), expected, "{kind:?}: {what}");
            assert_eq!(openssh_verifies(dir.path(), &trusted, armor, &statement.pae()), expected, "{kind:?}: OpenSSH: {what}");
        };
        let said = statement("greeter");
        let armor = signed(&mine, NAMESPACE, &said.pae());
        let read = Attestation::from_armor(&armor).expect("an attestation");
        agree(&mine, &armor, &said, true, "as it was made");
        agree(&mine, &read.armor(), &said, true, "as we keep it");
        agree(&other, &armor, &said, false, "another key");
        agree(&mine, &armor, &statement("another"), false, "another statement");
        agree(&mine, &signed(&mine, "git", &said.pae()), &said, false, "another purpose");
        agree(&mine, &signed(&mine, NAMESPACE, said.as_bytes()), &said, false, "without the encoding around it");
        let at = armor.len() / 2;
        for at in [at - 90, at, at + 60] {
            let mut flipped = armor.clone().into_bytes();
            flipped[at] = if flipped[at] == b'Q' { b'R' } else { b'Q' };
            agree(&mine, &String::from_utf8(flipped).expect("text"), &said, false, "a changed character");
        }
    }
}

#[test]
fn keys_that_are_not_believed_say_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let p384 = key(dir.path(), "p384", &["ecdsa", "-b", "384"]);
    let text = fs::read_to_string(p384.with_extension("pub")).expect("a public key");
    let refused = text.trim_end().parse::<PublicKey>().expect_err("not believed").to_string();
    assert!(refused.contains("use ssh-ed25519"), "{refused}");
    let armor = signed(&p384, NAMESPACE, &statement("greeter").pae());
    assert!(Attestation::from_armor(&armor).is_err());
}
