use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use signed::{Signer, bundle};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey, SshSig};

use super::*;
use crate::digest::Digest;
use crate::image::{ImageId, RecipeKey, ReleaseId};
use crate::time::Timestamp;

/// Keys made of one byte, and what they sign.
mod signed {
    use super::*;

    pub struct Signer(pub PrivateKey);

    impl Signer {
        pub fn new(seed: u8) -> Self {
            let pair = Ed25519Keypair::from_seed(&[seed; 32]);
            Self(PrivateKey::new(KeypairData::Ed25519(pair), "test").expect("a key"))
        }

        pub fn key(&self) -> PublicKey {
            self.0.public_key().to_openssh().expect("text").parse().expect("a key")
        }

        pub fn armor(&self, namespace: &str, bytes: &[u8]) -> String {
            self.0.sign(namespace, HashAlg::Sha512, bytes).expect("signed").to_pem(LineEnding::LF).expect("text")
        }

        pub fn vouch(&self, statement: &Statement) -> Attestation {
            Attestation::from_armor(&self.armor(NAMESPACE, &statement.pae())).expect("an attestation")
        }
    }

    pub fn bundle(statement: &Statement, seeds: &[u8]) -> Bundle {
        Bundle::new(statement, seeds.iter().map(|&seed| Signer::new(seed).vouch(statement)).collect())
    }
}

fn subject() -> Subject {
    Subject {
        release: ReleaseId(Digest::of(b"release")),
        app: "greeter".parse().expect("a name"),
        commit: "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit"),
        recipe_key: RecipeKey(Digest::of(b"recipe")),
        image: ImageId(Digest::of(b"image")),
    }
}

fn policy(threshold: u32, seeds: &[u8]) -> Policy {
    Policy::new(threshold, seeds.iter().map(|&seed| Signer::new(seed).key()).collect()).expect("a policy")
}

#[test]
fn golden_bytes() {
    let statement = Statement::release(&subject());
    let golden = include_str!("../../testdata/attested-release-v1.json");
    assert_eq!(std::str::from_utf8(statement.as_bytes()).expect("text"), golden.trim_end());
    let pae = statement.pae();
    assert!(
        pae.starts_with(format!("DSSEv1 28 application/vnd.in-toto+json {} {{\"_type\"", golden.trim_end().len()).as_bytes())
    );
    let made = bundle(&statement, &[1, 2]);
    let envelope = include_bytes!("../../testdata/attestations-v1.json");
    assert_eq!(String::from_utf8(made.encode()).expect("text"), String::from_utf8_lossy(envelope));
    let read = Bundle::decode(envelope).expect("a bundle");
    assert_eq!(read, made);
    assert_eq!(accepts(&policy(2, &[1, 2, 3]), &statement, Some(&read)), Ok(()));
}

#[test]
fn as_many_different_keys_as_the_threshold_says_must_vouch() {
    let statement = Statement::release(&subject());
    for (threshold, trusted, vouching, is_enough) in [
        (0, &[][..], &[][..], true),
        (0, &[], &[9], true),
        (1, &[1], &[], false),
        (1, &[1], &[1], true),
        (1, &[1], &[2], false),
        (1, &[1, 2, 3], &[9, 3], true),
        (2, &[1, 2, 3], &[1], false),
        (2, &[1, 2, 3], &[1, 1, 1], false),
        (2, &[1, 2, 3], &[3, 9, 1], true),
        (3, &[1, 2, 3], &[1, 2], false),
        (3, &[1, 2, 3], &[1, 2, 3], true),
    ] {
        let judged = accepts(&policy(threshold, trusted), &statement, Some(&bundle(&statement, vouching)));
        assert_eq!(judged.is_ok(), is_enough, "{threshold} of {trusted:?} by {vouching:?}");
    }
    assert!(accepts(&policy(1, &[1]), &statement, None).is_err());
}

