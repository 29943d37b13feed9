//! A user of its own for each application: which number is whose.
//!
//! # Format, `ROOT/users.json`
//!
//! One JSON object of names of applications and their numbers, `{"greeter":60578}`: user and group alike. It is there where the machine is the node and df-node is root, made empty by
//! the first session; where it is not, programs run as whoever df-node is. A number is given once, when an application comes, and never to another while something in DATA or TMP
//! belongs to it: what it wrote stays its own. An application whose data has such a number, and which has none (ROOT was taken away), takes that one again. One that ran
//! as root before there were users goes on as root; nobody else becomes root without saying so: the deploy is refused, in words. Written durably, before the first process has the number.
//!
//! The numbers lie where neither distributions nor systemd give any (60578 to 61183, "unused" in systemd's table of them), and no line of /etc/passwd or /etc/group may have one. They
//! need none: a program is given its numbers, not a login.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use df_cache::durable;
use df_core::AppName;
use df_core::spec::RunSection;
use rustix::fs::{Mode, OFlags};

use crate::generation::{self, RecordError};
use crate::launch::{self, Ids, UserError};
use crate::layout::Layout;

/// What is given.
const NUMBERS: RangeInclusive<u32> = 60_578..=61_183;

/// One application after the other gets its number.
static GIVING: Mutex<()> = Mutex::new(());

type Users = BTreeMap<AppName, u32>;

/// No number can be given; the application does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GiveError {
    #[error("users.json of the node")]
    File(#[source] io::Error),
    #[error(transparent)]
    Records(#[from] RecordError),
    #[error("the numbers that users have")]
    Numbers(#[from] UserError),
    #[error("{}", path.display())]
    Data {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("all numbers of users are given")]
    Full,
    #[error(
        "{} belongs to {uid}:{gid}, and {app} would run as {number}, a user of its own. Hand the data over with `chown -hR {number}:{number} {}`, \
         or say in df.yaml whom it runs as, with run.user: a name, a number, or root; then deploy again",
        path.display(), path.display()
    )]
    Others { app: AppName, path: PathBuf, uid: u32, gid: u32, number: u32 },
}

/// Lets every application that comes from now on have a user of its own, where we may give one.
///
/// # Errors
/// That cannot be written down.
pub fn begin(layout: &Layout) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if !(layout.is_machine && is_root) || path(layout).exists() || !launch::is_mapped(&NUMBERS)? {
        return Ok(());
    }
    write_first(layout)
}

/// Gives an application that runs so a user of its own, where applications have one, unless it was there before they had.
///
/// # Errors
/// All numbers are given, its data belongs to somebody else, or what is given cannot be read or written: nothing may start then, since it could get another's.
pub fn give(layout: &Layout, app: &AppName, run: Option<&RunSection>) -> Result<(), GiveError> {
    let _giving = GIVING.lock().expect("nobody panics with this lock");
    let Some(mut users) = read(layout).map_err(GiveError::File)? else { return Ok(()) };
    let path = layout.app_data(app);
    let at = |source| GiveError::Data { path: path.clone(), source };
    let owner = owner(&path).map_err(at)?;
    let others = |(uid, gid), number| GiveError::Others { app: app.clone(), path: path.clone(), uid, gid, number };
    if let Some(&number) = users.get(app) {
        let is_own = |(uid, _)| uid == number;
        return owner.filter(|owner| !is_own(*owner)).map_or(Ok(()), |owner| Err(others(owner, number)));
    }
    let mut taken = launch::numbers()?;
    taken.extend(users.values());
    let again = owner.filter(|(uid, gid)| uid == gid && NUMBERS.contains(uid) && !taken.contains(uid));
    if again.is_none() && went_without(layout, app)? {
        return Ok(());
    }
    for dir in [&layout.data, &layout.tmp] {
        taken.extend(owners(dir).map_err(|source| GiveError::Data { path: dir.clone(), source })?);
    }
    let number = again.map(|(uid, _)| uid).or_else(|| free(&taken)).ok_or(GiveError::Full)?;
    match owner {
        None => {}
        Some(_) if again.is_some() => {}
        // Before the number is written down: who is killed between finds it again as the owner.
        Some(owner) if is_only_prepared(layout, app, owner, run).map_err(at)? => hand_over(&path, number).map_err(at)?,
        Some(owner) => return Err(others(owner, number)),
    }
    users.insert(app.clone(), number);
    write(layout, &users).map_err(GiveError::File)
}

/// Returns the user that an application has of its own, if it has one.
///
/// # Errors
/// It cannot be read.
pub fn of(layout: &Layout, app: &AppName) -> io::Result<Option<Ids>> {
    let number = read(layout)?.and_then(|users| users.get(app).copied());
    Ok(number.map(|number| Ids { uid: number, gid: number, groups: vec![number] }))
}

