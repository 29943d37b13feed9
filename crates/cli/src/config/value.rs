//! Values asked for by type: each answer is checked, each refusal names the key, the place and what is needed.

use std::time::Duration;

use df_core::name::{NameError, PathText};

use super::error::{Fault, Place, Wrong, show};
use super::keys;
use super::yaml::{Key, Kind, Node};
use crate::time;

/// A value and the key path that leads to it.
#[derive(Debug, Clone)]
pub(super) struct Value<'a> {
    pub key: String,
    node: &'a Node,
}

/// A mapping with known keys; entries that begin with `x-` are the user's own.
#[derive(Debug)]
pub(super) struct Section<'a> {
    path: String,
    at: Place,
    /// What the table calls this section.
    name: &'static str,
    entries: &'a [(Key, Node)],
}

/// An entry of a mapping whose names the user chooses.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub name: &'a str,
    at: Place,
    pub value: Value<'a>,
}

impl Entry<'_> {
    /// Returns a complaint about the name.
    pub fn refuse(&self, why: impl Into<Box<str>>) -> Fault {
        Fault::new(self.at, Wrong::Refused { key: self.value.key.clone(), why: why.into() })
    }
}

impl<'a> Section<'a> {
    /// Opens the section that the table calls `name`, and refuses keys that it does not have.
    pub fn open(value: &Value<'a>, name: &'static str) -> Result<Self, Fault> {
        let entries = value.map("a mapping of keys")?;
        let known = keys::of(name);
        for (key, _) in entries {
            if !known.contains(&key.name.as_str()) && !key.name.starts_with("x-") {
                let (section, key_name) = (value.key.clone(), key.name.clone());
                let hint = keys::hint(name, &key.name);
                return Err(Fault::new(key.at, Wrong::UnknownKey { key: key_name, section, hint }));
            }
        }
        Ok(Self { path: value.key.clone(), at: value.at(), name, entries })
    }

