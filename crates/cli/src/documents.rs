//! The documents beside a release: how it was built, and what of. Made once, kept in the cache as long as the release.

use std::path::PathBuf;

use df_build::Made;
use df_cache::Document;
use df_cache::store::Store as _;

use crate::failure::Failure;
use crate::store::Shelf;

/// Where the documents of a release are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// SLSA provenance, in an in-toto statement.
    pub provenance: PathBuf,
    /// The CycloneDX bill of materials.
    pub sbom: PathBuf,
}

/// Returns where the documents of a release are; those that are missing, or damaged, are made.
///
/// # Errors
/// The cache cannot be read or written.
pub fn keep(shelf: &Shelf, made: &Made<'_>) -> Result<Places, Failure> {
    Ok(Places {
        provenance: keep_one(shelf, made, Document::Provenance, df_build::provenance)?,
        sbom: keep_one(shelf, made, Document::Sbom, df_build::sbom)?,
    })
}

/// Returns where the documents of a release are, when all are there.
pub fn kept(shelf: &Shelf, release: &df_core::Release) -> Option<Places> {
    let place = |document| shelf.store().document_file(&release.app, release.id(), document).ok().flatten();
    Some(Places { provenance: place(Document::Provenance)?, sbom: place(Document::Sbom)? })
}

fn keep_one(
    shelf: &Shelf,
    made: &Made<'_>,
    document: Document,
    write: impl FnOnce(&Made<'_>) -> Vec<u8>,
) -> Result<PathBuf, Failure> {
    let (store, app, id) = (shelf.store(), &made.release.app, made.release.id());
    let place = || store.document_file(app, id, document);
    // One that is damaged is replaced.
    if let Ok(Some(place)) = place() {
        return Ok(place);
    }
    let failed = |error: &dyn std::error::Error| Failure::here("cache", error).next("df cache status");
    store.attach(app, id, document, &write(made)).map_err(|error| failed(&error))?;
    let gone = || Failure::new(crate::exit::Exit::Failed, "cache", format!("the {document} is gone again")).next("df build");
    place().map_err(|error| failed(&error))?.ok_or_else(gone)
}
