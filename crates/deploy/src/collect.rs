//! What a node no longer needs: decided first, then removed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use df_cache::durable;
use df_core::{AppName, ImageId, Timestamp};
use df_wire::message::{Collected, GenerationResult};
use rustix::fs::{FlockOperation, flock};

use crate::generation::{self, Record};
use crate::layout::Layout;
use crate::{receive, staged, store, trust};

/// How long a receive that was cut may go on.
const CUT_KEPT: Duration = Duration::from_secs(86_400);

/// What a collection looks at.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The generations of the application, oldest first.
    pub records: &'a [Record],
    /// The generation that `current` names; 0: none.
    pub current: u64,
    /// Generations with a process.
    pub running: &'a [u64],
}

/// How much stays.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// So many generations stay, the best: bad ones go first.
    pub count: usize,
    /// Only what is older goes.
    pub older: Timestamp,
}

/// Returns the generations that may go and why, bad ones first, then the oldest.
///
/// Never: the current, the running, the one a rollback goes to ([`generation::previous`]), and what is not older than the policy says.
pub fn plan(situation: &Situation<'_>, policy: Policy) -> Vec<(u64, String)> {
    let previous = generation::previous(situation.records, situation.current);
    let held = |record: &Record| {
        record.number == situation.current
            || situation.running.contains(&record.number)
            || previous.is_some_and(|good| good.number == record.number)
    };
    let mut candidates: Vec<&Record> = situation.records.iter().filter(|record| !held(record)).collect();
    candidates.sort_by_key(|record| (record.result != GenerationResult::Bad, record.number));
    let surplus = situation.records.len().saturating_sub(policy.count);
    let gone = candidates.into_iter().filter(|record| record.since < policy.older).take(surplus);
    gone.map(|record| (record.number, why(record, policy))).collect()
}

fn why(record: &Record, policy: Policy) -> String {
    let kind = if record.result == GenerationResult::Bad { "bad, " } else { "" };
    format!("{kind}beyond the {} that stay and older than {}", policy.count, policy.older)
}

/// Removes what [`plan`] named, then the images that nothing keeps; with `dry_run` it only says so.
///
/// # Errors
/// Something cannot be read or removed; what was removed stays removed, and the next collection goes on.
pub fn perform(
    layout: &Layout,
    app: &AppName,
    gone: &[(u64, String)],
    policy: Policy,
    dry_run: bool,
) -> io::Result<Vec<Collected>> {
    let mut collected = vec![];
    for (number, why) in gone {
        collected.push(Collected { generation: Some(*number), image: None, bytes: 0, why: why.clone() });
        if !dry_run {
            remove_generation(layout, app, *number)?;
        }
    }
    let numbers: Vec<u64> = gone.iter().map(|(number, _)| *number).collect();
    let kept = kept_images(layout, app, &numbers, policy)?;
    for image in store::images(layout)?.into_iter().filter(|image| !kept.contains(image)) {
        let bytes = store::manifest(layout, image).map_or(0, |manifest| manifest.total_len());
        collected.push(Collected { generation: None, image: Some(image), bytes, why: "no generation holds it".into() });
        if !dry_run {
            store::remove(layout, image)?;
        }
    }
    if !dry_run {
        staged::forget(layout, app, policy.older)?;
        trust::sweep(layout, app)?;
        store::sweep_trees(layout, &kept)?;
        sweep(layout, policy.older)?;
    }
    Ok(collected)
}

