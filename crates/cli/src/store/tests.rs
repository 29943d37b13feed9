use df_core::spec::Sandbox;
use df_core::{CommitId, RecipeKey, Timestamp};

use super::*;

fn stored(sequence: u64, commit: &str, image: &str) -> StoredRelease {
    let release = Release {
        format: 1,
        app: "greeter".parse().expect("a name"),
        commit: CommitId::new(&commit.repeat(5)).expect("40 digits"),
        committed: Timestamp(i64::try_from(sequence).expect("small")),
        recipe_key: RecipeKey(Digest::of(b"recipe")),
        sandbox: Sandbox::Off,
        image: ImageId(Digest::of(image.as_bytes())),
        image_len: 1,
        needs: vec![],
        run: None,
        verify: vec![],
    };
    StoredRelease::new(release, sequence, Timestamp(0))
}

#[test]
fn a_version_is_the_beginning_of_a_commit_an_image_or_a_release() {
    let releases = [stored(1, "aaaa1111", "x"), stored(2, "aaaa2222", "y"), stored(3, "aaaa2222", "z")];
    let found = |word: &str| match find(&releases, word) {
        Found::One(release) => format!("{} of {}", release.image.short(), release.commit.short()),
        Found::None => "none".into(),
        Found::Several(several) => several.join(" "),
    };
    let one = |at: usize| format!("{} of {}", releases[at].release.image.short(), releases[at].release.commit.short());
    assert_eq!(found("aaaa1"), one(0));
    assert_eq!(found("AAAA2222"), one(2), "the newest of a commit");
    assert_eq!(found("aaaa"), "aaaa1111aaaa aaaa2222aaaa");
    assert_eq!(found(&releases[1].release.image.to_string()[..8]), one(1));
    assert_eq!(found(&releases[1].id.to_string()[..8]), one(1));
    assert_eq!(found("aaa"), "none", "too short to mean one");
    assert_eq!(found("zzzz"), "none");
}

#[test]
fn a_umask_of_none_makes_no_cache_that_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let caches = dir.path().join("caches/df");
    assert!(df_testkit::faults::with_umask(0, || Shelf::at(&caches).is_ok()));
}
