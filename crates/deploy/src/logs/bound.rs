//! A log stays within a size while its program writes to it.
//!
//! A program holds its log open at descriptors that nobody else can change any more: a log that gets another name is written to on, under that name. So it stays the file that it is, and the
//! front is taken away from it, in pieces of [`PIECE`], when there are more than two of them. The last piece and more of what was written is always there, at most two pieces and what is
//! written between two looks.
//!
//! - [`Way::Collapse`] (ext4, XFS, f2fs): the piece is gone and the file shorter. For whoever appends that happens at once, between two writes, so nothing is lost.
//! - [`Way::Punch`] (btrfs, tmpfs, NFS 4.2 and the ones above): the piece takes no room and reads as zeros, and the file is as long as before. Nothing is lost here either.
//! - [`Way::Empty`], anywhere: the end is copied to `<n>.log.1` and the file emptied. What is written between the last byte that is read and that call is lost, and a line in the log says
//!   that it may be.
//!
//! Syncing comes before the first: else the file system does that while whoever writes waits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// In pieces of this length the front of a log is taken away. A multiple of the blocks of every file system, which is what they ask for.
pub const PIECE: u64 = 16 << 20;
/// A log that was emptied is put aside as far as this goes: a program that writes faster than we read has no end.
const ASIDE: u64 = 4 * PIECE;

/// How the front of a log is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Collapse,
    Punch,
    Empty,
}

/// The ways, the best first.
const WAYS: [Way; 3] = [Way::Collapse, Way::Punch, Way::Empty];

/// What a file system says that does not know a way, or not for this file, or has no room left for what it would have to note.
const NOT_SO: [Errno; 4] = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::NOSPC];

/// Takes the front of a log away if it has become too long; one that does not exist is not.
///
/// # Errors
/// The log cannot be read or changed; whatever is in it is still there.
pub fn bound(path: &Path) -> io::Result<()> {
    bound_by(path, &WAYS).map(|_way| ())
}

/// Returns where the end of a log lies that was put aside.
pub fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Returns where the first byte that is there lies, at a place or behind it; the place itself, if that cannot be told or none follows.
pub fn data_from(file: &File, at: u64) -> u64 {
    rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)).unwrap_or(at)
}

