//! A user of its own for each application: which number is whose.
//!
//! # Format, `ROOT/users.json`
//!
//! One JSON object of names of applications and their numbers, `{"greeter":60578}`: user and group alike. It is there where the machine is the node and df-node is root, made empty by
//! the first session; where it is not, programs run as whoever df-node is. A number is given once, when an application comes that has nothing on the node yet, and never to
//! another: what it wrote in its data stays its own. Applications that were there before keep the user that they had. Written durably, before the first process has the number.
//!
//! The numbers lie where neither distributions nor systemd give any (60578 to 61183, "unused" in systemd's table of them), and no line of /etc/passwd or /etc/group may have one. They
//! need none: a program is given its numbers, not a login.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Mutex;

use df_cache::durable;
use df_core::AppName;

use crate::launch::{self, Ids};
use crate::layout::Layout;

/// What is given.
const NUMBERS: RangeInclusive<u32> = 60_578..=61_183;

/// One application after the other gets its number.
static GIVING: Mutex<()> = Mutex::new(());

type Users = BTreeMap<AppName, u32>;

/// Lets every application that comes from now on have a user of its own, where we may give one.
///
/// # Errors
/// That cannot be written down.
pub fn begin(layout: &Layout) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if !(layout.is_machine && is_root) || path(layout).exists() {
        return Ok(());
    }
    write(layout, &Users::new())
}

/// Gives an application that has nothing on the node yet a user of its own, where applications have one.
///
/// # Errors
/// All numbers are given, or what is given cannot be read or written: nothing may start then, since it could get another's.
pub fn give(layout: &Layout, app: &AppName) -> io::Result<()> {
    let _giving = GIVING.lock().expect("nobody panics with this lock");
    let Some(mut users) = read(layout)? else { return Ok(()) };
    let is_known = [layout.generations(app), layout.app_data(app)].iter().any(|path| path.exists());
    if is_known || users.contains_key(app) {
        return Ok(());
    }
    let taken = launch::numbers().map_err(io::Error::other)?;
    let number = free(&users, &taken).ok_or_else(|| io::Error::other("all numbers of users are given"))?;
    users.insert(app.clone(), number);
    write(layout, &users)
}

/// Returns the user that an application has of its own, if it has one.
///
/// # Errors
/// It cannot be read.
pub fn of(layout: &Layout, app: &AppName) -> io::Result<Option<Ids>> {
    let number = read(layout)?.and_then(|users| users.get(app).copied());
    Ok(number.map(|number| Ids { uid: number, gid: number, groups: vec![number] }))
}

/// Returns the lowest number that nobody has.
fn free(users: &Users, taken: &BTreeSet<u32>) -> Option<u32> {
    let given: BTreeSet<u32> = users.values().copied().collect();
    NUMBERS.into_iter().find(|number| !given.contains(number) && !taken.contains(number))
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

fn write(layout: &Layout, users: &Users) -> io::Result<()> {
    durable::write(&path(layout), &serde_json::to_vec(users).expect("plain data"), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().expect("a name")
    }

    #[test]
    fn whoever_comes_new_gets_a_number_and_keeps_it() {
        let (_dir, layout) = crate::fixture::layout();
        give(&layout, &app("early")).expect("nothing is given");
        assert_eq!(of(&layout, &app("early")).expect("read"), None, "not where the machine is not the node");
        write(&layout, &Users::new()).expect("written");
        crate::layout::make_dir(&layout.app_data(&app("old"))).expect("made");
        for name in ["a", "old", "b", "a"] {
            give(&layout, &app(name)).expect("given");
        }
        let of = |name: &str| of(&layout, &app(name)).expect("read").map(|ids| (ids.uid, ids.gid, ids.groups));
        let (first, second) = (of("a").expect("one"), of("b").expect("one"));
        assert!(first.0 == first.1 && first.2 == [first.0] && first.0 != second.0, "{first:?} {second:?}");
        assert_eq!(of("old"), None, "it goes on as who it was");
        // Its data is there by now.
        crate::layout::make_dir(&layout.app_data(&app("a"))).expect("made");
        give(&layout, &app("a")).expect("kept");
        assert_eq!(of("a"), Some(first));
    }

    #[test]
    fn only_where_the_machine_is_the_node_and_we_are_root_are_users_given() {
        let (_dir, layout) = crate::fixture::layout();
        crate::layout::make_dir(&layout.root).expect("made");
        begin(&layout).expect("nothing to do");
        assert!(!path(&layout).exists());
        let machine = Layout { is_machine: true, ..layout };
        begin(&machine).expect("begun");
        assert_eq!(path(&machine).exists(), rustix::process::geteuid().is_root());
        // A second session takes nothing back.
        give(&machine, &app("a")).expect("given");
        let before = of(&machine, &app("a")).expect("read");
        begin(&machine).expect("begun");
        assert_eq!(of(&machine, &app("a")).expect("read"), before);
    }

    #[test]
    fn no_number_is_given_twice_or_to_who_has_a_login() {
        let taken = BTreeSet::from([60_578, 60_580]);
        let mut users = Users::new();
        for n in 0..NUMBERS.count() - 2 {
            let number = free(&users, &taken).expect("one is left");
            assert!(!taken.contains(&number) && !users.values().any(|given| *given == number));
            users.insert(app(&format!("a{n}")), number);
        }
        assert_eq!(free(&users, &taken), None);
    }

    #[test]
    fn what_makes_no_sense_starts_nothing() {
        let (_dir, layout) = crate::fixture::layout();
        crate::layout::make_dir(&layout.root).expect("made");
        for text in ["", "{", "[]", r#"{"a":0}"#, r#"{"a":1000}"#, r#"{"a":-1}"#, r#"{"../a":60578}"#] {
            fs::write(path(&layout), text).expect("written");
            assert!(of(&layout, &app("a")).is_err() && give(&layout, &app("b")).is_err(), "{text}");
        }
    }
}
