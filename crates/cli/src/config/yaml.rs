//! YAML read into a small tree of what is written, with places.
//!
//! Scalars stay the text they are: what is a number and what a name is decided by who asks for one, so `no`, `012` and `1e3` are never
//! taken for something else. Of YAML this reads what configuration needs: anchors and aliases within bounds, one document, no merge
//! keys, no tags but `!!str`.

use std::collections::{BTreeMap, HashMap};

use df_core::text;
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::error::{Fault, Place, Wrong, show};

/// The deepest nesting; a df.yaml needs five.
const MAX_DEPTH: usize = 32;
/// Values, and copies made by aliases.
const MAX_NODES: usize = 50_000;
/// Bytes of all scalars, those copied by aliases too.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Place,
    pub kind: Kind,
}

/// What a value is, as far as its writing tells.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`, without quotes.
    Null,
    /// Any other scalar.
    Text {
        /// What it says.
        text: String,
        /// Written without quotes, so that it may be a number.
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; no name twice.
    Map(Vec<(Key, Node)>),
}

/// The name of an entry and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub at: Place,
    pub name: String,
}

/// Reads a text that holds one document.
pub(super) fn read(source: &str) -> Result<Node, Fault> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    refuse_tabs(source)?;
    let options = granit_parser::options! { flow_nesting_limit: MAX_DEPTH + 1, block_nesting_limit: MAX_DEPTH + 1 };
    let parser = Parser::new_from_str_with_options(source, options);
    let mut reader = Reader { parser, anchors: HashMap::new(), weight: Weight::default() };
    let node = reader.document()?;
    refuse_invisible(source)?;
    Ok(node)
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    weight: Weight,
}

