//! Deltas made ahead: what the next copy will want is made while nobody waits for it.
//!
//! What nodes were last seen to hold is on record ([`df_fleet::Seen`]), so nobody has to be asked. After `df build` a child of df makes the deltas to that: the
//! command itself ends at once, and a thread would end with it. The child has a session of its own, the lowest priority and no stream of ours, so that no
//! terminal and no pipe waits for it; one at a time works for all of a machine's user, at most one more waits for each df.yaml, and it ends by itself.
//! `DF_NO_BACKGROUND=1` turns it off. `df cp` and `df deploy` go on for a while anyway: there a thread makes the likeliest delta while connections are opened.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use df_core::{AppName, ImageId, Release};
use df_fleet::message::Survey;
use df_fleet::{Address, Deltas, Images as _, Level, Seen, Wish, choice::Link};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Session, now};
use crate::store::Shelf;

/// The word that df calls itself by.
const WORD: &str = "__prepare";
/// Set, it turns the child off.
const OFF: &str = "DF_NO_BACKGROUND";
/// How long the child may live, whatever it is at.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Deltas that are made ahead at most, to the bases of most nodes.
const N_BASES: usize = 4;
/// Bytes of new files beyond which nothing is made ahead.
const AHEAD_LEN: u64 = 4 << 30;
/// The same for the level that takes ten times as long.
const SMALL_LEN: u64 = 256 << 20;

/// Bytes a second below which a small delta is done sooner than a fast one: above that its unpacking takes longer than what it saves on the line.
const SLOW_LINE: f64 = 100e3;

/// What was learnt of a node by a copy.
pub struct Sight {
    /// Where it is.
    pub address: Address,
    /// What it said it holds; `None`: just what was brought.
    pub survey: Option<Survey>,
    /// The image that it holds now besides.
    pub brought: Option<ImageId>,
    /// How its line was, when enough was sent to tell.
    pub link: Option<Link>,
}

/// Has the deltas made that the next copy of a release will want, by a child that nobody waits for.
pub fn in_background(session: &Session, shelf: &Shelf, release: &Release) {
    if session.is_dry_run() || std::env::var_os(OFF).is_some_and(|off| !off.is_empty() && off != "0") {
        return;
    }
    let levels = levels(session);
    let lacks_one =
        |base: &ImageId| levels.iter().any(|(level, _)| shelf.kept(Some(*base), release.image, *level, None).is_none());
    if held(session, release.image).iter().flatten().any(|base| shelf.holds(*base) && lacks_one(base)) {
        // Who cannot have it copies a little later; that is all.
        let _ = spawn(session);
    }
}

/// Makes the deltas to the newest release here: what the child does.
///
/// # Errors
/// There is nothing to work with; nobody hears of it.
pub fn run(session: &Session) -> Result<Exit, Failure> {
    std::thread::spawn(|| {
        std::thread::sleep(LIFETIME);
        std::process::exit(i32::from(Exit::Done as u8));
    });
    // So that no file system stays busy for us.
    let _ = std::env::set_current_dir("/");
    let Some(waiting) = soon(&session.state.join("preparing")) else { return Ok(Exit::Done) };
    let Some(_turn) = claim(&session.cache_dir().join("preparing"), true) else { return Ok(Exit::Done) };
    let shelf = Shelf::open(session)?;
    let Some(newest) = shelf.releases(session.app())?.pop() else { return Ok(Exit::Done) };
    drop(waiting);
    let image = newest.release.image;
    let Ok(deltas) = Deltas::to(Arc::new(shelf.clone()), image) else { return Ok(Exit::Done) };
    let bases = wanted(session, &deltas);
    for (level, most) in levels(session) {
        for &(base, len) in bases.iter().filter(|(_, len)| *len <= most) {
            if is_overtaken(session) {
                return Ok(Exit::Done);
            }
            if len > 0 && shelf.kept(Some(base), image, level, None).is_none() {
                let _ = session.call.block_on(deltas.patch(Some(base), level, None));
            }
        }
    }
    Ok(Exit::Done)
}

/// Returns the levels at which a delta may be wanted, and how many new bytes each is worth making ahead for.
fn levels(session: &Session) -> Vec<(Level, u64)> {
    let seen = Seen::load(&session.state);
    let nodes = session.nodes().unwrap_or_default();
    let is_slow = nodes.iter().any(|node| seen.link(&node.address).bytes_per_second < SLOW_LINE);
    [Some((Level::Fast, AHEAD_LEN)), is_slow.then_some((Level::Small, SMALL_LEN))].into_iter().flatten().collect()
}

