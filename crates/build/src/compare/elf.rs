//! Which sections of two ELF files differ, and what stands there.

use std::collections::BTreeMap;

use df_core::text::{escape, shorten};
use object::{Object as _, ObjectSection as _};

use super::guess::{self, Varied};
use super::text;
use super::{Explained, Section};

/// Sections looked at; a program has some forty.
const N_SECTIONS: usize = 1000;
/// Differing sections named.
const N_NAMED: usize = 64;
/// Bytes of a section's name.
const NAME_LEN: usize = 80;
/// Places shown.
const N_PLACES: usize = 4;
/// How often a file may be read: sections may lie over each other.
const N_TIMES: usize = 4;

/// Says in which sections two ELF files differ; `None` when one cannot be read as such, or when they differ outside of all sections.
pub(super) fn explain(here: &[u8], there: &[u8], varied: &[Varied]) -> Option<Explained> {
    let (ours, theirs) = (sections(here)?, sections(there)?);
    let mut differing: Vec<Differing<'_>> = vec![];
    for key in ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key))) {
        let (a, b) = (ours.get(key).copied(), theirs.get(key).copied());
        if a != b {
            differing.push((key, a, b));
        }
    }
    if differing.is_empty() {
        return None;
    }
    differing.sort_by_key(|(key, ..)| (rank(&key.0), *key));
    let mut explained = Explained::default();
    let len = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes.len() as u64);
    for (key, a, b) in differing.iter().take(N_NAMED) {
        explained.sections.push(Section { name: key.0.clone(), here: len(*a), there: len(*b) });
    }
    let both: Vec<(&str, &[u8], &[u8])> =
        differing.iter().filter_map(|(key, a, b)| Some((key.0.as_str(), (*a)?, (*b)?))).collect();
    explain_places(&both, varied, &mut explained);
    Some(explained)
}

/// Adds what stands in sections that both have: the texts, or if there are none the first bytes.
fn explain_places(both: &[(&str, &[u8], &[u8])], varied: &[Varied], explained: &mut Explained) {
    let mut other = vec![];
    for &(name, a, b) in both {
        let spots = text::spots(a, b);
        if explained.guess.is_none() {
            explained.guess = if rank(name) == 0 { guess::order(a, b) } else { None }.or_else(|| guess::of(&spots, varied));
        }
        let (with_text, without): (Vec<_>, Vec<_>) = spots.into_iter().partition(|spot| spot.here.is_text || spot.there.is_text);
        explained.places.extend(text::places(&with_text, Some(name)));
        other.extend(text::places(&without, Some(name)));
        if explained.places.len() >= N_PLACES {
            break;
        }
    }
    if explained.places.is_empty() {
        other.truncate(1);
        explained.places = other;
    }
    explained.places.truncate(N_PLACES);
}

/// The name of a section, and the how-maniest of that name it is.
type Key = (String, usize);

/// A section, and its bytes in both files.
type Differing<'a> = (&'a Key, Option<&'a [u8]>, Option<&'a [u8]>);

/// Returns the bytes of each section.
fn sections(file: &[u8]) -> Option<BTreeMap<Key, &[u8]>> {
    let object = object::File::parse(file).ok()?;
    let mut found = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut budget = file.len().saturating_mul(N_TIMES);
    for section in object.sections().take(N_SECTIONS) {
        let Ok(name) = section.name_bytes() else { continue };
        let Some((offset, len)) = section.file_range() else { continue };
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let Some(bytes) = end.and_then(|end| file.get(usize::try_from(offset).ok()?..end)) else { continue };
        // Names without an end, and sections over each other, may cost a little more than reading the file, not thousands of times that.
        budget = budget.checked_sub(name.len() + bytes.len())?;
        let name = shorten(&escape(&name[..name.len().min(NAME_LEN)]), NAME_LEN);
        let count = counts.entry(name.clone()).or_default();
        found.insert((name, *count), bytes);
        *count += 1;
    }
    Some(found)
}

/// Says which sections tell most: constants and texts first, what only follows from others last.
fn rank(name: &str) -> u8 {
    match name {
        _ if name.starts_with(".rodata") || name == ".comment" => 0,
        _ if name.starts_with(".data") || name == ".interp" => 1,
        ".debug_str" | ".debug_line_str" | ".strtab" | ".dynstr" => 2,
        ".note.gnu.build-id" | ".gnu_debuglink" => 9,
        _ if name.starts_with(".note") => 3,
        ".text" => 4,
        _ if name.starts_with(".debug") => 5,
        _ => 6,
    }
}
