//! A cache in a bucket rewritten by somebody who may write there and knows the formats: all that names and digests can be made to fit does.
//!
//! Written from what the formats say and not with the code that reads them. The head is the only object that is changed, in the answer; what it names then
//! is added beside what was there.

use df_core::{Digest, ImageId, Release};
use df_testkit::s3::{Act, Fault, Server, Verb};

/// Bytes of a reference, and where in it the length stands.
const REFERENCE: usize = 64;
const LEN_AT: usize = 28;

/// A cache as a forger has taken it apart.
pub struct Forged<'a> {
    server: &'a Server,
    prefix: &'static str,
    start: Vec<u8>,
    /// The root table's, the segments', the condemned's.
    references: [Vec<Vec<u8>>; 3],
    /// How many objects were added.
    added: u32,
}

/// The root table.
pub struct Table {
    start: Vec<u8>,
    pub images: Vec<Vec<u8>>,
    pub releases: Vec<Row>,
    end: Vec<u8>,
}

/// A release in the root table.
#[derive(Clone)]
pub struct Row {
    start: Vec<u8>,
    pub release: Vec<u8>,
    /// Kind, codec, length, place and reference of each document.
    pub documents: Vec<Vec<u8>>,
}

/// A row of the index, without its packs' list.
#[derive(Clone)]
pub struct Slot {
    pub digest: Digest,
    pub len: u64,
    pub pack: u32,
    pub offset: u32,
    pub stored: u32,
    pub codec: u8,
    /// Of codec 2: the blob that it is a change of.
    pub prefix: Option<Digest>,
}

/// A head in which tables lie, as it is written.
pub struct Keeping {
    /// The root table's, the segments', the condemned's.
    pub references: [Vec<Vec<u8>>; 3],
    /// What lies in it, each with the length that is said.
    pub kept: Vec<(u32, Vec<u8>)>,
    /// How many of them are said to be there.
    pub n_kept: u32,
}

impl<'a> Forged<'a> {
    /// Takes the cache below a prefix apart.
    pub fn of(server: &'a Server, prefix: &'static str) -> Self {
        let body = body(&server.read(&format!("{prefix}/head")).expect("a head"));
        let mut rest = &body[..];
        let mut start = taken(&mut rest, 32).to_vec();
        let txids = count(&mut rest);
        start.extend_from_slice(&(txids as u32).to_le_bytes());
        start.extend_from_slice(taken(&mut rest, 16 * txids));
        let mut list = || (0..count(&mut rest)).map(|_| taken(&mut rest, REFERENCE).to_vec()).collect();
        let forged = Self { server, prefix, start, references: [list(), list(), list()], added: 0 };
        // What lies in the head is put beside it: the head that is shown keeps nothing, as one of version 1.
        let n_kept = if rest.is_empty() { 0 } else { count(&mut rest) };
        for _ in 0..n_kept {
            let len = count(&mut rest);
            forged.put_beside(taken(&mut rest, len));
        }
        forged
    }

    /// Returns the root table.
    pub fn table(&self) -> Table {
        let body = body(&self.object('t', &self.references[0][0]));
        let mut rest = &body[..];
        let start = taken(&mut rest, 8).to_vec();
        let images = (0..count(&mut rest)).map(|_| taken(&mut rest, 49).to_vec()).collect();
        let row = |rest: &mut &[u8]| {
            let start = taken(rest, 16).to_vec();
            let len = count(rest);
            let release = taken(rest, len).to_vec();
            let documents = (0..count(rest)).map(|_| taken(rest, 14 + REFERENCE).to_vec()).collect();
            Row { start, release, documents }
        };
        let releases = (0..count(&mut rest)).map(|_| row(&mut rest)).collect();
        Table { start, images, releases, end: rest.to_vec() }
    }