/// Removes receives that nobody works at any more, but those that were cut within the day and not before `older`: they may go on. And the generations that a
/// crash left half made or half removed.
///
/// # Errors
/// Something cannot be removed.
pub fn sweep(layout: &Layout, older: Timestamp) -> io::Result<()> {
    let older = older.max(Timestamp::from(SystemTime::now()).minus(CUT_KEPT));
    for entry in fs::read_dir(layout.incoming())? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let image = name.to_str().and_then(|name| name.parse().ok());
        if image.and_then(|image| receive::touched(layout, image)).is_some_and(|at| Timestamp::from(at) >= older) {
            continue;
        }
        let lock = fs::File::open(path.join("lock")).ok();
        let busy = lock.as_ref().is_some_and(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_err());
        if !busy {
            durable::remove_tree(&path)?;
        }
    }
    store::sweep(layout)?;
    for app in generation::apps(layout).map_err(io::Error::other)? {
        for entry in fs::read_dir(layout.generations(&app)).into_iter().flatten() {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                durable::remove_tree(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn remove_generation(layout: &Layout, app: &AppName, number: u64) -> io::Result<()> {
    // Renamed first: a half-removed generation must not look like one.
    let doomed = layout.generations(app).join(format!(".{number}"));
    durable::rename(&layout.generation(app, number), &doomed)?;
    durable::remove_tree(&doomed)?;
    let log = layout.log(app, number);
    for log in [log.with_extension("log.1"), log] {
        match fs::remove_file(log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Returns what generations of any application keep, and what was copied here lately.
fn kept_images(layout: &Layout, app: &AppName, gone: &[u64], policy: Policy) -> io::Result<BTreeSet<ImageId>> {
    let mut kept = BTreeSet::new();
    for other in generation::apps(layout).map_err(io::Error::other)? {
        let records = generation::list(layout, &other).map_err(io::Error::other)?;
        kept.extend(
            records.iter().filter(|record| other != *app || !gone.contains(&record.number)).map(|record| record.release.image),
        );
        let lately = |since: Timestamp| other != *app || since >= policy.older;
        kept.extend(staged::list(layout, &other)?.into_iter().filter(|s| lately(s.since)).map(|s| s.image));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn record(number: u64, since: i64, result: GenerationResult) -> Record {
        Record { since: Timestamp(since), ..fixture::record(number, fixture::release("greeter", number), result) }
    }

    #[test]
    fn bad_ones_go_first_and_what_serves_or_may_serve_again_stays() {
        use GenerationResult::{Bad, Good, Unknown};
        let records = [
            record(1, 0, Good),
            record(2, 1, Good),
            record(3, 2, Bad),
            record(4, 3, Good),
            record(5, 4, Bad),
            record(6, 5, Good),
            record(7, 6, Unknown),
        ];
        let check = |count, older, current, running: &[u64], expected: &[u64]| {
            let situation = Situation { records: &records, current, running };
            let numbers: Vec<u64> =
                plan(&situation, Policy { count, older: Timestamp(older) }).into_iter().map(|(n, _)| n).collect();
            assert_eq!(numbers, expected, "count {count} older {older} current {current}");
        };
        check(7, 100, 6, &[], &[]);
        check(5, 100, 6, &[], &[3, 5]);
        check(4, 100, 6, &[], &[3, 5, 1]);
        check(0, 100, 6, &[7], &[3, 5, 1, 2]);
        check(0, 100, 6, &[], &[3, 5, 1, 2, 7]);
        check(0, 3, 6, &[], &[3, 1, 2]);
        check(0, 0, 6, &[], &[]);
        check(0, 100, 0, &[], &[3, 5, 1, 2, 4, 6, 7]);
    }

    #[test]
    fn a_rollback_past_restarts_has_somewhere_to_go_after_a_collection() {
        let again = |number| Record { release: fixture::release("greeter", 2), ..record(number, 0, GenerationResult::Good) };
        let records = [record(1, 0, GenerationResult::Good), again(2), again(3), again(4)];
        let situation = Situation { records: &records, current: 4, running: &[4] };
        let gone = plan(&situation, Policy { count: 0, older: Timestamp(100) });
        assert_eq!(gone.into_iter().map(|(number, _)| number).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn both_logs_of_a_generation_go_with_it() {
        let (_dir, layout) = fixture::layout();
        let release = fixture::release("greeter", 1);
        generation::create(&layout, &release, 0, "me", Timestamp(0)).expect("made");
        fs::create_dir_all(layout.logs(&release.app)).expect("made");
        for name in ["1.log", "1.log.1"] {
            fs::write(layout.logs(&release.app).join(name), "said").expect("written");
        }
        remove_generation(&layout, &release.app, 1).expect("removed");
        assert_eq!(fs::read_dir(layout.logs(&release.app)).expect("read").count(), 0);
    }

    #[test]
    fn a_receive_that_was_cut_stays_a_day_and_one_that_cannot_go_on_does_not() {
        let (_dir, layout) = fixture::layout();
        let now = Timestamp::from(SystemTime::now());
        let make = |n: u8, age: Option<u64>| {
            let dir = layout.incoming().join(ImageId(df_core::Digest::of(&[n])).to_string());
            fs::create_dir(&dir).expect("made");
            if let Some(age) = age {
                let marks = fs::File::create(dir.join("marks")).expect("made");
                marks.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("aged");
            }
            dir
        };
        let long_ago = Timestamp(0);
        let (young, old, nothing) = (make(1, Some(3600)), make(2, Some(86_500)), make(3, None));
        sweep(&layout, long_ago).expect("swept");
        assert_eq!([&young, &old, &nothing].map(|dir| dir.exists()), [true, false, false]);
        sweep(&layout, now).expect("swept");
        assert!(!young.exists(), "older than was asked for");
        let busy = make(4, Some(86_500));
        let lock = fs::File::create(busy.join("lock")).expect("made");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
        sweep(&layout, now).expect("swept");
        assert!(busy.exists(), "somebody works there");
    }
}