fn bound_by(path: &Path, ways: &[Way]) -> io::Result<Option<Way>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Nearly always the answer, without opening anything.
    if surplus(metadata.len(), 0, metadata.blocks() * 512) == 0 {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    let (len, first) = (metadata.len(), data_from(&file, 0));
    let surplus = surplus(len, first, metadata.blocks() * 512);
    if surplus == 0 {
        return Ok(None);
    }
    for way in ways {
        match take_away(&file, path, surplus, *way) {
            Ok(()) => return Ok(Some(*way)),
            Err(error) if Errno::from_io_error(&error).is_some_and(|errno| NOT_SO.contains(&errno)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Decides how much of the front of a log goes, counted from its beginning: of `len` bytes, the first `first` of them a hole, that take `allocated` on the disk.
///
/// What is allocated can be more (room for what comes) or less (a program that wrote at a place of its own behind the end) than there is to read; the smaller one counts.
fn surplus(len: u64, first: u64, allocated: u64) -> u64 {
    let there = len.saturating_sub(first).min(allocated);
    if there > 2 * PIECE { (len - PIECE) / PIECE * PIECE } else { 0 }
}

fn take_away(file: &File, path: &Path, surplus: u64, way: Way) -> io::Result<()> {
    match way {
        Way::Collapse => {
            let _ = file.sync_data();
            fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, surplus)?;
        }
        Way::Punch => fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, surplus)?,
        Way::Empty => return empty(file, path, surplus),
    }
    // What was put aside earlier does not go on in the log any more.
    match fs::remove_file(aside(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn empty(mut file: &File, path: &Path, surplus: u64) -> io::Result<()> {
    let mut copy = File::create(aside(path))?;
    file.seek(SeekFrom::Start(surplus))?;
    io::copy(&mut file.take(ASIDE), &mut copy)?;
    file.set_len(0)?;
    writeln!(
        file,
        "df-node: the log was put aside here; its file system cannot do that without losing what was written just then"
    )
}

#[cfg(test)]
mod tests {
    use super::super::Log;
    use super::*;

    fn program(path: &Path) -> File {
        OpenOptions::new().create(true).append(true).open(path).expect("opened")
    }

    /// Writes numbered lines of 64 bytes until there are so many bytes.
    fn say(mut log: &File, from: u64, len: u64) -> u64 {
        let lines: Vec<String> = (from..from + len / 64).map(|n| format!("{n:063}\n")).collect();
        log.write_all(lines.concat().as_bytes()).expect("written");
        from + len / 64
    }

    #[test]
    fn a_log_is_cut_in_pieces_when_there_are_more_than_two() {
        for (len, first, allocated, expected) in [
            (0, 0, 0, 0),
            (2 * PIECE, 0, 2 * PIECE, 0),
            (2 * PIECE + 1, 0, 3 * PIECE, PIECE),
            (100 * PIECE + 5, 0, 101 * PIECE, 99 * PIECE),
            // Pieces that were punched out count no more.
            (100 * PIECE, 98 * PIECE, 100 * PIECE, 0),
            (100 * PIECE + 1, 98 * PIECE, 3 * PIECE, 99 * PIECE),
            // XFS allocates more than is written, and a hole takes nothing.
            (PIECE, 0, 3 * PIECE, 0),
            (100 * PIECE, 0, PIECE, 0),
        ] {
            assert_eq!(surplus(len, first, allocated), expected, "{len} {first} {allocated}");
        }
    }

    #[test]
    fn a_program_that_writes_on_and_on_fills_two_pieces_and_its_last_words_are_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let n_known = WAYS.iter().filter(|way| writes_on(&dir.path().join(format!("{way:?}.log")), **way)).count();
        assert!(n_known >= 1, "emptying needs nothing");
    }

    /// Returns whether the file system here knows the way.
    fn writes_on(path: &Path, way: Way) -> bool {
        let (log, mut n) = (program(path), 0);
        for round in 0..4 {
            n = say(&log, n, PIECE + PIECE / 2);
            let cut = bound_by(path, &[way]).expect("bounded");
            if round == 1 && cut.is_none() {
                eprintln!("the file system here does not know {way:?}");
                return false;
            }
            let metadata = fs::metadata(path).expect("there");
            let there = metadata.blocks() * 512;
            assert!(there <= 2 * PIECE + (1 << 20), "{way:?}: {there} bytes");
            assert!(if round == 0 { cut.is_none() } else { round == 2 || cut.is_some() }, "{way:?} {round}");
            let tail = String::from_utf8(Log::open(path).expect("open").tail(1000).expect("read")).expect("text");
            let spoken: Vec<&str> = tail.lines().filter(|line| !line.starts_with("df-node: ")).collect();
            assert!(spoken.len() >= 999, "{way:?}: {} lines", spoken.len());
            for (line, number) in spoken.iter().rev().zip((0..n).rev()) {
                assert_eq!(*line, format!("{number:063}"), "{way:?}");
            }
        }
        let is_shorter = fs::metadata(path).expect("there").len() <= 2 * PIECE;
        assert_eq!(is_shorter, way != Way::Punch);
        assert_eq!(aside(path).exists(), way == Way::Empty);
        true
    }

    #[test]
    fn nothing_that_is_written_while_the_front_is_taken_away_is_lost() {
        for way in [Way::Collapse, Way::Punch] {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("1.log");
            let log = program(&path);
            let writer = std::thread::spawn(move || (0..4 * PIECE / 1024).fold(0, |n, _| say(&log, n, 1024)));
            let mut n_cuts = 0;
            while !writer.is_finished() {
                n_cuts += u32::from(bound_by(&path, &[way]).expect("bounded").is_some());
            }
            let n = writer.join().expect("it wrote");
            let file = File::open(&path).expect("there");
            let bytes = super::super::end_of(&file, 8 * PIECE).expect("read");
            let spoken: Vec<&str> = std::str::from_utf8(&bytes).expect("text").lines().collect();
            eprintln!("{way:?}: {n_cuts} cuts, {} lines of {n}", spoken.len());
            // Counted from the end: a line that is missing or torn would shift the others.
            assert!(spoken.iter().rev().zip((0..n).rev()).all(|(line, number)| **line == *format!("{number:063}")), "{way:?}");
            assert!(spoken.len() as u64 >= PIECE / 64, "{way:?}");
        }
    }

    #[test]
    fn a_log_that_is_not_there_is_not_too_long() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(bound_by(&dir.path().join("1.log"), &WAYS).expect("nothing to do"), None);
    }
}
