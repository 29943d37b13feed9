//! What holds a cache together: the head and all that it names but packs, read from the bucket.

use std::sync::Arc;

use df_core::Digest;

use super::{AGAIN, Findings};
use crate::s3::S3Store;
use crate::s3::failure::BucketError;
use crate::s3::format::FormatError;
use crate::s3::format::condemned::Condemned;
use crate::s3::format::head::{HEAD_LEN, Head};
use crate::s3::format::log::{LOG_LEN, Record};
use crate::s3::format::name::{Reference, Space, log_key};
use crate::s3::format::roots::Roots;
use crate::s3::format::segment::Segment;
use crate::s3::identity::{cache_key, cache_of, copy_key};
use crate::s3::objects::{Key, ObjectError};
use crate::s3::swap::{View, head_key};

impl S3Store {
    /// Reads the head and what it names but packs; once more when something seems wrong that others may have taken away.
    pub(in super::super) fn check_structure(&self) -> Result<Findings, BucketError> {
        for _ in 1..AGAIN {
            let (head, findings) = self.check_structure_once()?;
            let moved = |head: &Head| Ok::<_, BucketError>(self.read_head()?.is_some_and(|(now, _)| now != *head));
            match head {
                Some(head) if !findings.is_empty() && moved(&head)? => {}
                _ => return Ok(findings),
            }
        }
        Ok(self.check_structure_once()?.1)
    }

    fn check_structure_once(&self) -> Result<(Option<Head>, Findings), BucketError> {
        let mut findings = Findings::default();
        let Some(head) = self.check_head(&mut findings)? else { return Ok((None, findings)) };
        if head.sequence > 1 {
            self.check_identity(head.cache, &mut findings)?;
        }
        if let Some(reference) = &head.roots {
            self.check_object(&head, Space::Table, reference, &mut findings, |bytes| Roots::decode(bytes).map(drop))?;
        }
        if let Some(reference) = &head.condemned {
            self.check_object(&head, Space::Table, reference, &mut findings, |bytes| Condemned::decode(bytes).map(drop))?;
        }
        for reference in &head.segments {
            self.check_object(&head, Space::Segment, reference, &mut findings, |bytes| Segment::decode(bytes).map(drop))?;
        }
        self.check_records(&head, &mut findings)?;
        Ok((Some(head), findings))
    }

    /// Returns the newest view, when all of it can be read; what cannot was found already, or is now.
    pub(in super::super) fn readable_view(&self, findings: &mut Findings) -> Result<Option<Arc<View>>, BucketError> {
        let read = self.with_view(|view| {
            self.index(view)?;
            self.condemned(&view.head)?;
            Ok(view.clone())
        });
        match read {
            Err(BucketError::HeadLost) => Ok(None),
            Err(BucketError::Damaged { key, source }) => {
                findings.objects.entry(key).or_insert_with(|| source.to_string());
                Ok(None)
            }
            Err(BucketError::Gone { key }) => {
                findings.objects.entry(key).or_insert_with(|| GONE.to_owned());
                Ok(None)
            }
            result => result,
        }
    }

    fn check_head(&self, findings: &mut Findings) -> Result<Option<Head>, BucketError> {
        let lost = match self.read_head() {
            Ok(Some((head, _))) => return Ok(Some(head)),
            Ok(None) if !self.has_identity()? => return Ok(None),
            Ok(None) => GONE.to_owned(),
            Err(BucketError::Damaged { source, .. }) => source.to_string(),
            Err(BucketError::Object(ObjectError::TooLong { .. } | ObjectError::Malformed { .. })) => OTHER.0.to_owned(),
            Err(error) => return Err(error),
        };
        findings.objects.insert(head_key(), lost);
        Ok(None)
    }

    /// Reads what says which cache this is. One that a program of before made may have it only once.
    fn check_identity(&self, cache: [u8; 16], findings: &mut Findings) -> Result<(), BucketError> {
        let names_it = |bytes: &[u8]| if cache_of(bytes) == Some(cache) { Ok(()) } else { Err(OTHER) };
        self.check(cache_key(), HEAD_LEN, findings, names_it)?;
        let mut copy = Findings::default();
        self.check(copy_key(), HEAD_LEN, &mut copy, names_it)?;
        copy.objects.retain(|_, why| why != GONE);
        findings.objects.append(&mut copy.objects);
        Ok(())
    }

    fn check_object(
        &self,
        head: &Head,
        space: Space,
        reference: &Reference,
        findings: &mut Findings,
        decode: impl Fn(&[u8]) -> Result<(), FormatError>,
    ) -> Result<(), BucketError> {
        // What lies in the head was compared with its digest when that was read.
        if let Some(bytes) = head.kept(reference) {
            if let Err(error) = decode(bytes) {
                findings.objects.insert(reference.name.key(space), error.to_string());
            }
            return Ok(());
        }
        self.check(reference.name.key(space), u64::from(reference.len), findings, |bytes| {
            if Digest::of(bytes) == reference.digest { decode(bytes) } else { Err(OTHER) }
        })
    }

    /// Reads the records of the commits that the head remembers. Older ones may be gone, the newest must be there.
    fn check_records(&self, head: &Head, findings: &mut Findings) -> Result<(), BucketError> {
        for (n, &txid) in head.txids.iter().enumerate() {
            let sequence = head.sequence - n as u64;
            let key = log_key(sequence, txid);
            let mut found = Findings::default();
            self.check(key.clone(), LOG_LEN, &mut found, |bytes| match Record::decode(bytes) {
                Ok(record) if record.key() == key && (n > 0 || record.head == *head) => Ok(()),
                Ok(_) => Err(FormatError("it is the record of another commit")),
                Err(error) => Err(error),
            })?;
            found.objects.retain(|_, why| n == 0 || why != GONE);
            findings.objects.append(&mut found.objects);
        }
        Ok(())
    }

    fn check(
        &self,
        key: Key,
        limit: u64,
        findings: &mut Findings,
        check: impl Fn(&[u8]) -> Result<(), FormatError>,
    ) -> Result<(), BucketError> {
        let why = match self.objects.get(&key, limit) {
            Ok(object) => match check(&object.bytes) {
                Ok(()) => return Ok(()),
                Err(FormatError::NEWER) => return Err(BucketError::Newer { key }),
                Err(error) => error.to_string(),
            },
            Err(ObjectError::Absent { .. }) => GONE.to_owned(),
            Err(ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => OTHER.0.to_owned(),
            Err(error) => return Err(error.into()),
        };
        findings.objects.insert(key, why);
        Ok(())
    }
}

/// Said of what is not there.
pub(in super::super) const GONE: &str = "it is gone";
const OTHER: FormatError = FormatError("it has other bytes than when it was written");
