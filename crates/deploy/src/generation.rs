//! Generations: the numbered slots of an application, each holding one release.
//!
//! A generation's directory appears by one rename, complete and synced. `record.json` (format 1) holds the whole release, so that going back needs
//! nothing but the node. Numbers only grow: the highest ever given is kept in `sequence`, also when its generation was collected.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use df_cache::durable;
use df_core::{AppName, Release, Timestamp};
use df_wire::message::{Generation, GenerationResult};
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, make_dir};

/// What a generation's record is called in its directory.
const RECORD: &str = "record.json";
/// Where the highest number is that was given.
const SEQUENCE: &str = "sequence";

/// What is known of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// What it holds.
    pub release: Release,
    /// The generation that served before it; 0: none.
    pub from: u64,
    /// Who asked for it.
    pub who: String,
    /// When it was made.
    pub since: Timestamp,
    /// How it went.
    pub result: GenerationResult,
    /// Why, when it went badly.
    pub why: String,
    /// Whether its program said READY=1: it will again, so it is waited for.
    pub says_ready: bool,
}

/// What `record.json` holds.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    number: u64,
    /// The canonical bytes, as text.
    release: String,
    from: u64,
    who: String,
    since: Timestamp,
    result: GenerationResult,
    #[serde(default)]
    why: String,
    /// Not in records of before, and not read by programs of before: nobody waits then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    says_ready: bool,
}

/// A record cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RecordError {
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a record of a generation: move its directory away", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} holds a release that cannot be read: move its directory away", path.display())]
    Release {
        path: PathBuf,
        #[source]
        source: df_core::release::ReleaseError,
    },
    #[error("{} has format {format}, this program knows 1", path.display())]
    Format { path: PathBuf, format: u32 },
    #[error("{} is not a link to a generation: move it away, then deploy or roll back", path.display())]
    Current { path: PathBuf },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io { path: path.to_owned(), source }
}

impl Record {
    /// Returns what the operator is told.
    pub fn to_wire(&self) -> Generation {
        Generation {
            number: self.number,
            release: self.release.id(),
            commit: self.release.commit.clone(),
            image: self.release.image,
            since: self.since,
            result: self.result,
            data_epoch: self.release.data_epoch(),
        }
    }
}

/// Returns the applications that a node knows, by name.
///
/// # Errors
/// The directory cannot be read.
pub fn apps(layout: &Layout) -> Result<Vec<AppName>, RecordError> {
    let dir = layout.apps();
    let mut apps: Vec<AppName> = names(&dir)?.iter().filter_map(|name| name.parse().ok()).collect();
    apps.sort();
    Ok(apps)
}

/// Returns the generations of an application, oldest first.
///
/// # Errors
/// A record cannot be read: nothing is guessed from half of the records.
pub fn list(layout: &Layout, app: &AppName) -> Result<Vec<Record>, RecordError> {
    let mut numbers: Vec<u64> = names(&layout.generations(app))?.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| read(layout, app, number)).collect()
}

/// Reads one record.
///
/// # Errors
/// It is not there, or is not a record.
pub fn read(layout: &Layout, app: &AppName, number: u64) -> Result<Record, RecordError> {
    let path = layout.generation(app, number).join(RECORD);
    let bytes = fs::read(&path).map_err(at(&path))?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|source| RecordError::Json { path: path.clone(), source })?;
    if stored.format != 1 {
        return Err(RecordError::Format { path, format: stored.format });
    }
    let release = Release::decode(stored.release.as_bytes()).map_err(|source| RecordError::Release { path, source })?;
    Ok(Record {
        number,
        release,
        from: stored.from,
        who: stored.who,
        since: stored.since,
        result: stored.result,
        why: stored.why,
        says_ready: stored.says_ready,
    })
}

/// Makes the next generation of an application, with result unknown.
///
/// After a crash midway there is no such generation, and its number is not given again.
///
/// # Errors
/// It cannot be written.
pub fn create(layout: &Layout, release: &Release, from: u64, who: &str, now: Timestamp) -> Result<Record, RecordError> {
    let generations = layout.generations(&release.app);
    make_dir(&generations).map_err(at(&generations))?;
    let number = next_number(layout, &release.app)?;
    let record = Record {
        number,
        release: release.clone(),
        from,
        who: who.to_owned(),
        since: now,
        result: GenerationResult::Unknown,
        why: String::new(),
        says_ready: false,
    };
    let path = layout.generation(&release.app, number);
    make(layout, &record, &path).map_err(at(&path))?;
    Ok(record)
}

