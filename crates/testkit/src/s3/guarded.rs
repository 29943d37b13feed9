//! s3s-fs behind one lock, with what it leaves open closed.
//!
//! - Conditions of a write are looked at and the write is done under one lock: between the two nobody else writes.
//! - A body is read and hashed before the lock is taken, so a client that stalls stalls nobody else, and its checksums are compared before
//!   anything of it is visible (s3s-fs compares them after it replaced the object, and those of parts never).
//! - `If-Match` on an object that is not there is 404, as with AWS; s3s-fs says 412.
//! - Uploads that were begun and not ended can be listed.

use super::lists::{self, ListFault};
use super::objects;
use s3s::checksum::ChecksumHasher;
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};
use s3s_fs::FileSystem;
use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::RwLock;

/// The longest body of one request; AWS allows 5 GiB, which no test needs in memory.
const BODY_LIMIT: usize = 512 << 20;

/// Answers up to this length are read at once; s3s-fs reads 4 KiB at a time.
const AT_ONCE: u64 = 128 << 20;

/// Where objects are written before they have their names; no bucket has such a name.
const STAGING: &str = ".staging";

/// The objects of all buckets, one directory each below `root`.
pub(super) struct Guarded {
    files: FileSystem,
    root: PathBuf,
    lock: RwLock<()>,
    staged: AtomicU64,
    uploads: Mutex<BTreeMap<String, (String, String, SystemTime)>>,
}

/// Reads the body of a put or of a part, and compares it with the checksums that came with it. The two inputs are types of their own with fields of the same names.
macro_rules! check_body {
    ($req:ident) => {
        let body = whole($req.input.body.take(), $req.input.content_length).await?;
        let input = &$req.input;
        let named = [
            (ChecksumAlgorithm::CRC32, &input.checksum_crc32),
            (ChecksumAlgorithm::CRC32C, &input.checksum_crc32c),
            (ChecksumAlgorithm::CRC64NVME, &input.checksum_crc64nvme),
            (ChecksumAlgorithm::SHA1, &input.checksum_sha1),
            (ChecksumAlgorithm::SHA256, &input.checksum_sha256),
        ];
        compare(&body, &named, $req.trailing_headers.as_ref())?;
        $req.input.body = Some(StreamingBlob::from(Body::from(body)));
    };
}

impl Guarded {
    pub(super) fn new(root: &Path) -> Guarded {
        let files = FileSystem::new(root).unwrap_or_else(|error| panic!("serve {}: {error:?}", root.display()));
        let staging = root.join(STAGING);
        // What a server that was killed left there is nobody's.
        let _ = std::fs::remove_dir_all(&staging);
        std::fs::create_dir_all(&staging).unwrap_or_else(|error| panic!("make {}: {error}", staging.display()));
        Guarded { files, root: root.to_owned(), lock: RwLock::new(()), staged: AtomicU64::new(0), uploads: Mutex::default() }
    }

    async fn get(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let place = self.root.join(&req.input.bucket).join(&req.input.key);
        let range = req.input.range;
        let _shared = self.lock.read().await;
        self.has_bucket(&req.input.bucket)?;
        let mut answer = self.files.get_object(req).await?;
        let len = answer.output.content_length.and_then(|len| u64::try_from(len).ok()).unwrap_or(u64::MAX);
        if len <= AT_ONCE {
            let bytes = read(&place, range, len).map_err(|error| s3_error!(error, InternalError))?;
            answer.output.body = Some(StreamingBlob::from(Body::from(bytes)));
        }
        Ok(answer)
    }

    async fn put(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        check_body!(req);
        self.has_bucket(&req.input.bucket)?;
        // Hashed and written beside the bucket, where nobody looks, so that only the renames need the lock.
        let target = (req.input.bucket.clone(), req.input.key.clone());
        let conditions = (req.input.if_match.take(), req.input.if_none_match.take());
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        (req.input.bucket, req.input.key) = (STAGING.to_owned(), number.to_string());
        let staged = (STAGING.to_owned(), number.to_string());
        let answer = self.files.put_object(req).await?;
        let _alone = self.lock.write().await;
        let moved = match self.hold(&conditions, &target.0, &target.1) {
            Ok(()) => objects::rename(&self.root, (&staged.0, &staged.1), (&target.0, &target.1))
                .map_err(|error| s3_error!(error, InternalError)),
            Err(error) => {
                objects::forget(&self.root, &staged.0, &staged.1);
                Err(error)
            }
        };
        moved.map(|()| answer)
    }

