//! What a node has to be told so that it believes a release, decided from what it said of itself: pure.
//!
//! The node decides for itself; this side decides the same before it sends anything, so that a refusal costs no bytes.

use df_core::attestation::{Distrust, Policy, Statement, Subject, accepts};
use df_core::{Bundle, Release};
use df_wire::Request;
use df_wire::message::Trust;

/// A release with those who vouch for it, and whom nodes shall believe.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What is vouched for.
    pub subject: Subject,
    /// Who vouches.
    pub bundle: Option<Bundle>,
    /// Whom nodes shall believe, as df.yaml says; a policy that asks for nothing says nothing.
    pub policy: Policy,
}

/// A node would not believe a release; nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Untrusted {
    #[error("version {commit} of {app} is not trusted: {why}")]
    Release { app: df_core::AppName, commit: String, why: Distrust },
    #[error("the node believes {node}, and df.yaml names {here}: a change has to be attested by those whom the node believes")]
    Policy { node: String, here: String },
    #[error("its df-node is too old to know whom it shall believe")]
    Old,
}

impl Credentials {
    /// Puts together what is known of a release.
    pub fn of(release: &Release, bundle: Option<Bundle>, policy: Policy) -> Self {
        Self { subject: Subject::of(release), bundle, policy }
    }

    /// Decides whether those whom a policy names vouch for the release.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn satisfy(&self, policy: &Policy) -> Result<(), Untrusted> {
        accepts(policy, &Statement::release(&self.subject), self.bundle.as_ref()).map_err(|why| Untrusted::Release {
            app: self.subject.app.clone(),
            commit: self.subject.commit.short().to_owned(),
            why,
        })
    }

    /// Returns what a node is told before it is sent anything: at first contact whom to believe, then who vouches for what comes.
    ///
    /// # Errors
    /// It would refuse.
    pub fn requests(&self, node: Option<&Trust>) -> Result<Vec<Request>, Untrusted> {
        let Some(node) = node else {
            return if self.policy.is_asking() { Err(Untrusted::Old) } else { Ok(vec![]) };
        };
        match node.pinned.as_ref().map(|pinned| &pinned.policy).filter(|policy| policy.is_asking()) {
            None if !self.policy.is_asking() => Ok(vec![]),
            None => {
                self.satisfy(&self.policy)?;
                Ok(vec![Request::Pin { policy: self.policy.clone() }, self.admit()])
            }
            Some(pinned) if self.policy.is_asking() && *pinned != self.policy => {
                Err(Untrusted::Policy { node: words(pinned, &self.policy), here: words(&self.policy, pinned) })
            }
            Some(pinned) => {
                self.satisfy(pinned)?;
                Ok(vec![self.admit()])
            }
        }
    }

    fn admit(&self) -> Request {
        let bytes = self.bundle.as_ref().map(Bundle::encode).unwrap_or_default();
        Request::Admit { subject: self.subject.clone(), attestations: String::from_utf8(bytes).expect("JSON is UTF-8") }
    }
}

/// Returns a policy in words; of keys those that another does not have.
fn words(policy: &Policy, other: &Policy) -> String {
    let own: Vec<String> = policy.keys().iter().filter(|key| !other.keys().contains(key)).map(|key| key.fingerprint()).collect();
    if own.is_empty() { policy.to_string() } else { format!("{policy}, among them {}", own.join(", ")) }
}

#[cfg(test)]
mod tests {
    use df_core::attestation::Pinned;
    use df_core::{Digest, ImageId, RecipeKey, ReleaseId};

    use super::*;

    /// A key and what it vouched for, of the worked example of bundles.
    fn example() -> (Policy, Policy, Bundle) {
        let bundle = Bundle::decode(include_bytes!("../../core/testdata/attestations-v1.json")).expect("a bundle");
        let key = |n: usize| bundle.attestations()[n].key().clone();
        let policy = |n| Policy::new(1, vec![key(n)]).expect("a policy");
        (policy(0), policy(1), bundle)
    }

    fn credentials(bundle: Option<Bundle>, policy: Policy) -> Credentials {
        let subject = Subject {
            release: ReleaseId(Digest::of(b"release")),
            app: "greeter".parse().expect("a name"),
            commit: "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit"),
            recipe_key: RecipeKey(Digest::of(b"recipe")),
            image: ImageId(Digest::of(b"image")),
        };
        Credentials { subject, bundle, policy }
    }

    fn node(policy: Option<&Policy>) -> Option<Trust> {
        Some(Trust { pinned: policy.map(|policy| Pinned { sequence: 0, policy: policy.clone() }) })
    }

    #[test]
    fn a_node_is_told_no_more_than_it_has_to_know() {
        let (mine, other, bundle) = example();
        let (none, all) = (Policy::default(), Some(bundle));
        let check = |node: Option<Trust>, bundle: &Option<Bundle>, policy: &Policy, expected: Result<usize, &str>| {
            let told = credentials(bundle.clone(), policy.clone()).requests(node.as_ref());
            let told = told.map(|requests| requests.len()).map_err(|error| error.to_string());
            match expected {
                Ok(n) => assert_eq!(told, Ok(n)),
                Err(words) => assert!(told.clone().is_err_and(|said| said.contains(words)), "{told:?}"),
            }
        };
        check(None, &None, &none, Ok(0));
        check(None, &all, &mine, Err("too old"));
        check(node(None), &None, &none, Ok(0));
        check(node(Some(&none)), &None, &none, Ok(0));
        check(node(None), &all, &mine, Ok(2));
        check(node(Some(&none)), &all, &mine, Ok(2));
        check(node(None), &None, &mine, Err("has none"));
        check(node(Some(&mine)), &all, &mine, Ok(1));
        check(node(Some(&mine)), &all, &none, Ok(1));
        check(node(Some(&mine)), &None, &none, Err("has none"));
        check(node(Some(&mine)), &all, &other, Err("the node believes 1 key, among them SHA256:"));
    }
}