/// One key that signs twice has two different texts when it is not Ed25519; here the texts differ by their hash.
#[test]
fn a_key_counts_once_however_often_it_vouches() {
    let statement = Statement::release(&subject());
    let signer = Signer::new(1);
    let again =
        signer.0.sign(NAMESPACE, HashAlg::Sha256, &statement.pae()).expect("signed").to_pem(LineEnding::LF).expect("text");
    let twice = Bundle::new(&statement, vec![signer.vouch(&statement), Attestation::from_armor(&again).expect("another")]);
    assert_eq!(twice.attestations().len(), 2);
    assert!(accepts(&policy(2, &[1, 2]), &statement, Some(&twice)).is_err());
}

#[test]
fn every_field_of_a_release_is_vouched_for() {
    let other = Digest::of(b"other");
    let of = |change: fn(&mut Subject, Digest)| {
        let mut subject = subject();
        change(&mut subject, other);
        Statement::release(&subject)
    };
    let vouched = bundle(&Statement::release(&subject()), &[1]);
    for (field, statement) in [
        ("release", of(|it, other| it.release = ReleaseId(other))),
        ("app", of(|it, _| it.app = "other".parse().expect("a name"))),
        ("commit", of(|it, _| it.commit = "f".repeat(40).parse().expect("a commit"))),
        ("recipe", of(|it, other| it.recipe_key = RecipeKey(other))),
        ("image", of(|it, other| it.image = ImageId(other))),
    ] {
        let refused = accepts(&policy(1, &[1]), &statement, Some(&vouched)).expect_err(field);
        assert!(refused.is_other && refused.doubts[0].flaw == Some(Flaw::Wrong), "{field}: {refused}");
    }
}

/// The statements of another kind about the same digests prove nothing either.
#[test]
fn a_proof_of_one_thing_is_no_proof_of_another() {
    let channel = Channel { app: subject().app, sequence: 1, release: subject().release, expires: Timestamp(9) };
    let pinned = Pinned { sequence: 1, policy: policy(1, &[2]) };
    let statements = [Statement::release(&subject()), Statement::channel(&channel), Statement::trust(&pinned)];
    for (at, vouched) in statements.iter().enumerate() {
        for (other, statement) in statements.iter().enumerate() {
            assert_eq!(accepts(&policy(1, &[1]), statement, Some(&bundle(vouched, &[1]))).is_ok(), at == other);
        }
    }
}

#[test]
fn a_proof_for_another_purpose_or_of_other_bytes_is_refused_in_words() {
    let statement = Statement::release(&subject());
    let signer = Signer::new(1);
    let refusal = |armor: &str, trusted: u8| {
        let bundle = Bundle::new(&statement, vec![Attestation::from_armor(armor).expect("an attestation")]);
        accepts(&policy(1, &[trusted]), &statement, Some(&bundle)).expect_err("refused").to_string()
    };
    let key = signer.key().fingerprint();
    let begin = "it needs attestations by 1 of 1 trusted keys and has none";
    assert_eq!(
        refusal(&signer.armor("git\u{1b}", &statement.pae()), 1),
        format!("{begin}; that of {key} was made for the purpose \"git\\u{{1b}}\", not \"distributive-flow\"")
    );
    assert_eq!(
        refusal(&signer.armor(NAMESPACE, statement.as_bytes()), 1),
        format!("{begin}; that of {key} does not prove this: it was made for something else, or was changed")
    );
    assert_eq!(refusal(&signer.armor(NAMESPACE, &statement.pae()), 2), format!("{begin}; {key} is not trusted"));
}

#[test]
fn every_flipped_character_of_a_proof_is_refused() {
    let statement = Statement::release(&subject());
    let good = Signer::new(1).vouch(&statement).base64().to_owned();
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let flipped = Attestation::from_base64(std::str::from_utf8(&bytes).expect("text"));
        let is_refused = match flipped {
            Err(_) => true,
            Ok(flipped) => accepts(&policy(1, &[1]), &statement, Some(&Bundle::new(&statement, vec![flipped]))).is_err(),
        };
        assert!(is_refused, "at {at}");
    }
}