/// Returns whether a number is one of those that are given.
pub fn is_number(number: u32) -> bool {
    NUMBERS.contains(&number)
}

/// Returns the lowest number that nobody has.
fn free(taken: &BTreeSet<u32>) -> Option<u32> {
    NUMBERS.into_iter().find(|number| !taken.contains(number))
}

/// Returns whether what serves here, or served last, was started without a word about users, and so as root: nobody was asked then.
fn went_without(layout: &Layout, app: &AppName) -> Result<bool, RecordError> {
    let (records, current) = (generation::list(layout, app)?, generation::current(layout, app)?);
    let serves = records.iter().find(|record| record.number == current);
    let went_well = || records.iter().rev().find(|record| record.result == df_wire::message::GenerationResult::Good);
    let last = serves.or_else(went_well).or(records.last());
    Ok(last.and_then(|record| record.release.run.as_ref()).is_some_and(|run| run.user.is_none()))
}

/// Returns whether a directory was made by root for an application that never was here, with nothing in it but its file of variables.
fn is_only_prepared(layout: &Layout, app: &AppName, owner: (u32, u32), run: Option<&RunSection>) -> io::Result<bool> {
    if owner.0 != 0 || layout.generations(app).exists() {
        return Ok(false);
    }
    let file = run.and_then(|run| run.env_file.as_deref()).map(Path::new).filter(|file| file.is_relative());
    let first = file.and_then(|file| file.components().find(|part| matches!(part, Component::Normal(_))));
    let names: Vec<OsString> =
        fs::read_dir(layout.app_data(app))?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    Ok(names.iter().all(|name| first.is_some_and(|first| first.as_os_str() == name)))
}

/// Hands a directory over, itself and nothing in it; no link is followed.
fn hand_over(dir: &Path, number: u32) -> io::Result<()> {
    let dir = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(number), rustix::fs::Gid::from_raw(number));
    rustix::fs::fchown(&dir, Some(uid), Some(gid))?;
    rustix::fs::fchmod(&dir, Mode::RWXU)?;
    Ok(rustix::fs::fsync(&dir)?)
}