/// What a tree costs.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    n_nodes: usize,
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node, Fault> {
        let empty = || Fault::syntax(Place::TOP, "the file is empty; at least \"app\" and \"build\" are needed");
        let mut top = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if top.is_some() => {
                    return Err(Fault::syntax(start(&span), "a second document begins; only one is read"));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    top = Some(self.node(event, &span, "", 0)?);
                }
                Event::StreamEnd => break,
                _ => return Err(Fault::syntax(start(&span), "this is outside of the document")),
            }
        }
        top.filter(|node| !matches!(node.kind, Kind::Null)).ok_or_else(empty)
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(scan_fault(&error)),
            None => Err(Fault::syntax(Place::TOP, "the text ends too early")),
        }
    }

    /// Reads the value that begins with this event; `path` is for messages.
    fn node(&mut self, event: Event<'a>, span: &Span, path: &str, depth: usize) -> Result<Node, Fault> {
        let at = start(span);
        if depth > MAX_DEPTH {
            return Err(Fault::syntax(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced = self.tag(tag.as_deref(), at)?;
                check_text(&text, path, at)?;
                self.weigh(Weight { n_nodes: 1, bytes: text.len() }, at)?;
                let plain = style == ScalarStyle::Plain && !forced;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                (anchor, if null { Kind::Null } else { Kind::Text { text: text.into_owned(), plain } })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), at)?;
                self.weigh(Weight { n_nodes: 1, bytes: 0 }, at)?;
                (anchor, Kind::List(self.list(path, depth)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), at)?;
                self.weigh(Weight { n_nodes: 1, bytes: 0 }, at)?;
                (anchor, Kind::Map(self.map(path, depth)?))
            }
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            _ => return Err(Fault::syntax(at, "a value is needed here")),
        };
        let node = Node { at, kind };
        if anchor != 0 {
            self.weigh(weight_of(&node), at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(list);
            }
            let path = format!("{path}[{}]", list.len());
            list.push(self.node(event, &span, &path, depth + 1)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Vec<(Key, Node)>, Fault> {
        let mut map: Vec<(Key, Node)> = Vec::new();
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        loop {
            let (event, span) = self.next()?;
            let at = start(&span);
            let name = match event {
                Event::MappingEnd => return Ok(map),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(Fault::syntax(at, "a key must be a plain name")),
            };
            check_text(&name, path, at)?;
            self.weigh(Weight { n_nodes: 1, bytes: name.len() }, at)?;
            if name == "<<" {
                return Err(Fault::syntax(at, "merge keys (<<) are not read; write the keys out"));
            }
            if let Some(first) = places.insert(name.clone(), at) {
                return Err(Fault::new(at, Wrong::DuplicateKey { key: name, first }));
            }
            let (event, span) = self.next()?;
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let value = self.node(event, &span, &path, depth + 1)?;
            map.push((Key { at, name }, value));
        }
    }

    fn alias(&mut self, anchor: usize, at: Place, depth: usize) -> Result<Node, Fault> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Fault::syntax(at, "this alias stands inside of what it stands for"));
        };
        if depth + depth_of(node) > MAX_DEPTH {
            return Err(Fault::syntax(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let weight = weight_of(node);
        let node = Node { at, kind: node.kind.clone() };
        self.weigh(weight, at)?;
        Ok(node)
    }

    fn weigh(&mut self, weight: Weight, at: Place) -> Result<(), Fault> {
        self.weight.n_nodes += weight.n_nodes;
        self.weight.bytes += weight.bytes;
        if self.weight.n_nodes > MAX_NODES || self.weight.bytes > MAX_TEXT_BYTES {
            let why = format!(
                "more than {MAX_NODES} values or {MAX_TEXT_BYTES} bytes of text, aliases counted as often as they are used"
            );
            return Err(Fault::syntax(at, why));
        }
        Ok(())
    }

    /// Returns whether a tag says that this is text.
    fn tag(&self, tag: Option<&Tag>, at: Place) -> Result<bool, Fault> {
        match tag {
            None => Ok(false),
            Some(tag) if tag.core_suffix() == Some("str") => Ok(true),
            Some(tag) => Err(Fault::syntax(at, format!("the tag {} is not read", show(&tag.original())))),
        }
    }
}

fn weight_of(node: &Node) -> Weight {
    let add = |a: Weight, b: Weight| Weight { n_nodes: a.n_nodes + b.n_nodes, bytes: a.bytes + b.bytes };
    let own = |bytes| Weight { n_nodes: 1, bytes };
    match &node.kind {
        Kind::Null => own(0),
        Kind::Text { text, .. } => own(text.len()),
        Kind::List(list) => list.iter().map(weight_of).fold(own(0), add),
        Kind::Map(map) => map.iter().map(|(key, node)| add(own(key.name.len()), weight_of(node))).fold(own(0), add),
    }
}

fn depth_of(node: &Node) -> usize {
    match &node.kind {
        Kind::Null | Kind::Text { .. } => 0,
        Kind::List(list) => 1 + list.iter().map(depth_of).max().unwrap_or(0),
        Kind::Map(map) => 1 + map.iter().map(|(_, node)| depth_of(node)).max().unwrap_or(0),
    }
}

fn start(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn scan_fault(error: &ScanError) -> Fault {
    let at = Place { line: error.marker().line().max(1), column: error.marker().col() + 1 };
    Fault::syntax(at, format!("this is not YAML: {}", show(&error.kind().to_string())))
}

/// Refuses what cannot be seen in a string, whatever way it was written. A line end is left to who asks for the string.
fn check_text(text: &str, path: &str, at: Place) -> Result<(), Fault> {
    match text.chars().find(|c| *c != '\n' && steers(*c)) {
        None => Ok(()),
        Some(c) => {
            let why = format!("holds the character U+{:04X}, which is a control or an invisible one", c as u32);
            Err(Fault::new(at, Wrong::Refused { key: path.to_owned(), why: why.into() }))
        }
    }
}

/// Refuses tabs before the first other character of a line: YAML allows them there in some places and not in others.
fn refuse_tabs(source: &str) -> Result<(), Fault> {
    for (i, line) in source.lines().enumerate() {
        let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line[..blank].find('\t') {
            let at = Place { line: i + 1, column: tab + 1 };
            return Err(Fault::syntax(at, "a tab is used for indentation; YAML takes spaces only"));
        }
    }
    Ok(())
}

/// Refuses what could make the file look other than it is, in comments too.
fn refuse_invisible(source: &str) -> Result<(), Fault> {
    for (i, line) in source.lines().enumerate() {
        if let Some((n, c)) = line.chars().enumerate().find(|(_, c)| *c != '\t' && steers(*c)) {
            let why = format!("the character U+{:04X} is a control or an invisible one", c as u32);
            return Err(Fault::syntax(Place { line: i + 1, column: n + 1 }, why));
        }
    }
    Ok(())
}

/// Returns whether a character steers a terminal or the eye: what is escaped before it is printed.
fn steers(c: char) -> bool {
    c.is_control() || (!c.is_ascii() && text::escape(c.encode_utf8(&mut [0; 4]).as_bytes()).starts_with('\\'))
}
