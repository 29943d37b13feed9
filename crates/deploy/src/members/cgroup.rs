//! A cgroup for a run, below the one that we are in ourselves, or beside it.
//!
//! Who belongs to a run is told by the second version of cgroups, alone or beside the first: its membership needs no controller. A cgroup that hands controllers on may hold no
//! process itself, and systemd could not put the next supervisor back into a unit that does. So our units have the supervisor in a cgroup of its own ([`OWN`], systemd 254 and newer): what
//! is above that is free for runs and for what counts them ([`super::bounds`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// As many cgroups of a run are looked at: it can make some itself where they are its own.
const MAX_CGROUPS: usize = 1000;
/// Whoever ends leaves its cgroup a moment after its pidfd says so.
const LEAVING: Duration = Duration::from_millis(200);
/// Before that, nobody may have entered yet for whom it was made.
const YOUNG: Duration = Duration::from_secs(300);

/// The cgroup in which a unit of ours has its supervisor; it lies in that of the unit, where runs get theirs.
pub const OWN: &str = "df-supervisor";

/// The trees of cgroups, and where we are in each.
pub struct Trees {
    /// /proc/self/mountinfo
    pub(super) mounts: String,
    /// /proc/self/cgroup
    pub(super) own: String,
}

impl Trees {
    /// Reads them; nothing where there are none.
    pub fn read() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Some(Self { mounts, own: fs::read_to_string("/proc/self/cgroup").ok()? })
    }

    /// Returns where groups of runs are made in the tree of the second version.
    pub fn ours(&self) -> Option<PathBuf> {
        let own = second(&self.mounts, &self.own)?;
        Some(if own.ends_with(OWN) { own.parent()?.to_owned() } else { own })
    }

    /// Returns where they are made in the tree of the first version that has this controller.
    pub fn ours_with(&self, controller: &str) -> Option<PathBuf> {
        first(&self.mounts, &self.own, controller)
    }

    /// Returns whether a cgroup is that of our unit, in which nobody is.
    pub fn is_our_unit(&self, cgroup: &Path) -> bool {
        second(&self.mounts, &self.own).is_some_and(|own| own == cgroup.join(OWN))
    }
}

/// Makes one for a run; nothing where we may not, or there are none.
pub fn make(mark: &str) -> Option<PathBuf> {
    make_in(&Trees::read()?.ours()?, mark)
}

/// Makes one for a run at a place.
pub fn make_in(place: &Path, mark: &str) -> Option<PathBuf> {
    let path = place.join(format!("df-{mark}"));
    fs::create_dir(&path).ok()?;
    Some(path)
}

/// Removes those of runs that have ended and whose supervisor was killed before it could: empty ones beside those that we make, in the trees of the first version that have these
/// controllers too. The kernel keeps one in which somebody is.
pub fn sweep(controllers: &[&str]) {
    let Some(trees) = Trees::read() else { return };
    let counting = controllers.iter().map(|controller| trees.ours_with(controller));
    for place in counting.chain([trees.ours()]).flatten() {
        sweep_in(&place, SystemTime::now());
    }
}

/// Lists the processes in one and in those below it; they need not live any more.
pub fn pids(cgroup: &Path) -> Vec<u32> {
    let all = tree(cgroup);
    let lists = all.iter().filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok());
    // Who is beyond our pid namespace has the number 0.
    lists
        .flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Kills all that is in one and below it, at once; where the kernel cannot yet (before 5.14), nobody in it runs any more. Nothing happens if we are in it ourselves.
pub fn kill(cgroup: &Path) {
    if pids(cgroup).contains(&std::process::id()) {
        return;
    }
    // Whoever calls us looks for those that are left, one by one.
    let _ = fs::write(cgroup.join("cgroup.kill"), "1").or_else(|_| fs::write(cgroup.join("cgroup.freeze"), "1"));
}

/// Removes one with those below it, if nobody is in them.
pub fn remove(cgroup: &Path) {
    let deadline = Instant::now() + LEAVING;
    for path in tree(cgroup).iter().rev() {
        while fs::remove_dir(path).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy)
            && pids(path).is_empty()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Returns a cgroup and those below it, each before those below it.
fn tree(cgroup: &Path) -> Vec<PathBuf> {
    let mut found = vec![cgroup.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).filter(|_| found.len() < MAX_CGROUPS) {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let below: Vec<PathBuf> =
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
        found.extend(below);
        at += 1;
    }
    found
}

fn sweep_in(place: &Path, now: SystemTime) {
    let is_ours = |name: &str| name.strip_prefix("df-").is_some_and(|mark| mark.len() == 32 && mark.bytes().all(is_lower_hex));
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        // That of another supervisor is empty too between its making and its first process, which would then be found by its mark alone.
        let made = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = made.is_ok_and(|made| now.duration_since(made).is_ok_and(|age| age > YOUNG));
        if is_old && entry.file_name().to_str().is_some_and(is_ours) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// Returns where our own cgroup of the second version is visible, from /proc/self/mountinfo and /proc/self/cgroup.
fn second(mounts: &str, own: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    visible(mounts, own, |kind, _| kind == "cgroup2")
}

/// Returns where our own cgroup of the first version with this controller is visible.
fn first(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|name| name == controller);
    let own = own.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        has(list).then_some(path)
    })?;
    visible(mounts, own, |kind, options| kind == "cgroup" && has(options))
}