/// Returns whom a path belongs to, if there is something.
fn owner(path: &Path) -> io::Result<Option<(u32, u32)>> {
    match fs::metadata(path).or_else(|_| fs::symlink_metadata(path)) {
        Ok(found) => Ok(Some((found.uid(), found.gid()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns every user and group that something in a directory belongs to.
fn owners(dir: &Path) -> io::Result<BTreeSet<u32>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        found.extend(owner(&entry?.path())?.into_iter().flat_map(|(uid, gid)| [uid, gid]));
    }
    Ok(found)
}

fn path(layout: &Layout) -> PathBuf {
    layout.root.join("users.json")
}

fn read(layout: &Layout) -> io::Result<Option<Users>> {
    match fs::read(path(layout)) {
        Ok(bytes) => {
            let users: Users =
                serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Nobody becomes root by a line in a file that was edited by hand.
            match users.values().all(|number| NUMBERS.contains(number)) {
                true => Ok(Some(users)),
                false => Err(io::Error::new(io::ErrorKind::InvalidData, "it names a number that df does not give")),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the file, with nobody in it; one that is there, made a moment ago by another session, stays.
fn write_first(layout: &Layout) -> io::Result<()> {
    let mut pending = durable::Pending::beside(&layout.root)?;
    pending.file().write_all(b"{}")?;
    match pending.create(&path(layout), 0o644) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn write(layout: &Layout, users: &Users) -> io::Result<()> {
    durable::write(&path(layout), &serde_json::to_vec(users).expect("plain data"), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::layout::make_dir;

    fn app(name: &str) -> AppName {
        name.parse().expect("a name")
    }

    fn run(user: Option<&str>) -> RunSection {
        RunSection {
            exec: df_core::name::PathText::new("bin/a").expect("a path"),
            args: vec![],
            env: [].into(),
            env_file: None,
            user: user.map(str::to_owned),
            limits: Default::default(),
            ports: [].into(),
            exclusive: false,
            ready: std::time::Duration::from_secs(1),
            drain: std::time::Duration::from_secs(1),
            data_epoch: 1,
            prove: false,
            require_zero_loss: false,
        }
    }

    /// A node that gives users; none where we may hand nothing over.
    fn giving() -> Option<(tempfile::TempDir, Layout)> {
        let (dir, layout) = fixture::layout();
        write_first(&layout).expect("written");
        rustix::process::geteuid().is_root().then_some((dir, layout))
    }

    fn number_of(layout: &Layout, name: &str) -> Option<u32> {
        of(layout, &app(name)).expect("read").map(|ids| ids.uid)
    }

    /// Makes a generation of an application that runs so.
    fn ran(layout: &Layout, name: &str, run: RunSection) {
        let release = df_core::Release { run: Some(run), ..fixture::release(name, 1) };
        generation::create(layout, &release, 0, "test", df_core::Timestamp(0)).expect("made");
    }

    /// Makes the data of an application, of this owner.
    fn data_of(layout: &Layout, name: &str, owner: u32) -> PathBuf {
        let path = layout.app_data(&app(name));
        make_dir(&path).expect("made");
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("handed over");
        path
    }

    #[test]
    fn whoever_comes_new_gets_a_number_and_keeps_it() {
        let (_dir, layout) = fixture::layout();
        give(&layout, &app("early"), None).expect("nothing is given");
        assert_eq!(of(&layout, &app("early")).expect("read"), None, "not where the machine is not the node");
        write(&layout, &Users::new()).expect("written");
        ran(&layout, "old", run(None));
        for name in ["a", "old", "b", "a"] {
            give(&layout, &app(name), None).expect("given");
        }
        let of = |name: &str| of(&layout, &app(name)).expect("read").map(|ids| (ids.uid, ids.gid, ids.groups));
        let (first, second) = (of("a").expect("one"), of("b").expect("one"));
        assert!(first.0 == first.1 && first.2 == [first.0] && first.0 != second.0, "{first:?} {second:?}");
        assert_eq!(of("old"), None, "it goes on as who it was");
    }

    #[test]
    fn who_is_deployed_again_to_a_node_that_was_taken_away_gets_its_number_and_its_data_back() {
        let Some((_dir, layout)) = giving() else { return };
        data_of(&layout, "b", 60_580);
        for name in ["a", "b"] {
            give(&layout, &app(name), None).expect("given");
        }
        assert_eq!((number_of(&layout, "a"), number_of(&layout, "b")), (Some(60_578), Some(60_580)));
        // Whoever has a number that is another's by now says so.
        data_of(&layout, "c", 60_578);
        let refused = give(&layout, &app("c"), None).expect_err("two would have one number");
        assert!(refused.to_string().contains("chown -hR 60579:60579"), "{refused}");
    }

    #[test]
    fn a_number_that_data_or_tmp_still_belongs_to_goes_to_nobody_else() {
        let Some((_dir, layout)) = giving() else { return };
        data_of(&layout, "gone", 60_578);
        let tmp = layout.app_tmp(&app("gone-too"));
        make_dir(&tmp).expect("made");
        std::os::unix::fs::chown(&tmp, Some(0), Some(60_579)).expect("handed over");
        give(&layout, &app("a"), None).expect("given");
        assert_eq!(number_of(&layout, "a"), Some(60_580));
    }

    #[test]
    fn a_directory_that_root_made_for_the_variables_makes_no_program_root() {
        let Some((_dir, layout)) = giving() else { return };
        let path = data_of(&layout, "a", 0);
        fs::write(path.join("secrets.env"), "A=1\n").expect("written");
        let run = RunSection { env_file: Some("secrets.env".into()), ..run(None) };
        // Something else beside it may be data that the program has to write.
        fs::write(path.join("state"), "").expect("written");
        let refused = give(&layout, &app("a"), Some(&run)).expect_err("it would be of no use to it").to_string();
        let said = format!("{} belongs to 0:0", path.display());
        assert!(refused.starts_with(&said) && refused.contains("run.user") && refused.contains("root"), "{refused}");
        assert_eq!((owner(&path).expect("there"), number_of(&layout, "a")), (Some((0, 0)), None), "nothing was touched");
        fs::remove_file(path.join("state")).expect("removed");
        give(&layout, &app("a"), Some(&run)).expect("given");
        let number = number_of(&layout, "a").expect("one");
        assert_eq!(owner(&path).expect("there"), Some((number, number)));
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        assert_eq!(owner(&path.join("secrets.env")).expect("there"), Some((0, 0)), "only df-node reads it");
    }

    #[test]
    fn a_link_that_leads_to_a_directory_of_root_is_not_handed_over() {
        let Some((dir, layout)) = giving() else { return };
        let elsewhere = dir.path().join("elsewhere");
        make_dir(&elsewhere).expect("made");
        std::os::unix::fs::symlink(&elsewhere, layout.app_data(&app("a"))).expect("linked");
        assert!(give(&layout, &app("a"), None).is_err());
        assert_eq!(owner(&elsewhere).expect("there"), Some((0, 0)));
    }

    #[test]
    fn leaving_user_out_makes_nobody_root() {
        let Some((_dir, layout)) = giving() else { return };
        for (name, user, owner) in [("a", "1000", 1000), ("b", "root", 0)] {
            ran(&layout, name, run(Some(user)));
            data_of(&layout, name, owner);
            assert!(matches!(give(&layout, &app(name), None), Err(GiveError::Others { number: 60_578, .. })), "{name}");
        }
        // What the words say is done.
        data_of(&layout, "a", 60_578);
        give(&layout, &app("a"), None).expect("given");
        assert_eq!(number_of(&layout, "a"), Some(60_578));
        // The same where it had a number before it had a name.
        data_of(&layout, "a", 1000);
        assert!(matches!(give(&layout, &app("a"), None), Err(GiveError::Others { uid: 1000, number: 60_578, .. })));
    }

    #[test]
    fn who_served_as_root_before_there_were_users_goes_on_so_whoever_failed_since() {
        let (_dir, layout) = fixture::layout();
        write_first(&layout).expect("written");
        ran(&layout, "old", run(None));
        generation::set_current(&layout, &app("old"), 1).expect("set");
        ran(&layout, "old", run(Some("1000")));
        make_dir(&layout.app_data(&app("old"))).expect("made");
        give(&layout, &app("old"), None).expect("it goes on");
        assert_eq!(number_of(&layout, "old"), None);
        generation::set_current(&layout, &app("old"), 2).expect("set");
        assert!(give(&layout, &app("old"), None).is_err());
    }

    #[test]
    fn only_where_the_machine_is_the_node_and_we_are_root_are_users_given() {
        let (_dir, layout) = fixture::layout();
        begin(&layout).expect("nothing to do");
        assert!(!path(&layout).exists());
        let machine = Layout { is_machine: true, ..layout };
        begin(&machine).expect("begun");
        let may = rustix::process::geteuid().is_root() && launch::is_mapped(&NUMBERS).expect("read");
        assert_eq!(path(&machine).exists(), may);
    }

    /// Set where the test binary runs itself in a namespace: the node.
    const INSIDE: &str = "DF_TEST_ROOT_OF_A_NAMESPACE";

    #[test]
    fn root_of_a_namespace_that_does_not_have_the_numbers_gives_none() {
        if let Some(root) = std::env::var_os(INSIDE) {
            let beside = |name: &str| Path::new(&root).join(name);
            let layout = Layout { root: root.clone().into(), data: beside("data"), tmp: beside("tmp"), is_machine: true };
            assert!(rustix::process::geteuid().is_root());
            return begin(&layout).expect("begun");
        }
        let (dir, name) = (
            tempfile::tempdir().expect("a directory"),
            "users::tests::root_of_a_namespace_that_does_not_have_the_numbers_gives_none",
        );
        if !std::process::Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success()) {
            return eprintln!("this machine lets us make no namespace of users");
        }
        let program = std::env::current_exe().expect("this test");
        let mut unshare = std::process::Command::new("unshare");
        let output = unshare.arg("-Ur").arg(program).args(["--exact", name]).env(INSIDE, dir.path()).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!dir.path().join("users.json").exists(), "nobody could become one of the numbers");
    }

    #[test]
    fn a_session_that_begins_late_takes_nobody_its_number() {
        let (_dir, layout) = fixture::layout();
        write_first(&layout).expect("written");
        give(&layout, &app("a"), None).expect("given");
        let before = number_of(&layout, "a");
        // It had not seen the file.
        write_first(&layout).expect("nothing to do");
        assert!(before.is_some() && number_of(&layout, "a") == before);
        let names: Vec<_> = fs::read_dir(&layout.root).expect("read").map(|entry| entry.expect("one").file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().starts_with('.')), "{names:?}");
    }

    #[test]
    fn no_number_is_given_twice_or_to_who_has_a_login() {
        let mut taken = BTreeSet::from([60_578, 60_580]);
        for _ in 0..NUMBERS.count() - 2 {
            let number = free(&taken).expect("one is left");
            assert!(taken.insert(number));
        }
        assert_eq!(free(&taken), None);
    }

    #[test]
    fn what_makes_no_sense_starts_nothing() {
        let (_dir, layout) = fixture::layout();
        for text in ["", "{", "[]", r#"{"a":0}"#, r#"{"a":1000}"#, r#"{"a":-1}"#, r#"{"../a":60578}"#] {
            fs::write(path(&layout), text).expect("written");
            assert!(of(&layout, &app("a")).is_err() && give(&layout, &app("b"), None).is_err(), "{text}");
        }
    }
}