    /// Returns the value of a key; a key without a value is as good as absent.
    pub fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.get_even_empty(key).filter(|value| !value.is_null())
    }

    /// Returns the value of a key that may say something by standing there alone.
    pub fn get_even_empty(&self, key: &'static str) -> Option<Value<'a>> {
        debug_assert!(keys::of(self.name).contains(&key), "{}.{key} is not in the table of keys", self.name);
        let (_, node) = self.entries.iter().find(|(name, _)| name.name == key)?;
        Some(Value { key: join(&self.path, key), node })
    }

    pub fn need(&self, key: &'static str) -> Result<Value<'a>, Fault> {
        self.get(key).ok_or_else(|| Fault::new(self.at, Wrong::Missing { section: self.path.clone(), key }))
    }

    /// Returns what `read` makes of the value, or the default where there is none.
    pub fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(&Value<'a>) -> Result<T, Fault>) -> Result<T, Fault> {
        self.get(key).map_or(Ok(default), |value| read(&value))
    }

    /// Returns what `read` makes of the value, if there is one.
    pub fn option<T>(&self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
        self.get(key).map(|value| read(&value)).transpose()
    }

    /// Refuses the key, whatever it says, because the feature does not exist yet.
    pub fn not_built(&self, key: &'static str, what: &'static str) -> Result<(), Fault> {
        self.get(key).map_or(Ok(()), |value| Err(value.not_built(what)))
    }

    /// Refuses the key unless it holds an empty list.
    pub fn not_built_unless_empty(&self, key: &'static str, what: &'static str) -> Result<(), Fault> {
        match self.get(key) {
            Some(value) if !value.list()?.is_empty() => Err(value.not_built(what)),
            _ => Ok(()),
        }
    }

    /// Returns a complaint about the section as a whole.
    pub fn refuse(&self, why: impl Into<Box<str>>) -> Fault {
        Fault::new(self.at, Wrong::Refused { key: self.path.clone(), why: why.into() })
    }
}

impl<'a> Value<'a> {
    pub fn top(node: &'a Node) -> Self {
        Self { key: String::new(), node }
    }

    pub fn at(&self) -> Place {
        self.node.at
    }

    pub fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    pub fn is_map(&self) -> bool {
        matches!(self.node.kind, Kind::Map(_))
    }

    /// Returns text: whatever stands there, as it stands there.
    pub fn text(&self) -> Result<&'a str, Fault> {
        match &self.node.kind {
            Kind::Text { text, .. } if text.contains('\n') => Err(self.refuse("must be one line")),
            Kind::Text { text, .. } => Ok(text),
            _ => Err(self.kind("text")),
        }
    }

    /// Returns text of one or more lines.
    pub fn lines(&self) -> Result<&'a str, Fault> {
        match &self.node.kind {
            Kind::Text { text, .. } => Ok(text.trim_end_matches('\n')),
            _ => Err(self.kind("text")),
        }
    }

    /// Returns text that is not empty.
    pub fn word(&self) -> Result<&'a str, Fault> {
        match self.text()? {
            "" => Err(self.refuse("is empty")),
            word => Ok(word),
        }
    }

    /// Returns a checked name.
    pub fn name<T>(&self, new: impl FnOnce(&str) -> Result<T, NameError>) -> Result<T, Fault> {
        new(self.text()?).map_err(|error| self.refuse(error.to_string()))
    }

    /// Returns a path inside the commit or the image.
    pub fn path(&self) -> Result<PathText, Fault> {
        let text = self.text()?;
        if text == "~" || text.starts_with("~/") {
            return Err(self.refuse(format!("path \"{}\" begins with ~, which is not expanded here", show(text))));
        }
        self.name(PathText::new)
    }

    /// Returns true or false; nothing else is either.
    pub fn flag(&self) -> Result<bool, Fault> {
        match &self.node.kind {
            Kind::Text { text, plain: true } if text == "true" => Ok(true),
            Kind::Text { text, plain: true } if text == "false" => Ok(false),
            Kind::Text { text, .. } => Err(self.range("true or false", text)),
            _ => Err(self.kind("true or false")),
        }
    }

    /// Returns a whole number within bounds, written in decimal digits without quotes.
    pub fn whole(&self, min: u64, max: u64) -> Result<u64, Fault> {
        let wanted = || format!("a whole number from {min} to {max}, in decimal digits without quotes,");
        match &self.node.kind {
            Kind::Text { text, plain: true } => {
                digits(text).filter(|n| (min..=max).contains(n)).ok_or_else(|| self.range(wanted(), text))
            }
            Kind::Text { text, plain: false } => Err(self.range(wanted(), text)),
            _ => Err(self.kind("a whole number")),
        }
    }

    /// Returns a length of time within bounds.
    pub fn duration(&self, min: Duration, max: Duration) -> Result<Duration, Fault> {
        let text = self.text()?;
        let wanted = || format!("a length of time from {} to {} (500ms, 30s, 5m, 2h, 30d)", spell(min), spell(max));
        let duration = time::duration(text).map_err(|_| self.range(wanted(), text))?;
        if (min..=max).contains(&duration) { Ok(duration) } else { Err(self.range(wanted(), text)) }
    }

    /// Returns a number of bytes: `512M`, `1G`, `64K`, in powers of 1024, or a plain number.
    pub fn size(&self, min: u64, max: u64) -> Result<u64, Fault> {
        let text = self.text()?;
        let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
            None => (text, 1),
            Some(end) => match &text[end..] {
                "K" => (&text[..end], 1 << 10),
                "M" => (&text[..end], 1 << 20),
                "G" => (&text[..end], 1 << 30),
                "T" => (&text[..end], 1 << 40),
                _ => ("", 1),
            },
        };
        let bytes = digits(number).and_then(|number| number.checked_mul(unit));
        bytes
            .filter(|bytes| (min..=max).contains(bytes))
            .ok_or_else(|| self.range(format!("a size from {} to {} (64K, 512M, 1G)", spell_size(min), spell_size(max)), text))
    }

    /// Returns the value that the word stands for.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Result<T, Fault> {
        let text = self.text()?;
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(value.clone()),
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                Err(self.range(words.join(" or "), text))
            }
        }
    }

    /// Returns the elements of a list.
    pub fn list(&self) -> Result<Vec<Value<'a>>, Fault> {
        let Kind::List(list) = &self.node.kind else { return Err(self.kind("a list")) };
        let element = |(i, node)| Value { key: format!("{}[{i}]", self.key), node };
        Ok(list.iter().enumerate().map(element).collect())
    }

    /// Returns the entries of a mapping whose names the user chooses.
    pub fn entries(&self) -> Result<Vec<Entry<'a>>, Fault> {
        let own = |(key, _): &&'a (Key, Node)| !key.name.starts_with("x-");
        let entry = |(key, node): &'a (Key, Node)| Entry {
            name: &key.name,
            at: key.at,
            value: Value { key: join(&self.key, &key.name), node },
        };
        Ok(self.map("a mapping of names to values")?.iter().filter(own).map(entry).collect())
    }

    pub fn refuse(&self, why: impl Into<Box<str>>) -> Fault {
        Fault::new(self.at(), Wrong::Refused { key: self.key.clone(), why: why.into() })
    }

    pub fn not_built(&self, what: &'static str) -> Fault {
        Fault::new(self.at(), Wrong::NotBuilt { key: self.key.clone(), what })
    }

    /// Returns the complaint that something of another kind is needed.
    pub fn kind(&self, wanted: &'static str) -> Fault {
        let found = match &self.node.kind {
            Kind::Null => "nothing (for the word null, write it in quotes)",
            Kind::Text { .. } => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        };
        Fault::new(self.at(), Wrong::Kind { key: self.key.clone(), wanted, found })
    }

    /// Returns the complaint that another value is needed.
    pub fn range(&self, wanted: impl Into<Box<str>>, found: &str) -> Fault {
        Fault::new(self.at(), Wrong::Range { key: self.key.clone(), wanted: wanted.into(), found: found.to_owned() })
    }

    fn map(&self, wanted: &'static str) -> Result<&'a [(Key, Node)], Fault> {
        match &self.node.kind {
            Kind::Map(map) => Ok(map),
            _ => Err(self.kind(wanted)),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads decimal digits: no sign, no leading zero that others take for octal.
fn digits(text: &str) -> Option<u64> {
    let decimal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if decimal { text.parse().ok() } else { None }
}

fn spell(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

fn spell_size(bytes: u64) -> String {
    let units = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let unit = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(unit, letter)| format!("{}{letter}", bytes / unit))
}
