//! A git tree read to its leaves, every name and mode judged.

use std::collections::HashMap;

use df_core::manifest::ManifestError;
use df_core::name::NameError;
use df_core::text::escape;
use df_core::{Digest, Entry, Kind, Manifest, TreePath};
use git2::{ErrorCode, ObjectType, Odb, Oid};

use super::{Commit, Repository, is_git_directory};

/// Entries of a source tree, directories counted.
pub(crate) const N_ENTRIES: usize = 1_000_000;
/// Directories in directories.
pub(crate) const DEPTH: usize = 128;
/// Bytes of one file: libgit2 reads a blob as a whole.
pub(crate) const BLOB_LEN: u64 = 512 << 20;
/// Bytes of all files, equal ones counted each time.
pub(crate) const SOURCE_LEN: u64 = 16 << 30;
/// Bytes of one tree object.
const TREE_LEN: u64 = 64 << 20;
/// Bytes of a link's target.
const TARGET_LEN: u64 = 4095;
/// Bytes of a file read by name, such as df.yaml.
const NAMED_FILE_LEN: u64 = 1 << 20;

/// The tree of a commit cannot become source files.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TreeError {
    #[error("the commit holds a name that is not allowed in {dir}")]
    Name { dir: String, source: NameError },
    #[error("the commit holds {path}, which git or another file system would take for .git")]
    GitDirectory { path: TreePath },
    #[error("the commit's directory {dir} lists {name} twice or out of order")]
    Order { dir: String, name: String },
    #[error("{path} is a submodule; df builds only what the commit itself holds")]
    Submodule { path: TreePath },
    #[error("{path} has the mode {mode}, which git does not know")]
    Mode { path: TreePath, mode: String },
    #[error("the commit's directory {dir} is damaged")]
    Damaged { dir: String },
    #[error("{path} is {len} bytes, the limit is {limit}")]
    TooLarge { path: String, len: u64, limit: u64 },
    #[error("{path} lies deeper than {DEPTH} directories")]
    TooDeep { path: TreePath },
    #[error("the commit holds more than {N_ENTRIES} files and directories")]
    TooMany,
    #[error("the commit's files are more than {SOURCE_LEN} bytes")]
    AllTooLarge,
    #[error("the link {path} leaves the source (to {target}); if it may, name the target in build.outside_links")]
    OutsideLink { path: String, target: String },
    #[error("{path} is not a regular file in the commit")]
    NotAFile { path: String },
    #[error("{path} is missing from the repository ({id}); it may be a partial clone, and df fetches nothing")]
    Missing { path: String, id: String },
    #[error("cannot read {path} from the repository")]
    Read { path: String, source: git2::Error },
    #[error("the commit's files make no tree")]
    Manifest(#[from] ManifestError),
}

/// The length and digest of blobs, by their git id.
pub(crate) type Blobs = HashMap<Oid, (u64, Digest)>;

/// One entry of a commit's tree.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub path: TreePath,
    pub id: Oid,
    pub kind: ItemKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Directory,
    File { executable: bool },
    Symlink,
}

impl Repository {
    /// Returns a file of the commit, at most 1 MiB; `None` when the commit has none of that name.
    ///
    /// # Errors
    /// A directory or link of that name is refused, not followed.
    pub fn file(&self, commit: &Commit, path: &TreePath) -> Result<Option<Vec<u8>>, TreeError> {
        let odb = self.odb()?;
        let (mut tree, mut at) = (commit.tree, Vec::new());
        let names: Vec<&[u8]> = path.as_bytes().split(|&b| b == b'/').collect();
        for (i, name) in names.iter().enumerate() {
            let entries = read_tree(&odb, tree, &at)?;
            let Some(item) = entries.into_iter().find(|item| item.path.file_name() == *name) else { return Ok(None) };
            match item.kind {
                ItemKind::Directory if i + 1 < names.len() => (tree, at) = (item.id, item.path.as_bytes().to_vec()),
                ItemKind::File { .. } if i + 1 == names.len() => {
                    return read_bounded(&odb, item.id, ObjectType::Blob, &path.to_string(), NAMED_FILE_LEN).map(Some);
                }
                _ => return Err(TreeError::NotAFile { path: path.to_string() }),
            }
        }
        Ok(None)
    }

    /// Returns the manifest of the commit's tree, read from its objects.
    ///
    /// # Errors
    /// Says which entry cannot be a source file. Links that leave the tree are in it; [`Manifest::outside_links`] names them.
    pub fn manifest(&self, commit: &Commit) -> Result<Manifest, TreeError> {
        Ok(self.manifest_knowing(commit, &Blobs::new())?.0)
    }

    /// Does the same without reading the blobs whose digests are known; returns those of this tree as well.
    pub(crate) fn manifest_knowing(&self, commit: &Commit, known: &Blobs) -> Result<(Manifest, Blobs), TreeError> {
        let items = self.items(commit)?;
        manifest(&self.odb()?, &items, known)
    }

    pub(crate) fn items(&self, commit: &Commit) -> Result<Vec<Item>, TreeError> {
        let odb = self.odb()?;
        let mut items = vec![];
        list(&odb, commit.tree, &[], 0, &mut items)?;
        Ok(items)
    }

    pub(crate) fn blob(&self, item: &Item) -> Result<Vec<u8>, TreeError> {
        let limit = if item.kind == ItemKind::Symlink { TARGET_LEN } else { BLOB_LEN };
        read_bounded(&self.odb()?, item.id, ObjectType::Blob, &item.path.to_string(), limit)
    }

    fn odb(&self) -> Result<Odb<'_>, TreeError> {
        self.git.odb().map_err(|source| TreeError::Read { path: "the object database".into(), source })
    }
}