    /// Puts a root table there.
    pub fn put_table(&mut self, table: &Table) {
        let mut body = table.start.clone();
        number(&mut body, table.images.len());
        table.images.iter().for_each(|image| body.extend_from_slice(image));
        number(&mut body, table.releases.len());
        for row in &table.releases {
            body.extend_from_slice(&row.start);
            number(&mut body, row.release.len());
            body.extend_from_slice(&row.release);
            number(&mut body, row.documents.len());
            row.documents.iter().for_each(|document| body.extend_from_slice(document));
        }
        body.extend_from_slice(&table.end);
        self.put_table_bytes(&seal(b"dft\x01", 0, body.len(), &body));
    }

    /// Puts any bytes there as the root table.
    pub fn put_table_bytes(&mut self, bytes: &[u8]) {
        self.references[0] = vec![self.put('t', bytes)];
    }

    /// Returns the packs of all segments and the rows of them; nothing here is long enough for another form of row.
    pub fn index(&self) -> (Vec<Vec<u8>>, Vec<Slot>) {
        let (mut packs, mut slots) = (vec![], vec![]);
        for segment in &self.references[1] {
            let body = body(&self.object('i', segment));
            let mut rest = &body[..];
            let first = packs.len() as u32;
            packs.extend((0..count(&mut rest)).map(|_| taken(&mut rest, REFERENCE).to_vec()));
            let n = count(&mut rest);
            let digests = taken(&mut rest, 32 * n);
            let (lens, words, codecs) = (taken(&mut rest, 8 * n), taken(&mut rest, 16 * n), taken(&mut rest, n));
            let word = |column: usize, at: usize| u32::from_le_bytes(words[4 * (column * n + at)..][..4].try_into().expect("4"));
            for at in 0..n {
                let prefix = (codecs[at] == 2).then(|| array(&taken(&mut rest, 33)[1..]));
                slots.push(Slot {
                    digest: Digest::from_bytes(array(&digests[32 * at..][..32])),
                    len: u64::from_le_bytes(lens[8 * at..][..8].try_into().expect("8")),
                    pack: first + word(1, at),
                    offset: word(2, at),
                    stored: word(3, at),
                    codec: codecs[at],
                    prefix: prefix.map(Digest::from_bytes),
                });
            }
        }
        (packs, slots)
    }

    /// Puts an index of one segment there.
    pub fn put_index(&mut self, packs: &[Vec<u8>], slots: &[Slot]) {
        let mut order: Vec<usize> = (0..packs.len()).collect();
        order.sort_by_key(|&at| {
            let pack = &packs[at];
            (u64::from_le_bytes(array(&pack[..8])), pack[8..24].to_vec(), u32::from_le_bytes(array(&pack[24..28])))
        });
        let mut body = vec![];
        number(&mut body, packs.len());
        order.iter().for_each(|&at| body.extend_from_slice(&packs[at]));
        let place = |pack: u32| order.iter().position(|&at| at == pack as usize).map_or(pack, |place| place as u32);
        let mut slots: Vec<Slot> = slots.iter().map(|slot| Slot { pack: place(slot.pack), ..slot.clone() }).collect();
        slots.sort_by_key(|slot| (slot.digest, slot.pack, slot.offset));
        number(&mut body, slots.len());
        slots.iter().for_each(|slot| body.extend_from_slice(slot.digest.as_bytes()));
        slots.iter().for_each(|slot| body.extend_from_slice(&slot.len.to_le_bytes()));
        let columns: [fn(&Slot) -> u32; 4] = [|_| 0, |slot| slot.pack, |slot| slot.offset, |slot| slot.stored];
        for column in columns {
            slots.iter().for_each(|slot| body.extend_from_slice(&column(slot).to_le_bytes()));
        }
        slots.iter().for_each(|slot| body.push(slot.codec));
        for prefix in slots.iter().filter_map(|slot| slot.prefix) {
            body.push(1);
            body.extend_from_slice(prefix.as_bytes());
        }
        self.put_index_bytes(&seal(b"dfi\x02", 0, body.len(), &body));
    }

    /// Puts any bytes there as the index.
    pub fn put_index_bytes(&mut self, bytes: &[u8]) {
        self.references[1] = vec![self.put('i', bytes)];
    }