#[test]
fn a_security_key_has_to_be_touched() {
    let statement = Statement::release(&subject());
    let signer = Signer::new(1);
    let Some(inner) = signer.0.public_key().key_data().ed25519() else { panic!("it is one") };
    let data = ssh_key::public::KeyData::SkEd25519((*inner).into());
    let proof = |flags: u8| {
        let data_signed = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, &statement.pae()).expect("bytes");
        let trailer = [flags, 0, 0, 0, 7];
        let message = [&Sha256::digest(b"ssh:")[..], &trailer, &Sha256::digest(&data_signed)].concat();
        let signed = ssh_key::Signature::try_from(
            {
                let plain = sign(&signer.0, &message);
                let mut bytes = vec![];
                bytes.extend((26_u32).to_be_bytes());
                bytes.extend(b"sk-ssh-ed25519@openssh.com");
                bytes.extend((64_u32).to_be_bytes());
                bytes.extend(plain.as_bytes());
                bytes.extend(trailer);
                bytes
            }
            .as_slice(),
        )
        .expect("a signature");
        let sig = SshSig::new(data.clone(), NAMESPACE, HashAlg::Sha512, signed).expect("an SSHSIG");
        Attestation::from_armor(&sig.to_pem(LineEnding::LF).expect("text")).expect("an attestation")
    };
    let trusted = Policy::new(1, vec![proof(1).key().clone()]).expect("a policy");
    assert_eq!(proof(1).verify(&statement), Ok(()));
    assert_eq!(proof(0).verify(&statement), Err(Flaw::Untouched));
    assert_eq!(accepts(&trusted, &statement, Some(&Bundle::new(&statement, vec![proof(5)]))), Ok(()));
}

fn sign(key: &impl ssh_key::SigningKey, message: &[u8]) -> ssh_key::Signature {
    key.try_sign(message).expect("signed")
}

#[test]
fn what_is_no_policy_is_refused() {
    let key = |seed| Signer::new(seed).key();
    for (threshold, keys) in [(1, vec![]), (3, vec![key(1), key(2)]), (0, vec![key(1)]), (1, vec![key(1), key(1)])] {
        let json = serde_json::json!({ "threshold": threshold, "keys": keys });
        assert!(Policy::new(threshold, keys).is_err());
        assert!(serde_json::from_value::<Policy>(json).is_err(), "nor is it read");
    }
    assert!(Policy::new(1, (0..65).map(key).collect()).is_err());
    assert_eq!(Policy::new(1, vec![key(1), key(2)]), Policy::new(1, vec![key(2), key(1)]), "the order is nothing");
    assert_eq!(policy(2, &[1, 2, 3]).to_string(), "2 of 3 keys");
}

#[test]
fn keys_are_read_without_their_comments_and_weak_ones_not_at_all() {
    let key = Signer::new(1).key();
    assert_eq!(format!("{key} somebody@somewhere").parse(), Ok(key.clone()));
    assert!(key.fingerprint().starts_with("SHA256:"));
    let rsa_1024 = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDAu7tvIvX6ZHrRXuZNfkR3XLHSsuCK9Zn3X58lxBcQzuo5xZgB6vRwwm/QtJuF+zZPtY5hsQILBLmF+BZ5WpKZp1jBeSjH2G7lxet9kbcH+kIVj0tPFEoyKI9wvWqIwC4prx/WVk2wLTJjzBAdyNxfEq7C9CeiX9pQEbEqJfkKCQ==";
    assert_eq!(rsa_1024.parse::<PublicKey>(), Err(KeyError::RsaBits(1024)));
    for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", &format!("restrict {key}"), &format!("{key}\n{key}"), &"a".repeat(9000)] {
        assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
    }
}

#[test]
fn bundles_gather_what_several_people_vouch() {
    let statement = Statement::release(&subject());
    let (one, two) = (bundle(&statement, &[1]), bundle(&statement, &[2]));
    let both = one.joined(&two).expect("one more");
    assert_eq!(both, bundle(&statement, &[2, 1]));
    assert_eq!(both.joined(&one), None);
    let other = Statement::release(&Subject { app: "other".parse().expect("a name"), ..subject() });
    assert_eq!(one.joined(&bundle(&other, &[2])), None);
}