fn manifest(odb: &Odb<'_>, items: &[Item], known: &Blobs) -> Result<(Manifest, Blobs), TreeError> {
    let mut blobs = Blobs::new();
    let (mut entries, mut total) = (Vec::with_capacity(items.len()), 0_u64);
    for item in items {
        let kind = match item.kind {
            ItemKind::Directory => Kind::Directory,
            ItemKind::Symlink => {
                let target = read_bounded(odb, item.id, ObjectType::Blob, &item.path.to_string(), TARGET_LEN)?;
                Kind::Symlink { target: target.into() }
            }
            ItemKind::File { executable } => {
                let (len, digest) = match blobs.get(&item.id).or_else(|| known.get(&item.id)) {
                    Some(&known) => known,
                    None => {
                        let bytes = read_bounded(odb, item.id, ObjectType::Blob, &item.path.to_string(), BLOB_LEN)?;
                        (bytes.len() as u64, Digest::of(&bytes))
                    }
                };
                blobs.insert(item.id, (len, digest));
                total = total.saturating_add(len);
                if total > SOURCE_LEN {
                    return Err(TreeError::AllTooLarge);
                }
                Kind::File { executable, len, digest }
            }
        };
        entries.push(Entry { path: item.path.clone(), kind });
    }
    Ok((Manifest::new(entries)?, blobs))
}

fn list(odb: &Odb<'_>, tree: Oid, dir: &[u8], depth: usize, items: &mut Vec<Item>) -> Result<(), TreeError> {
    for item in read_tree(odb, tree, dir)? {
        if items.len() >= N_ENTRIES {
            return Err(TreeError::TooMany);
        }
        if depth >= DEPTH {
            return Err(TreeError::TooDeep { path: item.path });
        }
        items.push(item.clone());
        if item.kind == ItemKind::Directory {
            list(odb, item.id, item.path.as_bytes(), depth + 1, items)?;
        }
    }
    Ok(())
}

/// Reads one tree object: `mode SP name NUL id` for each entry, ids of 20 bytes, in git's order.
fn read_tree(odb: &Odb<'_>, tree: Oid, dir: &[u8]) -> Result<Vec<Item>, TreeError> {
    let shown = if dir.is_empty() { "its top directory".to_owned() } else { escape(dir) };
    let bytes = read_bounded(odb, tree, ObjectType::Tree, &shown, TREE_LEN)?;
    let (mut items, mut previous, mut rest) = (vec![], None::<Vec<u8>>, &bytes[..]);
    let mut names = std::collections::HashSet::new();
    while !rest.is_empty() {
        let (mode, name, id, after) = split_entry(rest).ok_or_else(|| TreeError::Damaged { dir: shown.clone() })?;
        rest = after;
        let path = child(dir, name).map_err(|source| TreeError::Name { dir: shown.clone(), source })?;
        if is_git_directory(name) {
            return Err(TreeError::GitDirectory { path });
        }
        // Git sorts a directory as if its name ended in a slash; so a file and a directory of one name need not be neighbours.
        let key = if mode == b"40000" { [name, b"/"].concat() } else { name.to_vec() };
        if !names.insert(name) || previous.is_some_and(|previous| previous >= key) {
            return Err(TreeError::Order { dir: shown, name: escape(name) });
        }
        previous = Some(key);
        let kind = match mode {
            b"40000" => ItemKind::Directory,
            b"100644" | b"100664" => ItemKind::File { executable: false },
            b"100755" => ItemKind::File { executable: true },
            b"120000" => ItemKind::Symlink,
            b"160000" => return Err(TreeError::Submodule { path }),
            _ => return Err(TreeError::Mode { path, mode: escape(mode) }),
        };
        items.push(Item { path, id, kind });
    }
    Ok(items)
}

#[allow(clippy::type_complexity, reason = "mode, name, id, and what follows")]
fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8], Oid, &[u8])> {
    let space = bytes.iter().take(8).position(|&b| b == b' ')?;
    let (mode, rest) = (&bytes[..space], &bytes[space + 1..]);
    let nul = rest.iter().position(|&b| b == 0)?;
    let (name, rest) = (&rest[..nul], &rest[nul + 1..]);
    let (id, rest) = rest.split_at_checked(20)?;
    Some((mode, name, Oid::from_bytes(id).ok()?, rest))
}

fn child(dir: &[u8], name: &[u8]) -> Result<TreePath, NameError> {
    // A slash inside a name would make two components of it.
    if name.contains(&b'/') || name.is_empty() {
        return TreePath::new(&[b"/", name].concat());
    }
    if dir.is_empty() { TreePath::new(name) } else { TreePath::new(&[dir, b"/", name].concat()) }
}

/// Reads an object after its header has said how long it is.
fn read_bounded(odb: &Odb<'_>, id: Oid, expected: ObjectType, path: &str, limit: u64) -> Result<Vec<u8>, TreeError> {
    let failed = |source: git2::Error| match source.code() {
        ErrorCode::NotFound => TreeError::Missing { path: path.to_owned(), id: id.to_string() },
        _ => TreeError::Read { path: path.to_owned(), source },
    };
    let (len, kind) = odb.read_header(id).map_err(failed)?;
    if kind != expected {
        return Err(TreeError::Damaged { dir: path.to_owned() });
    }
    if len as u64 > limit {
        return Err(TreeError::TooLarge { path: path.to_owned(), len: len as u64, limit });
    }
    let object = odb.read(id).map_err(failed)?;
    if object.len() as u64 > limit || object.kind() != expected {
        return Err(TreeError::Damaged { dir: path.to_owned() });
    }
    Ok(object.data().to_vec())
}