/// Makes a generation's directory, and notes that its number is given: all that has no name yet is synced in one round, then all names.
fn make(layout: &Layout, record: &Record, path: &Path) -> io::Result<()> {
    let (app, generations) = (layout.app(&record.release.app), layout.generations(&record.release.app));
    let mut sequence = durable::Pending::beside(&app)?;
    sequence.file().write_all(record.number.to_string().as_bytes())?;
    let temporary = generations.join(format!(".{}", record.number));
    DirBuilder::new().mode(0o755).create(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink(format!("../../../../store/{}", record.release.image), temporary.join("image"))?;
    let mut file = File::create_new(temporary.join(RECORD))?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(&encode(record))?;
    let syncs: [&(dyn Fn() -> io::Result<()> + Sync); 3] =
        [&|| sequence.sync(0o644), &|| file.sync_all(), &|| durable::sync_dir(&temporary)];
    durable::at_once(&syncs, |sync| sync())?;
    sequence.rename_unsynced(&app.join(SEQUENCE))?;
    fs::rename(&temporary, path)?;
    durable::at_once(&[app, generations], |directory| durable::sync_dir(directory))
}

/// Writes down how a generation went.
///
/// # Errors
/// It cannot be read or written.
pub fn set_result(layout: &Layout, app: &AppName, number: u64, result: GenerationResult, why: &str) -> Result<(), RecordError> {
    let record = Record { result, why: why.to_owned(), ..read(layout, app, number)? };
    write(&layout.generation(app, number), &record)
}

/// Writes down how a generation went, and whether its program said READY=1 on the way.
///
/// # Errors
/// It cannot be read or written.
pub fn conclude(
    layout: &Layout,
    app: &AppName,
    number: u64,
    (result, why): (GenerationResult, &str),
    said_ready: bool,
) -> Result<(), RecordError> {
    let record = read(layout, app, number)?;
    let says_ready = record.says_ready || said_ready;
    write(&layout.generation(app, number), &Record { result, why: why.to_owned(), says_ready, ..record })
}

/// Writes down that a generation's program says READY=1; nothing is written where that is known.
///
/// # Errors
/// It cannot be read or written.
pub fn set_says_ready(layout: &Layout, app: &AppName, number: u64) -> Result<(), RecordError> {
    let record = read(layout, app, number)?;
    if record.says_ready {
        return Ok(());
    }
    write(&layout.generation(app, number), &Record { says_ready: true, ..record })
}

/// Returns where a rollback goes that names nothing: the newest good generation before the current one that holds another release. After a restart
/// the one just before holds the same release, and going there would change nothing.
pub fn previous(records: &[Record], current: u64) -> Option<&Record> {
    let serves = records.iter().find(|record| record.number == current).map(|record| &record.release);
    let is_good = |record: &&Record| record.number < current && record.result == GenerationResult::Good;
    records.iter().rev().filter(is_good).find(|record| Some(&record.release) != serves)
}

/// Returns the generation that `current` names; 0 when there is none.
///
/// # Errors
/// `current` is something else than a link to a generation: nobody guesses what serves.
pub fn current(layout: &Layout, app: &AppName) -> Result<u64, RecordError> {
    let path = layout.current(app);
    let target = match fs::read_link(&path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) if source.kind() == io::ErrorKind::InvalidInput => return Err(RecordError::Current { path }),
        Err(source) => return Err(RecordError::Io { path, source }),
    };
    let named = target.to_str().and_then(|text| text.strip_prefix("generations/")?.strip_suffix("/image"));
    named.and_then(number).ok_or(RecordError::Current { path })
}

/// Makes a generation the current one: one rename, then the directory is synced. At every moment `current` names the old or the new.
///
/// # Errors
/// The link cannot be made or renamed. After an error of the last sync the new one is current but may not survive a power cut.
pub fn set_current(layout: &Layout, app: &AppName, number: u64) -> Result<(), RecordError> {
    let (dir, path) = (layout.app(app), layout.current(app));
    let temporary = dir.join(".current");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&temporary)(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(format!("generations/{number}/image"), &temporary).map_err(at(&temporary))?;
    durable::rename(&temporary, &path).map_err(at(&path))
}

/// Takes `current` away: nothing serves any more.
///
/// # Errors
/// The link cannot be removed.
pub fn clear_current(layout: &Layout, app: &AppName) -> Result<(), RecordError> {
    let path = layout.current(app);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
        _ => {}
    }
    durable::sync_dir(&layout.app(app)).map_err(at(&path))
}

fn write(dir: &Path, record: &Record) -> Result<(), RecordError> {
    let path = dir.join(RECORD);
    durable::write(&path, &encode(record), 0o644).map_err(at(&path))
}

