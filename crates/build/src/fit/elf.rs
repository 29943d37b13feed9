//! What one ELF file asks of a machine: its architecture, the program that loads it, the libraries and versions that it names.
//!
//! It is read as the loader reads it, by program headers: section headers can be stripped. An image may hold any bytes, so that little is read, each
//! place is checked, and whatever is not well formed is no ELF file here.

use std::cell::Cell;
use std::io::{Read, Seek};
use std::ops::Range;

use df_core::text::{escape, shorten};
use object::elf::{self, FileHeader32, FileHeader64, VER_FLG_WEAK, Vernaux, Verneed};
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};
use object::{Endianness, ReadCache, ReadRef};

/// Bytes read of one file: 65,535 program headers take 3.6 MB.
const READ_LEN: u64 = 4 << 20;
/// Reads of one file, two for each version that it names.
const N_READS: u32 = 10_000;
/// Bytes of a name in a file: an interpreter, a library, a version.
const NAME_LEN: usize = 200;
/// Libraries that are named.
const N_LIBRARIES: usize = 100;

/// What an ELF program or shared library says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elf {
    /// The architecture, as `uname -m` says it, or `elf-N`.
    pub machine: String,
    /// Whether it can be started; else it is a library.
    pub is_program: bool,
    /// The program that loads it.
    pub interpreter: Option<String>,
    /// The newest version of the GNU C library that it names.
    pub libc: Option<String>,
    /// Libraries that are loaded with it.
    pub libraries: Vec<String>,
}

/// Reads a program or a shared library; `None` when the bytes are anything else.
pub(crate) fn read(mut file: impl Read + Seek) -> Option<Elf> {
    let mut ident = [0; 16];
    file.rewind().ok()?;
    file.read_exact(&mut ident).ok()?;
    if ident[..4] != elf::ELFMAG {
        return None;
    }
    let cache = ReadCache::new(file);
    let bounded = &Bounded { cache: &cache, len: Cell::new(READ_LEN), n_reads: Cell::new(N_READS) };
    match ident[4] {
        1 => of_class::<FileHeader32<Endianness>, _>(bounded),
        2 => of_class::<FileHeader64<Endianness>, _>(bounded),
        _ => None,
    }
}

/// Reads no more of a file than it may.
struct Bounded<'a, R: Read + Seek> {
    cache: &'a ReadCache<R>,
    len: Cell<u64>,
    n_reads: Cell<u32>,
}

impl<R: Read + Seek> Bounded<'_, R> {
    fn spend(&self, len: u64) -> Result<(), ()> {
        self.len.set(self.len.get().checked_sub(len).ok_or(())?);
        self.n_reads.set(self.n_reads.get().checked_sub(1).ok_or(())?);
        Ok(())
    }
}

impl<'a, R: Read + Seek> ReadRef<'a> for &'a Bounded<'a, R> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.spend(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        self.spend(NAME_LEN as u64)?;
        self.cache.read_bytes_at_until(range, delimiter)
    }
}

fn of_class<'a, H: FileHeader<Endian = Endianness>, R: Read + Seek>(data: &'a Bounded<'a, R>) -> Option<Elf> {
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let e_type = header.e_type(endian);
    if e_type != elf::ET_EXEC && e_type != elf::ET_DYN {
        return None;
    }
    let headers = header.program_headers(endian, data).ok()?;
    let mut interpreter = None;
    let mut named = Named::default();
    for segment in headers {
        if let Some(name) = segment.interpreter(endian, data).ok()? {
            interpreter = Some(text(name));
        }
        if let Some(dynamic) = segment.dynamic(endian, data).ok()? {
            named = Segments::<H, R> { headers, endian, data }.named(dynamic)?;
        }
    }
    Some(Elf {
        machine: machine(header.e_machine(endian).0, header.is_class_64(), header.is_little_endian()),
        is_program: e_type == elf::ET_EXEC || interpreter.is_some() || named.is_pie,
        interpreter,
        libc: named.libc.map(|version| version.text()),
        libraries: named.libraries,
    })
}

/// What the dynamic section names.
#[derive(Default)]
struct Named {
    is_pie: bool,
    libc: Option<Version>,
    libraries: Vec<String>,
}

struct Segments<'a, H: FileHeader<Endian = Endianness>, R: Read + Seek> {
    headers: &'a [H::ProgramHeader],
    endian: Endianness,
    data: &'a Bounded<'a, R>,
}

