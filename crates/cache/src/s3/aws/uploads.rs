//! Uploads in parts that nobody will finish: their parts are stored, and paid for, until somebody says so.

use aws_sdk_s3::types::MultipartUpload;
use df_core::Timestamp;

use super::failure::{self, Failure};
use super::{AwsObjects, Verb, within};
use crate::s3::objects::{Key, ObjectError};

/// How many pages are looked at in one go; what is left is there the next time.
const PAGES: usize = 100;

impl AwsObjects {
    /// Removes what uploads left that were begun before some time and never ended, and returns how many there were.
    pub(super) fn abandon_before(&self, before: Timestamp) -> Result<u64, ObjectError> {
        let about = Key::new("uploads").expect("that is a key");
        let (mut n_removed, mut marker) = (0, None);
        for _ in 0..PAGES {
            let page = self.ask_again(&about, Verb::List, 0, async || self.uploads(marker.clone()).await)?;
            for (key, upload) in page.uploads().iter().filter_map(|upload| self.left_over(upload, before)) {
                self.give_up(&key, &upload).map_err(|failure| failure.about(&key))?;
                n_removed += 1;
            }
            marker = page.next_key_marker().zip(page.next_upload_id_marker()).map(|(key, id)| (key.to_owned(), id.to_owned()));
            if page.is_truncated() != Some(true) || marker.is_none() {
                break;
            }
        }
        Ok(n_removed)
    }

    async fn uploads(
        &self,
        marker: Option<(String, String)>,
    ) -> Result<aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput, Failure> {
        let (key, id) = marker.unzip();
        let request = self
            .client
            .list_multipart_uploads()
            .bucket(self.address.bucket())
            .prefix(self.address.full(""))
            .set_key_marker(key)
            .set_upload_id_marker(id);
        within(self.patience.silence, async { request.send().await.map_err(|error| failure::of(&error)) }).await
    }

    /// Returns the key and the name of an upload that is this cache's and old enough.
    fn left_over(&self, upload: &MultipartUpload, before: Timestamp) -> Option<(Key, String)> {
        let key = Key::new(self.address.below(upload.key()?)?).ok()?;
        let old = upload.initiated().is_some_and(|begun| begun.secs() < before.0);
        old.then(|| upload.upload_id().map(str::to_owned)).flatten().map(|id| (key, id))
    }

    /// Removes the parts of one upload; that there is none is as good.
    pub(super) fn give_up(&self, key: &Key, upload: &str) -> Result<(), Failure> {
        let given_up = self.ask(Verb::Delete, 0, async || {
            let request =
                self.client.abort_multipart_upload().bucket(self.address.bucket()).key(self.full(key)).upload_id(upload);
            within(self.patience.silence, async { request.send().await.map_err(|error| failure::of(&error)) }).await
        });
        match given_up {
            Err((failure, _)) if failure.kind != failure::Kind::NoUpload => Err(failure),
            _ => Ok(()),
        }
    }
}
