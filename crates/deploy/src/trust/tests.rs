use df_core::attestation::{Attestation, NAMESPACE, PublicKey};
use df_core::{Digest, Timestamp};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use super::*;
use crate::fixture;

fn private(seed: u8) -> PrivateKey {
    PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").expect("a key")
}

fn key(seed: u8) -> PublicKey {
    private(seed).public_key().to_openssh().expect("text").parse().expect("a key")
}

fn policy(threshold: u32, seeds: &[u8]) -> Policy {
    Policy::new(threshold, seeds.iter().map(|&seed| key(seed)).collect()).expect("a policy")
}

fn attested(statement: &Statement, seeds: &[u8]) -> String {
    let vouch = |&seed: &u8| {
        let sig = private(seed).sign(NAMESPACE, HashAlg::Sha512, &statement.pae()).expect("signed");
        Attestation::from_armor(&sig.to_pem(LineEnding::LF).expect("text")).expect("an attestation")
    };
    let bundle = Bundle::new(statement, seeds.iter().map(vouch).collect());
    String::from_utf8(bundle.encode()).expect("JSON")
}

fn vouched(release: &Release, seeds: &[u8]) -> String {
    attested(&Statement::release(&Subject::of(release)), seeds)
}

#[test]
fn a_node_that_was_told_nothing_takes_everything() {
    let (_dir, layout) = fixture::layout();
    let release = fixture::release("greeter", 1);
    assert!(pinned(&layout).expect("read").is_none());
    check(&layout, &release).expect("taken");
    check_image(&layout, release.image, &[]).expect("taken");
    admit(&layout, &Subject::of(&release), "anything").expect("nothing is asked for");
}

#[test]
fn a_release_is_admitted_by_enough_trusted_keys_and_by_nothing_else() {
    let (_dir, layout) = fixture::layout();
    pin(&layout, &policy(2, &[1, 2, 3])).expect("pinned");
    let (release, other) = (fixture::release("greeter", 1), fixture::release("greeter", 2));
    let subject = Subject::of(&release);
    let admit = |text: &str| admit(&layout, &subject, text);
    for refused in [vouched(&release, &[]), vouched(&release, &[1]), vouched(&release, &[1, 9]), vouched(&other, &[1, 2])] {
        assert!(matches!(admit(&refused), Err(TrustError::Release { .. })));
        assert!(check(&layout, &release).is_err(), "nothing was kept of it");
    }
    assert!(matches!(admit("no bundle"), Err(TrustError::Bundle(_))));
    assert!(check_image(&layout, release.image, &[]).is_err());
    admit(&vouched(&release, &[3, 1])).expect("enough");
    check(&layout, &release).expect("admitted");
    assert!(check(&layout, &other).is_err(), "another one is not");
    check_image(&layout, release.image, std::slice::from_ref(&subject)).expect("its image may come");
    assert!(check_image(&layout, other.image, &[subject]).is_err(), "another may not");
}

/// What an attacker can write there that has no key: the attestations of another release under this one's name.
#[test]
fn a_record_of_another_release_admits_nothing() {
    let (_dir, layout) = fixture::layout();
    pin(&layout, &policy(1, &[1])).expect("pinned");
    let (release, other) = (fixture::release("greeter", 1), fixture::release("greeter", 2));
    admit(&layout, &Subject::of(&other), &vouched(&other, &[1])).expect("admitted");
    fs::copy(layout.attested_release(&other.app, other.id()), layout.attested_release(&release.app, release.id()))
        .expect("planted");
    assert!(check(&layout, &release).is_err());
}

#[test]
fn what_the_node_has_a_record_of_may_be_mended_and_needs_nobody() {
    let (_dir, layout) = fixture::layout();
    let (served, copied) = (fixture::release("greeter", 1), fixture::release("greeter", 2));
    generation::create(&layout, &served, 0, "me", Timestamp(1)).expect("made");
    staged::add(&layout, &copied, Timestamp(1)).expect("remembered");
    pin(&layout, &policy(1, &[1])).expect("pinned");
    for release in [&served, &copied] {
        check_image(&layout, release.image, &[]).expect("its bytes may come again");
    }
    assert!(check_image(&layout, ImageId(Digest::of(b"another")), &[]).is_err());
}