    /// Checks the conditions of a write, as AWS does.
    fn hold(&self, conditions: &(Option<ETagCondition>, Option<ETagCondition>), bucket: &str, key: &str) -> S3Result<()> {
        let (matches, none_match) = conditions;
        let etag = objects::etag(&self.root, bucket, key);
        if none_match.as_ref().is_some_and(ETagCondition::is_any) && etag.is_some() {
            return Err(s3_error!(PreconditionFailed, "there is such an object"));
        }
        match (matches, etag) {
            (None, _) | (Some(ETagCondition::Any), Some(_)) => Ok(()),
            (Some(_), None) => Err(s3_error!(NoSuchKey)),
            (Some(ETagCondition::ETag(wanted)), Some(etag)) if wanted.strong_cmp(&ETag::Strong(etag.clone())) => Ok(()),
            (Some(_), Some(_)) => Err(s3_error!(PreconditionFailed, "the object is in another state")),
        }
    }

    async fn put_part(&self, mut req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        check_body!(req);
        let _alone = self.lock.write().await;
        self.files.upload_part(req).await
    }

    async fn begin(&self, req: S3Request<CreateMultipartUploadInput>) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let place = (req.input.bucket.clone(), req.input.key.clone(), SystemTime::now());
        let _alone = self.lock.write().await;
        self.has_bucket(&req.input.bucket)?;
        let answer = self.files.create_multipart_upload(req).await?;
        let id = answer.output.upload_id.clone().unwrap_or_default();
        self.uploads.lock().expect("no panic under this lock").insert(id, place);
        Ok(answer)
    }

    async fn complete(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (bucket, key, id) = (req.input.bucket.clone(), req.input.key.clone(), req.input.upload_id.clone());
        let _alone = self.lock.write().await;
        self.has_what_must_match(req.input.if_match.is_some(), &bucket, &key)?;
        let answer = self.files.complete_multipart_upload(req).await?;
        // The checksums of an object that had this name before are none of the new one's.
        objects::keep_only_etag(&self.root, &bucket, &key);
        self.uploads.lock().expect("no panic under this lock").remove(&id);
        Ok(answer)
    }

    async fn abort(&self, req: S3Request<AbortMultipartUploadInput>) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let id = req.input.upload_id.clone();
        let _alone = self.lock.write().await;
        let answer = self.files.abort_multipart_upload(req).await?;
        self.uploads.lock().expect("no panic under this lock").remove(&id);
        Ok(answer)
    }

    async fn uploads(&self, req: S3Request<ListMultipartUploadsInput>) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let prefix = req.input.prefix.clone().unwrap_or_default();
        let begun = self.uploads.lock().expect("no panic under this lock");
        let own = begun.iter().filter(|(_, (bucket, key, _))| *bucket == req.input.bucket && key.starts_with(&prefix));
        let uploads = own.map(|(id, (_, key, since))| MultipartUpload {
            key: Some(key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(Timestamp::from(*since)),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            bucket: Some(req.input.bucket.clone()),
            is_truncated: Some(false),
            ..Default::default()
        }))
    }

    async fn list(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let fault = req.extensions.get::<ListFault>().cloned();
        let _shared = self.lock.read().await;
        let mut answer = self.files.list_objects_v2(req).await?;
        if let Some(fault) = fault {
            lists::spoil(&mut answer.output, &fault);
        }
        Ok(answer)
    }

    /// The first version of lists differs in the names of its fields.
    async fn list_v1(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let answer = self.list(req.map_input(Into::into)).await?;
        Ok(answer.map_output(|list| ListObjectsOutput {
            contents: list.contents,
            common_prefixes: list.common_prefixes,
            delimiter: list.delimiter,
            encoding_type: list.encoding_type,
            name: list.name,
            prefix: list.prefix,
            max_keys: list.max_keys,
            is_truncated: list.is_truncated,
            next_marker: list.next_continuation_token,
            ..Default::default()
        }))
    }

    fn has_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn has_what_must_match(&self, must: bool, bucket: &str, key: &str) -> S3Result<()> {
        if must && !self.root.join(bucket).join(key).exists() { Err(s3_error!(NoSuchKey)) } else { Ok(()) }
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

/// Writes the operations of [`S3`]: those of ours, those that only read and those that write.
macro_rules! operations {
    (own { $($own:ident = $ours:ident: $own_in:ident -> $own_out:ident;)* }
     read { $($read:ident: $read_in:ident -> $read_out:ident;)* }
     write { $($write:ident: $write_in:ident -> $write_out:ident;)* }) => {
        impl S3 for Guarded {
            $(fn $own<'a, 'b>(&'a self, req: S3Request<$own_in>) -> Answer<'b, $own_out> where 'a: 'b, Self: 'b {
                Box::pin(self.$ours(req))
            })*
            $(fn $read<'a, 'b>(&'a self, req: S3Request<$read_in>) -> Answer<'b, $read_out> where 'a: 'b, Self: 'b {
                Box::pin(async move {
                    let _shared = self.lock.read().await;
                    self.files.$read(req).await
                })
            })*
            $(fn $write<'a, 'b>(&'a self, req: S3Request<$write_in>) -> Answer<'b, $write_out> where 'a: 'b, Self: 'b {
                Box::pin(async move {
                    let _alone = self.lock.write().await;
                    self.files.$write(req).await
                })
            })*
        }
    };
}

operations! {
    own {
        get_object = get: GetObjectInput -> GetObjectOutput;
        put_object = put: PutObjectInput -> PutObjectOutput;
        upload_part = put_part: UploadPartInput -> UploadPartOutput;
        create_multipart_upload = begin: CreateMultipartUploadInput -> CreateMultipartUploadOutput;
        complete_multipart_upload = complete: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput;
        abort_multipart_upload = abort: AbortMultipartUploadInput -> AbortMultipartUploadOutput;
        list_multipart_uploads = uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput;
        list_objects_v2 = list: ListObjectsV2Input -> ListObjectsV2Output;
        list_objects = list_v1: ListObjectsInput -> ListObjectsOutput;
    }
    read {
        head_object: HeadObjectInput -> HeadObjectOutput;
        head_bucket: HeadBucketInput -> HeadBucketOutput;
        get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput;
        list_buckets: ListBucketsInput -> ListBucketsOutput;
        list_parts: ListPartsInput -> ListPartsOutput;
    }
    write {
        create_bucket: CreateBucketInput -> CreateBucketOutput;
        delete_bucket: DeleteBucketInput -> DeleteBucketOutput;
        delete_object: DeleteObjectInput -> DeleteObjectOutput;
        delete_objects: DeleteObjectsInput -> DeleteObjectsOutput;
        copy_object: CopyObjectInput -> CopyObjectOutput;
        upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput;
    }
}

/// Reads a body to its end, which must be where it was announced.
async fn whole(body: Option<StreamingBlob>, announced: Option<i64>) -> S3Result<Vec<u8>> {
    let body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    if announced.is_some_and(|len| len > BODY_LIMIT as i64) {
        return Err(s3_error!(EntityTooLarge));
    }
    let mut body = Body::from(body);
    let bytes = body
        .store_all_limited(BODY_LIMIT)
        .await
        .map_err(|error| S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error))?;
    match announced.map(u64::try_from) {
        Some(len) if len != Ok(bytes.len() as u64) => Err(s3_error!(IncompleteBody)),
        _ => Ok(bytes.to_vec()),
    }
}