    /// Adds an object of a kind and returns a reference to it.
    pub fn put(&mut self, space: char, bytes: &[u8]) -> Vec<u8> {
        self.added += 1;
        let mut reference = self.references[0][0].clone();
        reference[24..28].copy_from_slice(&(0xf000 + self.added).to_le_bytes());
        reference[LEN_AT..32].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        reference[32..].copy_from_slice(Digest::of(bytes).as_bytes());
        self.server.write(&self.key(space, &reference), bytes);
        reference
    }

    /// Adds documents of a release and returns a reference to them.
    pub fn put_documents(&mut self, release: &Release, bytes: &[u8]) -> Vec<u8> {
        let reference = self.put('t', bytes);
        let key = self.key('t', &reference);
        let name = key.rsplit('/').next().expect("a word");
        self.server.write(&format!("{}/a/{}/{name}", self.prefix, release.id()), bytes);
        reference
    }

    /// Has the bucket answer with a head that names what was put.
    pub fn show(self) {
        let body = with_lists(self.start, &self.references);
        show_head(self.server, self.prefix, seal(b"dfh\x01", 0, body.len(), &body));
    }

    /// Has the bucket answer with a head in which the root table and the segments lie, as a change leaves it.
    pub fn show_keeping(self, change: impl FnOnce(&mut Keeping)) {
        let of = |space, list: &[Vec<u8>]| list.iter().map(|one| self.object(space, one)).collect::<Vec<_>>();
        let kept = [of('t', &self.references[0]), of('i', &self.references[1])].concat();
        let kept: Vec<_> = kept.into_iter().map(|bytes| (bytes.len() as u32, bytes)).collect();
        let mut head = Keeping { references: self.references, n_kept: kept.len() as u32, kept };
        change(&mut head);
        let mut body = with_lists(self.start, &head.references);
        body.extend_from_slice(&head.n_kept.to_le_bytes());
        for (len, bytes) in &head.kept {
            body.extend_from_slice(&len.to_le_bytes());
            body.extend_from_slice(bytes);
        }
        show_head(self.server, self.prefix, seal(b"dfh\x02", 0, body.len(), &body));
    }

    /// Adds an image of these bytes as its manifest, and a release of it for a commit; the cache holds what the manifest names already, or nobody comes so far.
    pub fn put_image(&mut self, manifest: &[u8], like: &Release) {
        let image = ImageId(Digest::of(manifest));
        let pack = self.put('p', &[b"dfp\x02", manifest].concat());
        let (mut packs, mut slots) = self.index();
        slots.push(Slot {
            digest: image.0,
            len: manifest.len() as u64,
            pack: packs.len() as u32,
            offset: 4,
            stored: manifest.len() as u32,
            codec: 0,
            prefix: None,
        });
        packs.push(pack);
        self.put_index(&packs, &slots);
        let mut table = self.table();
        let row = [image.0.as_bytes(), &0_u64.to_le_bytes()[..], &(manifest.len() as u64).to_le_bytes(), &[1]].concat();
        table.images.push(row);
        table.images.sort();
        table.change(like, |release| release.image = image);
        self.put_table(&table);
    }

    /// Puts an object there that the head names by its digest.
    fn put_beside(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        for (space, list) in [('t', &self.references[0]), ('i', &self.references[1])] {
            for reference in list.iter().filter(|reference| reference[32..] == *digest.as_bytes()) {
                self.server.write(&self.key(space, reference), bytes);
            }
        }
    }

    fn object(&self, space: char, reference: &[u8]) -> Vec<u8> {
        self.server.read(&self.key(space, reference)).expect("the object that is named")
    }

    fn key(&self, space: char, reference: &[u8]) -> String {
        let began = u64::from_le_bytes(array(&reference[..8]));
        let random: String = reference[8..24].iter().map(|byte| format!("{byte:02x}")).collect();
        let n = u32::from_le_bytes(array(&reference[24..28]));
        let name = format!("{began:016x}-{random}-{n:x}");
        match space {
            'p' => format!("{}/p/{:02x}/{name}", self.prefix, reference[8].wrapping_add(n as u8)),
            space => format!("{}/{space}/{name}", self.prefix),
        }
    }
}