#[test]
fn a_pointer_is_believed_while_it_is_young_and_none_newer_was_seen() {
    let app = subject().app;
    let release = |n: &[u8]| ReleaseId(Digest::of(n));
    let channel = |sequence, n| Channel { app: app.clone(), sequence, release: release(n), expires: Timestamp(1000) };
    let seen = |sequence, n| Seen { sequence, release: release(n) };
    let check = |it: &Channel, now, seen: Option<Seen>| {
        let bytes = it.encode(&bundle(&Statement::channel(it), &[1]));
        let (read, bundle) = Channel::decode(&bytes).expect("a pointer");
        read.check(&policy(1, &[1]), &bundle, &app, Timestamp(now), seen.as_ref())
    };
    assert_eq!(check(&channel(5, b"a"), 999, None).expect("good"), seen(5, b"a"));
    assert!(check(&channel(5, b"a"), 999, Some(seen(4, b"b"))).is_ok());
    assert!(check(&channel(5, b"a"), 999, Some(seen(5, b"a"))).is_ok());
    assert!(matches!(check(&channel(5, b"a"), 1000, None), Err(ChannelError::Expired { .. })));
    assert!(matches!(check(&channel(5, b"a"), 1, Some(seen(6, b"b"))), Err(ChannelError::Old { found: 5, seen: 6 })));
    assert!(matches!(check(&channel(5, b"a"), 1, Some(seen(5, b"b"))), Err(ChannelError::Fork { sequence: 5 })));
    let other = Channel { app: "other".parse().expect("a name"), ..channel(5, b"a") };
    assert!(matches!(check(&other, 1, None), Err(ChannelError::App { .. })));
    let changed = Channel { expires: Timestamp(2000), ..channel(5, b"a") };
    let old_proof = bundle(&Statement::channel(&channel(5, b"a")), &[1]);
    assert!(matches!(changed.check(&policy(1, &[1]), &old_proof, &app, Timestamp(1), None), Err(ChannelError::Distrust(_))));
}

#[test]
fn what_is_too_long_or_no_bundle_is_refused() {
    let good = bundle(&Statement::release(&subject()), &[1]).encode();
    let text = String::from_utf8(good).expect("text");
    for bad in [
        String::new(),
        "{}".into(),
        text.replace("vnd.in-toto", "vnd.other"),
        text.replace("\"sig\":\"", "\"sig\":\" "),
        text.replace("\"sig\":\"", "\"sig\":\"AAAA"),
        text[..text.len() - 3].to_owned(),
        " ".repeat(bundle::LEN) + &text,
    ] {
        assert!(Bundle::decode(bad.as_bytes()).is_err(), "{bad:.80}");
    }
    let many = vec![text.split("\"signatures\":[").nth(1).expect("there").trim_end().trim_end_matches("]}"); 65].join(",");
    let head = text.split("\"signatures\":[").next().expect("there");
    assert!(Bundle::decode(format!("{head}\"signatures\":[{many}]}}").as_bytes()).is_err());
}

proptest! {
    #[test]
    fn random_and_damaged_bytes_are_refused_and_never_panic(bytes: Vec<u8>, at: prop::sample::Index, with: u8) {
        let _ = Bundle::decode(&bytes);
        let _ = Channel::decode(&bytes);
        let _ = Attestation::from_base64(&String::from_utf8_lossy(&bytes));
        let _ = String::from_utf8_lossy(&bytes).parse::<PublicKey>();
        let statement = Statement::release(&subject());
        let mut damaged = bundle(&statement, &[1]).encode();
        let at = at.index(damaged.len());
        damaged[at] = with;
        if let Ok(read) = Bundle::decode(&damaged) && accepts(&policy(1, &[1]), &statement, Some(&read)).is_ok() {
            // Only what is for people may have changed: the name of the key, and what the bundle says it is about.
            let whole = bundle(&statement, &[1]);
            prop_assert_eq!(read.attestations(), whole.attestations());
        }
    }
}
