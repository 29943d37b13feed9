//! What is vouched for, as bytes.

use serde::Serialize;

use super::channel::Channel;
use super::policy::Pinned;
use crate::digest::Digest;
use crate::image::{ImageId, RecipeKey, ReleaseId};
use crate::name::{AppName, CommitId};
use crate::release::Release;

/// The type of every payload, as DSSE and in-toto call it.
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Where the predicates are explained; in their names.
const PAGE: &str = "https://github.com/distributive-flow/distributive-flow/blob/main/docs/trust.md";

/// The canonical bytes of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement(Vec<u8>);

/// What is claimed of a release: enough to know it by, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Its name, which covers all of it, settings included.
    pub release: ReleaseId,
    /// The application.
    pub app: AppName,
    /// The commit that it was built from.
    pub commit: CommitId,
    /// How it was built.
    pub recipe_key: RecipeKey,
    /// What it is.
    pub image: ImageId,
}

impl Subject {
    /// Says what a release is.
    pub fn of(release: &Release) -> Self {
        Self {
            release: release.id(),
            app: release.app.clone(),
            commit: release.commit.clone(),
            recipe_key: release.recipe_key,
            image: release.image,
        }
    }
}

#[derive(Serialize)]
struct Claim<'a, P> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: [Named<'a>; 1],
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: &'a P,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    digest: Digests,
}

#[derive(Serialize)]
struct Digests {
    blake3: Digest,
}

impl Statement {
    /// Claims that a release is what it says: this commit, by this recipe, is this image. The subject is the image.
    pub fn release(subject: &Subject) -> Self {
        Self::claim(subject.app.as_str(), subject.image.0, "release-v1", subject)
    }

    /// Claims that these keys are trusted from now on. The subject is the policy's own canonical JSON.
    pub fn trust(pinned: &Pinned) -> Self {
        let json = serde_json::to_vec(pinned).expect("plain data");
        Self::claim("trust", Digest::of(&json), "trust-v1", pinned)
    }

    /// Claims that a release is the newest of its application. The subject is the release.
    pub fn channel(channel: &Channel) -> Self {
        Self::claim(channel.app.as_str(), channel.release.0, "channel-v1", channel)
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns what is signed: the statement with its type, each with its length before it, so that no two readings of it are possible (DSSE's PAE).
    pub fn pae(&self) -> Vec<u8> {
        let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), self.0.len());
        [head.as_bytes(), &self.0].concat()
    }

    fn claim(name: &str, digest: Digest, predicate: &str, body: &impl Serialize) -> Self {
        let claim = Claim {
            kind: "https://in-toto.io/Statement/v1",
            subject: [Named { name, digest: Digests { blake3: digest } }],
            predicate_type: format!("{PAGE}#{predicate}"),
            predicate: body,
        };
        Self(serde_json::to_vec(&claim).expect("plain data"))
    }
}