impl Keeping {
    /// Keeps one more segment, under a name of its own.
    pub fn keep(&mut self, bytes: Vec<u8>) {
        let mut reference = self.references[1][0].clone();
        reference[24..28].copy_from_slice(&(0xe000 + self.n_kept).to_le_bytes());
        reference[LEN_AT..32].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        reference[32..].copy_from_slice(Digest::of(&bytes).as_bytes());
        self.references[1].push(reference);
        self.kept.push((bytes.len() as u32, bytes));
        self.n_kept += 1;
    }

    /// Says of the root table that it has another length.
    pub fn lengthen(&mut self) {
        let word = &mut self.references[0][0][LEN_AT..32];
        let len = u32::from_le_bytes(array(word)) + 1;
        word.copy_from_slice(&len.to_le_bytes());
    }
}

impl Table {
    /// Returns the row of a release.
    #[track_caller]
    pub fn row(&mut self, release: &Release) -> &mut Row {
        let bytes = release.encode();
        self.releases.iter_mut().find(|row| row.release == bytes).expect("its row")
    }

    /// Changes a release; its documents stay.
    pub fn change(&mut self, of: &Release, change: impl FnOnce(&mut Release)) {
        let mut release = of.clone();
        change(&mut release);
        self.row(of).release = release.encode();
    }
}

impl Row {
    /// Returns a document by the number of its kind.
    pub fn document(&mut self, kind: u8) -> &mut Vec<u8> {
        self.documents.iter_mut().find(|document| document[0] == kind).expect("the document")
    }

    /// Has a document be these bytes, which a reference names.
    pub fn put_document(&mut self, kind: u8, bytes: &[u8], reference: &[u8]) {
        let len = (bytes.len() as u32).to_le_bytes();
        *self.document(kind) = [&[kind, 0][..], &len, &[0; 4], &len, reference].concat();
    }
}

/// Returns the beginning of a head with what it names.
fn with_lists(mut body: Vec<u8>, references: &[Vec<Vec<u8>>; 3]) -> Vec<u8> {
    for list in references {
        number(&mut body, list.len());
        list.iter().for_each(|reference| body.extend_from_slice(reference));
    }
    body
}

/// Has the bucket answer with another head.
pub fn show_head(server: &Server, prefix: &str, head: Vec<u8>) {
    server.fault(Fault::new(Act::Holds(head)).on(Verb::Get).key(&format!("{prefix}/head")).always());
}

/// Returns a frame whose digest fits.
pub fn seal(magic: &[u8; 4], codec: u8, len: usize, stored: &[u8]) -> Vec<u8> {
    let mut frame = magic.to_vec();
    frame.extend_from_slice(&[codec, 0, 0, 0]);
    number(&mut frame, len);
    number(&mut frame, stored.len());
    frame.extend_from_slice(stored);
    let check = Digest::of(&frame);
    frame.extend_from_slice(check.as_bytes());
    frame
}

/// Returns a zstd frame of so many times 128 KiB of zeros, which takes four bytes for each.
pub fn zeros(blocks: u32) -> Vec<u8> {
    // A window of 128 MiB, and blocks of one byte that is repeated.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
    for n in 1..=blocks {
        let block = u32::from(n == blocks) | 1 << 1 | (128 << 10) << 3;
        frame.extend_from_slice(&block.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// Returns what a frame holds; the caches here are so small that nothing is compressed.
#[track_caller]
fn body(frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[4], 0, "not compressed");
    frame[16..frame.len() - 32].to_vec()
}

fn taken<'b>(rest: &mut &'b [u8], len: usize) -> &'b [u8] {
    let (first, others) = rest.split_at(len);
    *rest = others;
    first
}

fn count(rest: &mut &[u8]) -> usize {
    u32::from_le_bytes(array(taken(rest, 4))) as usize
}

fn number(body: &mut Vec<u8>, number: usize) {
    body.extend_from_slice(&(number as u32).to_le_bytes());
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("so many")
}
