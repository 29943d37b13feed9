//! What lies on a disk after its power was cut in the middle of something: what has a name is whole, what was said to be there is there, and the same thing done once more succeeds.
//!
//! Each cut has a disk of its own: a file system in a file, on a loop device. A program does one thing there until it stands before a certain change; then the disk's power is cut,
//! at once or after the journal was written, the program is killed, the file system is mounted again and everything on it is read back. The same without a single sync is the
//! control: this harness finds what is torn.
//!
//! Needs root and loop devices. `DF_FULL` cuts before every change, on xfs too, and `DF_POWER_REPORT` names a file that what it came to is added to.

mod activation;
mod campaign;
mod failed_sync;
mod in_cache;
mod on_node;
mod whole;

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use df_testkit::power::{Kind, alone};

use activation::Activation;
use campaign::{Bench, Moment, Operation, Syncs, Tally};
use in_cache::InCache;
use on_node::OnNode;

use crate::receiving::Recorded;

/// Bytes of a file that lies in no pack of a cache.
const LIBRARY_LEN: usize = 1_100_000;

fn is_full() -> bool {
    std::env::var_os("DF_FULL").is_some()
}

/// Returns what is shared by those who need it at this moment.
fn recorded() -> Arc<Recorded> {
    static SHARED: Mutex<Weak<Recorded>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let recorded = shared.upgrade().unwrap_or_else(|| Arc::new(Recorded::sized(LIBRARY_LEN)));
    *shared = Arc::downgrade(&recorded);
    // Read with all cores, which from here on stand ready: among mounts of their own nobody else could work with them.
    assert_eq!(whole::torn(&recorded.world.node(1)), [""; 0], "what all of this begins with");
    recorded
}

/// What is cut: in the long campaign xfs too.
fn kinds() -> &'static [Kind] {
    if is_full() { &[Kind::Ext4, Kind::Xfs] } else { &[Kind::Ext4] }
}

/// Runs a test where power can be cut; says why it cannot be here. Once a disk of each kind was mounted, it can be: an error is a failure from then on.
#[track_caller]
fn run_alone(run: impl Fn() -> io::Result<()> + Sync) {
    let ran = alone(|| {
        kinds().iter().try_for_each(|kind| campaign::try_to_mount(*kind))?;
        run().unwrap_or_else(|error| panic!("the power of disks can be cut here, and: {error}"));
        Ok::<_, io::Error>(())
    });
    if let Err(error) | Ok(Err(error)) = ran {
        assert!(!is_full() || !rustix::process::geteuid().is_root(), "the long campaign cuts the power of disks: {error}");
        eprintln!("not run: {error}");
    }
}

#[test]
fn an_error_after_a_disk_was_mounted_is_no_reason_not_to_run() {
    let began = AtomicBool::new(false);
    let run = || {
        began.store(true, Ordering::Relaxed);
        Err(io::Error::other("no more loop devices"))
    };
    let failed = std::panic::catch_unwind(AssertUnwindSafe(|| run_alone(run))).is_err();
    assert!(failed || !began.load(Ordering::Relaxed), "an error of what is tested counts as not run");
}

/// Cuts until what is torn is as expected, three times at most, and returns what is torn by the last: what nobody synced the kernel writes by itself every few seconds, as it may
/// do right before the cut.
fn cut_until(is_expected: impl Fn(&[String]) -> bool, bench: &Bench<'_>, before: usize, syncs: Syncs) -> Vec<String> {
    let mut torn = vec![];
    for _ in 0..3 {
        torn = bench.cut(before, Moment::JournalWritten, syncs);
        if is_expected(&torn) {
            break;
        }
    }
    torn
}

/// Cuts the power before changes that an operation makes: all of them in the long campaign, else a few, spread evenly, and right after its end.
fn cut_power_in(operation: &dyn Operation, kinds: &[Kind]) -> io::Result<()> {
    for &kind in kinds {
        let bench = Bench::new(operation, kind)?;
        let n = bench.count();
        let stride = if is_full() { 1 } else { n.div_ceil(3) };
        let points = (stride..=n).step_by(stride).chain([n + 1]);
        let mut tally = Tally::new(operation.name(), kind, n);
        for (round, before) in points.enumerate() {
            let moments = [Moment::AtOnce, Moment::JournalWritten];
            let both = if is_full() { &moments[..] } else { &moments[round % 2..=round % 2] };
            for &moment in both {
                // Now and then it is the kernel that writes it.
                let moment =
                    if is_full() && moment != Moment::AtOnce && round % 16 == 0 { Moment::JournalByItself } else { moment };
                let torn = bench.cut(before, moment, Syncs::All);
                assert!(
                    torn.is_empty(),
                    "{} on {}, cut before change {before} of {n}, {moment:?}: {torn:?}",
                    operation.name(),
                    kind.name()
                );
                bench.again();
                tally.add(&torn);
            }
        }
        tally.tell();
    }
    Ok(())
}

#[test]
fn what_a_node_receives_and_collects_is_whole_or_has_no_name_when_the_power_is_cut() {
    let recorded = recorded();
    run_alone(|| OnNode::ALL.iter().try_for_each(|&what| cut_power_in(&what.of(&recorded), kinds())));
}

#[test]
fn what_a_cache_takes_and_collects_is_whole_or_has_no_name_when_the_power_is_cut() {
    let recorded = recorded();
    // What a known node holds is not collected.
    recorded.df(&["rm", "n1"]).ok();
    run_alone(|| InCache::ALL.iter().try_for_each(|&what| cut_power_in(&what.of(&recorded), kinds())));
}

#[test]
fn current_leads_to_a_whole_version_when_the_power_is_cut() {
    // As in `recorded`: all cores stand ready before mounts of its own are made.
    let (_recorded, activation) = (recorded(), Activation::new());
    run_alone(|| cut_power_in(&activation, kinds()));
}

#[test]
fn without_a_single_sync_most_of_what_has_a_name_is_torn_by_the_same_cuts() {
    if !df_testkit::calls::CAN_ANSWER {
        return eprintln!("not run: nobody can keep a program from syncing on this kind of machine");
    }
    let recorded = recorded();
    run_alone(|| {
        for &kind in kinds() {
            let operations: [&dyn Operation; 2] = [&OnNode::Delta.of(&recorded), &InCache::Put.of(&recorded)];
            for operation in operations {
                let bench = Bench::new(operation, kind)?;
                let n = bench.count();
                let mut tally = Tally::new(operation.name(), kind, n);
                // From when the names were given.
                for before in n - 2..=n + 1 {
                    tally.add(&cut_until(|torn| !torn.is_empty(), &bench, before, Syncs::None));
                }
                assert!(tally.n_torn * 2 >= tally.n_cuts, "the harness does not find what is torn: {tally:?}");
                tally.tell();
            }
            // What syncs no more than names is found too.
            let receive = OnNode::Delta.of(&recorded);
            let bench = Bench::new(&receive, kind)?;
            let is_manifest = |torn: &[String]| torn.iter().any(|what| what.contains("/manifests/") && what.ends_with("is torn"));
            let torn = cut_until(is_manifest, &bench, bench.count() + 1, Syncs::NotThoseOfFiles);
            assert!(is_manifest(&torn), "{torn:?}");
        }
        Ok(())
    });
}