#[test]
fn the_first_policy_stays_until_those_it_names_change_it() {
    let (_dir, layout) = fixture::layout();
    let first = policy(2, &[1, 2, 3]);
    pin(&layout, &first).expect("pinned");
    pin(&layout, &first).expect("the same again");
    assert!(matches!(pin(&layout, &policy(1, &[9])), Err(TrustError::Pinned { .. })));
    let to = |sequence, policy| Pinned { sequence, policy };
    let change = |new: &Pinned, by: &[u8]| change(&layout, new, &attested(&Statement::trust(new), by));
    let second = to(1, policy(1, &[2, 4]));
    assert!(matches!(change(&second, &[1]), Err(TrustError::Change(_))), "one of two");
    assert!(matches!(change(&second, &[2, 4]), Err(TrustError::Change(_))), "a new key has no say");
    assert!(matches!(change(&to(0, policy(1, &[2, 4])), &[1, 2]), Err(TrustError::Old { .. })));
    change(&second, &[1, 2]).expect("by two of the old keys");
    change(&second, &[]).expect("the same again");
    assert_eq!(pinned(&layout).expect("read"), Some(second.clone()));
    assert!(matches!(change(&to(u64::MAX, first.clone()), &[2]), Err(TrustError::Far { .. })));
    assert!(matches!(change(&to(1, first.clone()), &[2]), Err(TrustError::Old { .. })), "back by an old number");
    assert!(matches!(change(&to(2, first.clone()), &[1, 3]), Err(TrustError::Change(_))), "by keys that were revoked");
    // What was proven to nodes once is no proof of anything else.
    let proof = attested(&Statement::trust(&second), &[2]);
    assert!(super::change(&layout, &to(2, first), &proof).is_err());
    change(&to(7, Policy::default()), &[4]).expect("nobody is asked any more");
    pin(&layout, &policy(1, &[5])).expect("so anybody may begin");
    assert_eq!(pinned(&layout).expect("read").expect("pinned").sequence, 8);
}

#[test]
fn a_revoked_key_admits_nothing_any_more_also_what_it_admitted_before() {
    let (_dir, layout) = fixture::layout();
    pin(&layout, &policy(1, &[1, 2])).expect("pinned");
    let release = fixture::release("greeter", 1);
    admit(&layout, &Subject::of(&release), &vouched(&release, &[2])).expect("admitted");
    check(&layout, &release).expect("admitted");
    let new = Pinned { sequence: 1, policy: policy(1, &[1]) };
    change(&layout, &new, &attested(&Statement::trust(&new), &[1])).expect("changed");
    assert!(check(&layout, &release).is_err());
    admit(&layout, &Subject::of(&release), &vouched(&release, &[1])).expect("another vouches");
    check(&layout, &release).expect("admitted");
}

#[test]
fn a_damaged_file_admits_nothing() {
    let (_dir, layout) = fixture::layout();
    let release = fixture::release("greeter", 1);
    let json = r#"{"format":1,"sequence":0,"threshold":0,"keys":[]}"#;
    for damaged in ["", "{", &json.replace("\"format\":1", "\"format\":2"), &json.replace(":0,\"keys", ":1,\"keys")] {
        fs::write(layout.trust(), damaged).expect("written");
        assert!(matches!(check(&layout, &release), Err(TrustError::Damaged(_))), "{damaged}");
        assert!(matches!(check_image(&layout, release.image, &[]), Err(TrustError::Damaged(_))));
        assert!(matches!(pin(&layout, &policy(1, &[1])), Err(TrustError::Damaged(_))));
    }
    fs::write(layout.trust(), json).expect("written");
    check(&layout, &release).expect("taken");
}

#[test]
fn attestations_go_with_the_release() {
    let (_dir, layout) = fixture::layout();
    pin(&layout, &policy(1, &[1])).expect("pinned");
    let releases: Vec<Release> = (1..=3).map(|n| fixture::release("greeter", n)).collect();
    for release in &releases {
        admit(&layout, &Subject::of(release), &vouched(release, &[1])).expect("admitted");
    }
    generation::create(&layout, &releases[0], 0, "me", Timestamp(1)).expect("made");
    staged::add(&layout, &releases[1], Timestamp(1)).expect("remembered");
    sweep(&layout, &releases[0].app).expect("swept");
    let is_there = |release: &Release| layout.attested_release(&release.app, release.id()).exists();
    assert_eq!(releases.iter().map(is_there).collect::<Vec<_>>(), [true, true, false]);
}
