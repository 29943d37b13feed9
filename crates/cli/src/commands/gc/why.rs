//! What `--why` says: of each version why it stays, and why it goes. Pure.

use std::collections::BTreeSet;
use std::fmt::Display;

use df_cache::gc;
use df_cache::store::StoredRelease;
use df_core::{ImageId, Timestamp};
use df_fleet::message::{AppState, Collected};

/// Says what nothing keeps.
pub fn old(count: usize, older: Timestamp) -> String {
    format!("beyond the newest {count} and older than {older}")
}

/// Says of each release of a cache why it stays, and why it goes: `because` it is old.
pub fn of_cache(
    place: &str,
    releases: &[StoredRelease],
    plan: &gc::Plan,
    held: &BTreeSet<ImageId>,
    because: &str,
) -> Vec<String> {
    let line = |verb: &str, stored: &StoredRelease, why: &dyn Display| {
        let (commit, image) = (stored.release.commit.short(), stored.release.image.short());
        format!("  {place:<16} {verb} {commit} image {image}  ({why})")
    };
    let on_nodes = releases.iter().filter(|stored| held.contains(&stored.release.image));
    let on_nodes = on_nodes.map(|stored| line("keeps", stored, &"a node holds it"));
    let kept = plan.kept.iter().map(|(stored, why)| line("keeps", stored, why));
    let gone = plan.releases.iter().map(|stored| line("collects", stored, &because));
    on_nodes.chain(kept).chain(gone).collect()
}

/// Says of each generation of a node, and of each version that was copied there and not run, why it stays; of what goes the node itself says why.
pub fn of_node(node: &str, state: &AppState, collected: &[Collected], count: usize, older: Timestamp) -> Vec<String> {
    let goes = |number: u64| collected.iter().any(|one| one.generation == Some(number));
    let is_gone = |image: ImageId| collected.iter().any(|one| one.image == Some(image));
    let runs = |number: u64| state.running.iter().any(|running| running.generation == number);
    let kept = state.generations.iter().filter(|it| !goes(it.number)).map(|it| {
        let why = match it.number {
            number if number == state.current => "the current one".to_owned(),
            number if runs(number) => "it runs".to_owned(),
            _ if it.since >= older => "younger than the limit".to_owned(),
            _ if count == 0 => "a rollback goes to it".to_owned(),
            _ => format!("among the {count} that stay, or a rollback goes to it"),
        };
        format!("  {node:<16} keeps generation {} of {}  ({why})", it.number, it.commit.short())
    });
    let copied = state.staged.iter().filter(|it| it.since >= older && !is_gone(it.image));
    let copied = copied.map(|it| format!("  {node:<16} keeps {} image {}  (copied lately)", it.commit.short(), it.image.short()));
    kept.chain(copied).collect()
}