/// Begins to make the delta that most nodes will probably want, while this command goes on.
pub fn meanwhile(session: &Session, seen: &Seen, deltas: &Arc<Deltas>, wish: &Wish) {
    if wish.full || session.is_dry_run() {
        return;
    }
    let Ok(nodes) = session.nodes() else { return };
    let wants = nodes.iter().find_map(|node| {
        let images = seen.node(&node.address)?.apps.get(session.app())?;
        if images.contains(&deltas.image()) {
            return None;
        }
        deltas.foresee(images, deltas.line(&node.address, seen.link(&node.address)), *wish)
    });
    let Some(wants) = wants else { return };
    let (deltas, runtime) = (deltas.clone(), session.call.runtime.handle().clone());
    // A thread of its own: the runtime would wait for one of its own at the end, though nobody may want the delta then.
    std::thread::spawn(move || {
        let _ = runtime.block_on(deltas.make(&wants));
    });
}

/// Remembers what was learnt of nodes; what cannot be written is not.
pub fn remember(session: &Session, sights: &[Sight]) {
    if sights.is_empty() || session.is_dry_run() {
        return;
    }
    let (app, now): (&AppName, _) = (session.app(), now());
    let written = Seen::edit(&session.state, |seen| {
        for Sight { address, survey, brought, link } in sights {
            seen.note(address, survey.as_ref(), app, *brought, now);
            if let Some(link) = link {
                seen.measured(address, *link, now);
            }
        }
    });
    if written.is_ok() {
        session.hide_state();
    }
}

/// Returns what each node of the context holds of the application that is no image but the given one; nothing of nodes that hold that already.
fn held(session: &Session, image: ImageId) -> Vec<Vec<ImageId>> {
    let seen = Seen::load(&session.state);
    let nodes = session.nodes().unwrap_or_default();
    let images = nodes.iter().filter_map(|node| seen.node(&node.address)?.apps.get(session.app()).cloned());
    images.filter(|images| !images.contains(&image)).collect()
}

/// Returns the bases whose deltas are worth making, those of most nodes first, and how many bytes are new against each.
fn wanted(session: &Session, deltas: &Deltas) -> Vec<(ImageId, u64)> {
    let mut counted: Vec<(usize, (ImageId, u64))> = vec![];
    for base in held(session, deltas.image()).iter().filter_map(|images| deltas.nearest(images)) {
        match counted.iter_mut().find(|(_, known)| *known == base) {
            Some((n_nodes, _)) => *n_nodes += 1,
            None => counted.push((1, base)),
        }
    }
    counted.sort_by_key(|(n_nodes, _)| std::cmp::Reverse(*n_nodes));
    counted.into_iter().map(|(_, base)| base).take(N_BASES).collect()
}

/// Returns whether a newer build of the same df.yaml waits for its turn.
fn is_overtaken(session: &Session) -> bool {
    claim(&session.state.join("preparing"), false).is_none()
}

/// Takes a lock that somebody may hold for a moment, to see whether it is free.
fn soon(path: &Path) -> Option<File> {
    (0..5).find_map(|_| {
        claim(path, false).or_else(|| {
            std::thread::sleep(Duration::from_millis(20));
            None
        })
    })
}

/// Takes a lock; `None` when it cannot be had, or without `patiently` when somebody holds it.
fn claim(path: &Path, patiently: bool) -> Option<File> {
    let file = OpenOptions::new().create(true).append(true).open(path).ok()?;
    if patiently {
        file.lock().ok()?
    } else {
        file.try_lock().ok()?
    }
    Some(file)
}

fn spawn(session: &Session) -> std::io::Result<()> {
    let globals = &session.call.globals;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("df");
    let flag = |name: &str, value: &OsStr| [name.into(), value.to_owned()];
    // The current directory is ours.
    command.args(globals.config.iter().flat_map(|file| flag("--config", file.as_os_str())));
    command.args(globals.state.iter().flat_map(|dir| flag("--state", dir.as_os_str())));
    command.args(globals.address.iter().flat_map(|node| flag("--address", node.as_ref())));
    command.arg(WORD).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            let _ = rustix::process::nice(19);
            // Whatever df itself was started with, a pipe or a lock, is not for the child; what exec needs stays open until then.
            libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed());
            Ok(())
        });
    }
    // It outlives us, or ends before we do: who takes us in waits for it.
    command.spawn().map(drop)
}