impl<'a, H: FileHeader<Endian = Endianness>, R: Read + Seek> Segments<'a, H, R> {
    fn named(&self, dynamic: &[H::Dyn]) -> Option<Named> {
        let entries: Vec<(i64, u64)> = dynamic
            .iter()
            .map(|entry| (entry.tag(self.endian).0, entry.val(self.endian)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL.0)
            .collect();
        let value = |wanted: elf::DynamicTag| entries.iter().find_map(|(tag, value)| (*tag == wanted.0).then_some(*value));
        let strings = match value(elf::DT_STRTAB) {
            Some(address) => self.bytes_from(address)?,
            None => 0..0,
        };
        let string = |at: u64| -> Option<&'a [u8]> {
            let start = strings.start.checked_add(at).filter(|start| *start < strings.end)?;
            self.data.read_bytes_at_until(start..strings.end, 0).ok()
        };
        let needed = entries.iter().filter(|(tag, _)| *tag == elf::DT_NEEDED.0).take(N_LIBRARIES);
        let libraries = needed.map(|(_, at)| string(*at).map(text)).collect::<Option<_>>()?;
        let libc = match value(elf::DT_VERNEED) {
            Some(address) => self.newest(self.bytes_from(address)?, &string)?,
            None => None,
        };
        Some(Named { is_pie: value(elf::DT_FLAGS_1).is_some_and(|flags| flags & elf::DF_1_PIE.0 != 0), libc, libraries })
    }

    /// Returns the newest version of the GNU C library among those that are needed, of whichever of its files. A weak one may be missing.
    fn newest(&self, needs: Range<u64>, string: &dyn Fn(u64) -> Option<&'a [u8]>) -> Option<Option<Version>> {
        let mut newest = None;
        let mut at = needs.start;
        loop {
            let need: &Verneed<Endianness> = self.data.read_at(at).ok()?;
            let mut version_at = at.checked_add(need.vn_aux.get(self.endian).into())?;
            for _ in 0..need.vn_cnt.get(self.endian) {
                let version: &Vernaux<Endianness> = self.data.read_at(version_at).ok()?;
                if !version.vna_flags.get(self.endian).contains(VER_FLG_WEAK) {
                    newest = newest.max(Version::of_symbol(string(version.vna_name.get(self.endian).into())?));
                }
                version_at = version_at.checked_add(version.vna_next.get(self.endian).into())?;
            }
            match need.vn_next.get(self.endian) {
                0 => return Some(newest),
                next => at = at.checked_add(next.into())?,
            }
        }
    }

    /// Returns where in the file the bytes lie that are loaded to an address and behind it.
    fn bytes_from(&self, address: u64) -> Option<Range<u64>> {
        self.headers.iter().filter(|segment| segment.p_type(self.endian) == elf::PT_LOAD).find_map(|segment| {
            let (offset, len) = segment.file_range(self.endian);
            let within = address.checked_sub(segment.p_vaddr(self.endian).into()).filter(|within| *within < len)?;
            Some(offset.checked_add(within)?..offset.checked_add(len)?)
        })
    }
}

/// A version of the GNU C library, compared by its numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<u32>);

impl Version {
    /// Reads the name of a symbol version. GLIBC_PRIVATE says nothing about others than the library itself.
    fn of_symbol(name: &[u8]) -> Option<Self> {
        let name = name.strip_prefix(b"GLIBC_")?;
        if name == b"ABI_DT_RELR" {
            // What marks programs with relative relocations in short form, which the loader reads since then.
            return Some(Self(vec![2, 36]));
        }
        let parts = std::str::from_utf8(name).ok()?.split('.');
        let number = |part: &str| part.parse().ok().filter(|_| part.len() <= 5 && part.bytes().all(|b| b.is_ascii_digit()));
        let numbers: Vec<u32> = parts.map(number).collect::<Option<_>>()?;
        (2..=4).contains(&numbers.len()).then_some(Self(numbers))
    }

    fn text(&self) -> String {
        self.0.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
    }
}

fn text(bytes: &[u8]) -> String {
    shorten(&escape(bytes), NAME_LEN)
}

fn machine(number: u16, is_64: bool, is_little: bool) -> String {
    let name = match (elf::Machine(number), is_64, is_little) {
        (elf::EM_X86_64, true, true) => "x86_64",
        (elf::EM_386, false, true) => "i686",
        (elf::EM_AARCH64, true, true) => "aarch64",
        (elf::EM_AARCH64, true, false) => "aarch64_be",
        (elf::EM_ARM, false, true) => "arm",
        (elf::EM_RISCV, true, true) => "riscv64",
        (elf::EM_RISCV, false, true) => "riscv32",
        (elf::EM_PPC64, true, true) => "ppc64le",
        (elf::EM_PPC64, true, false) => "ppc64",
        (elf::EM_S390, true, false) => "s390x",
        (elf::EM_LOONGARCH, true, true) => "loongarch64",
        _ => return format!("elf-{number}"),
    };
    name.to_owned()
}

#[cfg(test)]
#[path = "elf/tests.rs"]
pub(crate) mod tests;