fn encode(record: &Record) -> Vec<u8> {
    let stored = Stored {
        format: 1,
        number: record.number,
        release: String::from_utf8(record.release.encode()).expect("JSON is UTF-8"),
        from: record.from,
        who: record.who.clone(),
        since: record.since,
        result: record.result,
        why: record.why.clone(),
        says_ready: record.says_ready,
    };
    serde_json::to_vec(&stored).expect("a record is plain data")
}

fn next_number(layout: &Layout, app: &AppName) -> Result<u64, RecordError> {
    let path = layout.app(app).join(SEQUENCE);
    let given = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(at(&path)(error)),
    };
    // Both are looked at: a sequence that was lost or damaged must not give a number twice.
    let used = names(&layout.generations(app))?.iter().filter_map(|name| number(name.trim_start_matches('.'))).max();
    Ok(used.unwrap_or(0).max(given) + 1)
}

/// Reads a generation's number as it is written in a name: decimal, no sign, no leading zero.
fn number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number > 0 && number.to_string() == name).then_some(number)
}

fn names(dir: &Path) -> Result<Vec<String>, RecordError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(at(dir)(error)),
    };
    entries.map(|entry| Ok(entry.map_err(at(dir))?.file_name().into_string().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn generations_are_numbered_and_numbers_never_come_back() {
        let (_dir, layout) = fixture::layout();
        let release = fixture::release("greeter", 1);
        for expected in 1..=3 {
            assert_eq!(create(&layout, &release, 0, "me", Timestamp(5)).expect("made").number, expected);
        }
        fs::remove_dir_all(layout.generation(&release.app, 3)).expect("removed");
        assert_eq!(create(&layout, &release, 0, "me", Timestamp(5)).expect("made").number, 4);
        fs::write(layout.app(&release.app).join("sequence"), "torn").expect("written");
        assert_eq!(create(&layout, &release, 0, "me", Timestamp(5)).expect("made").number, 5);
        let listed = list(&layout, &release.app).expect("read");
        assert_eq!(listed.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(listed[0].release, release);
        assert_eq!(apps(&layout).expect("read"), [release.app]);
    }

    #[test]
    fn current_moves_and_what_is_no_link_to_a_generation_is_refused() {
        let (_dir, layout) = fixture::layout();
        let release = fixture::release("greeter", 1);
        let app = &release.app;
        assert_eq!(current(&layout, app).expect("none yet"), 0);
        for _ in 0..2 {
            create(&layout, &release, 0, "me", Timestamp(5)).expect("made");
        }
        for number in [1, 2, 1] {
            set_current(&layout, app, number).expect("moved");
            assert_eq!(current(&layout, app).expect("read"), number);
        }
        clear_current(&layout, app).expect("cleared");
        assert_eq!(current(&layout, app).expect("none"), 0);
        for target in ["generations/0/image", "generations/01/image", "../other", "generations/1"] {
            std::os::unix::fs::symlink(target, layout.current(app)).expect("planted");
            assert!(current(&layout, app).is_err(), "{target}");
            fs::remove_file(layout.current(app)).expect("removed");
        }
        fs::write(layout.current(app), "").expect("planted");
        assert!(current(&layout, app).is_err(), "a file");
    }

    #[test]
    fn results_are_written_down() {
        let (_dir, layout) = fixture::layout();
        let release = fixture::release("greeter", 1);
        create(&layout, &release, 0, "me", Timestamp(5)).expect("made");
        set_result(&layout, &release.app, 1, GenerationResult::Bad, "it ended").expect("written");
        let record = read(&layout, &release.app, 1).expect("read");
        assert_eq!((record.result, record.why.as_str()), (GenerationResult::Bad, "it ended"));
    }

    #[test]
    fn that_a_program_says_ready_is_kept_and_read_from_records_of_before() {
        let (_dir, layout) = fixture::layout();
        let release = fixture::release("greeter", 1);
        create(&layout, &release, 0, "me", Timestamp(5)).expect("made");
        let says = || read(&layout, &release.app, 1).expect("read").says_ready;
        let text = || fs::read_to_string(layout.generation(&release.app, 1).join(RECORD)).expect("read");
        // What says nothing is as it was before.
        assert!(!says() && !text().contains("says_ready"));
        set_says_ready(&layout, &release.app, 1).expect("written");
        conclude(&layout, &release.app, 1, (GenerationResult::Good, ""), false).expect("written");
        set_result(&layout, &release.app, 1, GenerationResult::Unknown, "taken back").expect("written");
        assert!(says());
    }
}