/// Returns where a cgroup is visible: below the mount whose kind and options are those of its tree.
fn visible(mounts: &str, own: &str, is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let (root, point) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let (kind, options) = (after.split(' ').next()?, after.split(' ').nth(2).unwrap_or_default());
        let mut fields = before.split(' ').skip(3);
        is_it(kind, options).then_some((fields.next()?, fields.next()?))
    })?;
    // A mount may show a part of the tree only, and a process may be outside of its namespace's part.
    let below = Path::new(own).strip_prefix(root).ok()?;
    let is_plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (is_plain && !point.contains('\\')).then(|| Path::new(point).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          30 24 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
                          33 24 0:31 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    const UNIFIED: &str = "30 24 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const PART: &str = "30 24 0:28 /box/7 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";

    #[track_caller]
    fn check(mounts: &str, own: &str, expect: Option<&str>) {
        assert_eq!(second(mounts, own).as_deref(), expect.map(Path::new), "{own}");
    }

    #[test]
    fn a_run_is_beside_the_supervisor_where_that_has_a_group_of_its_own() {
        let trees = |own: &str| Trees { mounts: UNIFIED.into(), own: format!("0::{own}\n") };
        let unit = Path::new("/sys/fs/cgroup/system.slice/df.service");
        for (own, is_free) in [("/system.slice/df.service/df-supervisor", true), ("/system.slice/df.service", false)] {
            assert_eq!(trees(own).ours().as_deref(), Some(unit), "{own}");
            assert_eq!(trees(own).is_our_unit(unit), is_free, "{own}");
        }
        let run = format!("/system.slice/df.service/df-{}", "0".repeat(32));
        assert!(!trees(&run).is_our_unit(unit), "a program of ours is no supervisor");
    }

    #[test]
    fn trees_of_the_first_version_are_told_apart_by_their_controllers() {
        let own = "9:name=systemd:/\n8:pids:/\n4:cpu,memory:/a/b\n3:memory2:/no\n0::/x\n";
        let mounts = format!("{HYBRID}35 24 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory\n");
        let at = |controller: &str| first(&mounts, own, controller);
        assert_eq!(at("memory").as_deref(), Some(Path::new("/sys/fs/cgroup/memory/a/b")));
        assert_eq!(at("pids").as_deref(), Some(Path::new("/sys/fs/cgroup/pids")));
        assert_eq!(first(HYBRID, own, "memory"), None, "it is not mounted");
        assert_eq!((at("hugetlb"), first(&mounts, "0::/x\n", "memory")), (None, None));
    }

    #[test]
    fn our_own_place_is_found_where_there_is_one() {
        check(UNIFIED, "0::/system.slice/df.service\n", Some("/sys/fs/cgroup/system.slice/df.service"));
        check(UNIFIED, "0::/\n", Some("/sys/fs/cgroup"));
        check(HYBRID, "9:name=systemd:/\n4:memory:/a/b\n0::/x\n", Some("/sys/fs/cgroup/unified/x"));
        check(PART, "0::/box/7/in\n", Some("/sys/fs/cgroup/in"));
        check(PART, "0::/other\n", None);
        check(UNIFIED, "0::/../beyond\n", None);
        check(UNIFIED, "4:memory:/\n", None);
        check("24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "0::/\n", None);
        check("", "", None);
    }

    #[test]
    fn only_old_and_empty_ones_of_our_own_name_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = "0123456789abcdef0123456789abcdef";
        let names = [format!("df-{mark}"), format!("df-{}", &mark[1..]), mark.to_owned(), format!("df-{}", mark.to_uppercase())];
        let make = |name: &str| fs::create_dir_all(dir.path().join(name)).expect("made");
        names.iter().for_each(|name| make(name));
        let full = format!("df-f{}", &mark[1..]);
        make(&format!("{full}/below"));
        let left = |age: Duration| {
            sweep_in(dir.path(), SystemTime::now() + age);
            let entries = fs::read_dir(dir.path()).expect("read").map(|entry| entry.expect("read").file_name());
            entries.map(|name| name.into_string().expect("plain")).collect::<std::collections::BTreeSet<String>>()
        };
        let all: std::collections::BTreeSet<String> = names.iter().cloned().chain([full]).collect();
        assert_eq!(left(Duration::ZERO), all, "somebody may be about to enter");
        assert_eq!(left(2 * YOUNG), all.into_iter().filter(|name| *name != names[0]).collect());
    }
}
