//! Taking from a node what it holds: contents of files, checked as they come, and releases.
//!
//! For each content that was asked for a node says one thing, in the order of the question, and its length is known before: so it cannot send another one, too
//! much, or for ever. What does not make the digest is an error, and whoever takes the bytes keeps none of them.

use df_core::{AppName, Bundle, Digest, Hasher, ImageId, Release, ReleaseId};
use df_wire::message::{BLOBS, Unread};

use super::*;

/// A node that sends fewer bytes in a second is as good as silent.
const SLOWEST: u64 = 4096;

/// What a node holds was not handed out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TakeError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("its df-node is older and hands out nothing")]
    Old,
    #[error("the node sent other bytes than those of content {}", .0.short())]
    WrongBytes(Digest),
    #[error("the node sent another release than {}", .0.short())]
    WrongRelease(ReleaseId),
    #[error("what the node sent cannot be kept")]
    Here(#[source] io::Error),
}

/// Where contents go that come from a node.
pub(crate) trait Landing {
    /// Takes the next bytes of a content.
    fn bytes(&mut self, digest: Digest, bytes: Vec<u8>) -> io::Result<()>;

    /// The content is complete, and what its digest says.
    fn whole(&mut self, digest: Digest) -> io::Result<()>;

    /// The node does not hand it out.
    fn none(&mut self, digest: Digest, why: Unread);
}

impl Connection {
    /// Takes contents of an image, at most [`BLOBS`], with their lengths; `landing` gets each once.
    ///
    /// # Errors
    /// The session is over then, unless the node refused the request as a whole.
    pub(crate) async fn take_blobs(
        &mut self,
        image: ImageId,
        wanted: &[(Digest, u64)],
        landing: &mut dyn Landing,
    ) -> Result<(), TakeError> {
        assert!(wanted.len() <= BLOBS, "whoever asks keeps to the limit");
        let digests = wanted.iter().map(|(digest, _)| *digest).collect();
        let taken = self.take(&Request::Blobs { image, digests }, wanted, landing).await;
        if let Err(error) = &taken
            && !matches!(error, TakeError::Node(NodeError::Fault(_)))
        {
            // Whatever else it says of this is not listened to.
            drop(self.input.take());
        }
        taken
    }

    async fn take(&mut self, request: &Request, wanted: &[(Digest, u64)], landing: &mut dyn Landing) -> Result<(), TakeError> {
        let silence = self.silence();
        let len = wanted.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
        let deadline = Instant::now() + SILENCES * silence + Duration::from_secs(len / SLOWEST);
        timeout(silence, self.tell(request)).await.map_err(|_| NodeError::Silent(silence))??;
        for &(digest, len) in wanted {
            match self.heard_by(silence, deadline).await? {
                Heard::Message(FromNode::Event(Event::Blob { digest: told, len: told_len }))
                    if (told, told_len) == (digest, len) =>
                {
                    self.take_one(digest, len, (silence, deadline), landing).await?;
                }
                Heard::Message(FromNode::Event(Event::NoBlob { digest: told, why })) if told == digest => {
                    landing.none(digest, why);
                }
                Heard::Message(FromNode::Reply(Reply::Fault(mut fault))) => {
                    bounds::fault(&mut fault);
                    return Err(NodeError::Fault(fault).into());
                }
                _ => return Err(NodeError::Answer.into()),
            }
        }
        match self.heard_by(silence, deadline).await? {
            Heard::Message(FromNode::Reply(Reply::Done)) => Ok(()),
            _ => Err(NodeError::Answer.into()),
        }
    }

    async fn take_one(
        &mut self,
        digest: Digest,
        len: u64,
        (silence, deadline): (Duration, Instant),
        landing: &mut dyn Landing,
    ) -> Result<(), TakeError> {
        let (mut left, mut hasher) = (len, Hasher::new());
        while left > 0 {
            let Heard::Bytes(bytes) = self.heard_by(silence, deadline).await? else { return Err(NodeError::Answer.into()) };
            left = left.checked_sub(bytes.len() as u64).ok_or(NodeError::Answer)?;
            hasher.update(&bytes);
            landing.bytes(digest, bytes).map_err(TakeError::Here)?;
        }
        if hasher.finish() != digest {
            return Err(TakeError::WrongBytes(digest));
        }
        landing.whole(digest).map_err(TakeError::Here)
    }

    async fn heard_by(&mut self, silence: Duration, deadline: Instant) -> Result<Heard<FromNode>, NodeError> {
        let left = deadline.saturating_duration_since(Instant::now());
        timeout(silence.min(left), self.next()).await.map_err(|_| NodeError::Silent(silence))?
    }

    /// Takes a release that the node holds, with who vouched for it there.
    ///
    /// # Errors
    /// It holds none, or says another.
    pub async fn release(&mut self, app: &AppName, release: ReleaseId) -> Result<(Release, Option<Bundle>), TakeError> {
        let reply = self.ask_soon(&Request::Release { app: app.clone(), release }).await?;
        let Reply::Release { release: text, attestations } = reply else { return Err(NodeError::Answer.into()) };
        let found = Release::decode(text.as_bytes()).map_err(|_| TakeError::WrongRelease(release))?;
        if found.id() != release || found.app != *app {
            return Err(TakeError::WrongRelease(release));
        }
        // What cannot be read vouches for nothing.
        Ok((found, attestations.and_then(|bundle| Bundle::decode(bundle.as_bytes()).ok())))
    }
}