/// Compares a body with every checksum that its request names, in headers or in trailers.
fn compare(body: &[u8], named: &[(&'static str, &Option<String>)], trailers: Option<&TrailingHeaders>) -> S3Result<()> {
    for (algorithm, header) in named {
        let name = format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase());
        let trailer = trailers.and_then(|trailers| {
            trailers.read(|map| map.get(&name).and_then(|value| value.to_str().ok()).map(str::to_owned)).flatten()
        });
        let expected = [(*header).clone(), trailer];
        if expected.iter().flatten().any(|expected| checksum(body, algorithm).as_ref() != Some(expected)) {
            return Err(s3_error!(BadDigest, "{name} does not fit the body"));
        }
    }
    Ok(())
}

fn checksum(body: &[u8], algorithm: &str) -> Option<String> {
    let mut hasher = ChecksumHasher::default();
    match algorithm {
        ChecksumAlgorithm::CRC32 => hasher.crc32 = Some(Default::default()),
        ChecksumAlgorithm::CRC32C => hasher.crc32c = Some(Default::default()),
        ChecksumAlgorithm::CRC64NVME => hasher.crc64nvme = Some(Default::default()),
        ChecksumAlgorithm::SHA1 => hasher.sha1 = Some(Default::default()),
        _ => hasher.sha256 = Some(Default::default()),
    }
    hasher.update(body);
    let sums = hasher.finalize();
    let sums = [sums.checksum_crc32, sums.checksum_crc32c, sums.checksum_crc64nvme, sums.checksum_sha1, sums.checksum_sha256];
    sums.into_iter().flatten().next()
}

fn read(place: &Path, range: Option<Range>, len: u64) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(place)?;
    let whole = file.metadata()?.len();
    let start = match range {
        Some(Range::Int { first, .. }) => first,
        Some(Range::Suffix { .. }) => whole - len.min(whole),
        None => 0,
    };
    let mut bytes = vec![0; usize::try_from(len).expect("at most 128 MiB")];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}
