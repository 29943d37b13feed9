//! "Commit C by recipe R is image I", with how it is run and verified: what people call a version.
//!
//! # Format, version 1
//!
//! A release is one line of JSON: the fields of [`Release`] in their order, maps sorted, no spaces, absent options left out, no end of line. Its name is
//! the BLAKE3 of those bytes. `format` is 1; a reader refuses any other, and any text that is not the one encoding of what it says.
//! `testdata/release-v1.json` is a worked example. Limit: [`crate::limits::RELEASE_LEN`].

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{ImageId, RecipeKey, ReleaseId};
use crate::limits;
use crate::name::{AppName, CommitId, PathText};
use crate::spec::{FIRST_EPOCH, Probe, RunSection, Sandbox};
use crate::time::Timestamp;

/// What is deployed: an image, where it comes from, how it is run and how it is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// 1.
    pub format: u32,
    /// The application.
    pub app: AppName,
    /// The commit that it was built from.
    pub commit: CommitId,
    /// When that commit was made, as it says: equal commits give equal releases.
    pub committed: Timestamp,
    /// How it was built.
    pub recipe_key: RecipeKey,
    /// Whether the build was shut in.
    pub sandbox: Sandbox,
    /// What it is.
    pub image: ImageId,
    /// Bytes of its files.
    pub image_len: u64,
    /// What runs; nothing for an application that is only files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunSection>,
    /// What the programs of the image ask of a machine, in order of their paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<ProgramNeeds>,
    /// How a running version is verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<Probe>,
}

/// What one ELF file of an image asks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramNeeds {
    /// Its path in the image.
    pub path: PathText,
    /// The architecture, as `uname -m` says it (`x86_64`), or `elf-N` for one that is not known.
    pub machine: String,
    /// The program that loads it (`/lib64/ld-linux-x86-64.so.2`); none for a static one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    /// The newest version of the GNU C library that it names a symbol of (`2.34`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libc: Option<String>,
}

/// Bytes are not a release.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReleaseError {
    #[error("a release of more than {} bytes", limits::RELEASE_LEN)]
    TooLong,
    #[error("not a release")]
    Json(#[source] serde_json::Error),
    #[error("a release of format {0}, this program knows 1")]
    Format(u32),
    #[error("not the canonical form of a release")]
    NotCanonical,
}

impl Release {
    /// Returns the canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release has no map keys that are not strings")
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// Refuses what is too long, of another format, or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReleaseError> {
        if bytes.len() > limits::RELEASE_LEN {
            return Err(ReleaseError::TooLong);
        }
        let release: Self = serde_json::from_slice(bytes).map_err(ReleaseError::Json)?;
        if release.format != 1 {
            return Err(ReleaseError::Format(release.format));
        }
        if release.encode() != bytes {
            return Err(ReleaseError::NotCanonical);
        }
        Ok(release)
    }

    /// Returns which form the application's own data has while this release serves; files alone have none that could change.
    pub fn data_epoch(&self) -> u32 {
        self.run.as_ref().map_or(FIRST_EPOCH, |run| run.data_epoch)
    }

    /// Returns the release's name.
    pub fn id(&self) -> ReleaseId {
        ReleaseId(Digest::of(&self.encode()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Label;
    use crate::spec::{Connections, Handoff, Port, RunLimits, Transport, UnixSocket};
    use std::time::Duration;

    fn example() -> Release {
        let http: Label = "http".parse().expect("a label");
        Release {
            format: 1,
            app: "greeter".parse().expect("a name"),
            commit: "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit"),
            committed: Timestamp(315_532_800),
            recipe_key: RecipeKey(Digest::of(b"recipe")),
            sandbox: Sandbox::Off,
            image: ImageId(Digest::of(b"image")),
            image_len: 42,
            needs: vec![],
            run: Some(RunSection {
                exec: "bin/greeter".parse().expect("a path"),
                args: vec![],
                env: [("RUST_LOG".to_owned(), "info".to_owned())].into(),
                env_file: None,
                user: None,
                limits: RunLimits { memory: None, nofile: Some(4096), pids: None },
                ports: [(
                    http.clone(),
                    Port {
                        host: None,
                        port: 8080,
                        transport: Transport::Tcp,
                        handoff: Handoff::Listener,
                        connections: Connections::Drain,
                    },
                )]
                .into(),
                exclusive: false,
                ready: Duration::from_secs(30),
                drain: Duration::from_secs(30),
                data_epoch: 1,
                prove: true,
                require_zero_loss: false,
            }),
            verify: vec![Probe::Http { port: http, path: "/health".into(), status: 200 }],
        }
    }

    #[test]
    fn golden_bytes() {
        let golden = include_str!("../testdata/release-v1.json").trim();
        assert_eq!(String::from_utf8(example().encode()).expect("JSON"), golden);
        assert_eq!(Release::decode(golden.as_bytes()).expect("a release"), example());
        assert_eq!(example().id().to_string(), include_str!("../testdata/release-v1.id").trim());
    }

    #[test]
    fn a_changed_setting_is_a_new_release() {
        let mut other = example();
        other.run.as_mut().expect("it runs").args.push("-v".into());
        assert_ne!(other.id(), example().id());
    }

    #[test]
    fn the_epoch_of_the_data_is_part_of_a_release_and_the_first_one_is_as_good_as_none() {
        let mut other = example();
        other.run.as_mut().expect("it runs").data_epoch = 2;
        let text = String::from_utf8(other.encode()).expect("JSON");
        assert!(text.contains("\"drain\":30000,\"data_epoch\":2}"), "{text}");
        assert_eq!(Release::decode(text.as_bytes()).expect("a release").data_epoch(), 2);
        assert_eq!(example().data_epoch(), 1);
        assert!(
            Release::decode(text.replace("\"data_epoch\":2", "\"data_epoch\":1").as_bytes()).is_err(),
            "two encodings of one"
        );
        assert_eq!(Release { run: None, ..other }.data_epoch(), 1);
    }

    #[test]
    fn ports_that_are_not_of_tcp_say_so() {
        let mut other = example();
        let port = other.run.as_mut().expect("it runs").ports.values_mut().next().expect("a port");
        port.transport = Transport::Udp;
        let text = String::from_utf8(other.encode()).expect("JSON");
        assert!(text.contains(r#""port":8080,"transport":"udp","handoff":"listener""#), "{text}");
        let port = other.run.as_mut().expect("it runs").ports.values_mut().next().expect("a port");
        let path = crate::endpoint::SocketPath::new("/run/a.sock").expect("a path");
        (port.port, port.transport) = (0, Transport::Unix(UnixSocket { path, mode: 0o660 }));
        let text = String::from_utf8(other.encode()).expect("JSON");
        assert!(text.contains(r#""port":0,"transport":{"unix":{"path":"/run/a.sock","mode":432}},"#), "{text}");
        assert_eq!(Release::decode(text.as_bytes()).expect("a release"), other);
        assert!(Release::decode(text.replace("/run/a.sock", "/run/../a").as_bytes()).is_err());
    }

    #[test]
    fn how_losses_are_looked_for_is_part_of_a_release_and_the_usual_way_is_left_out() {
        let mut other = example();
        let run = other.run.as_mut().expect("it runs");
        (run.prove, run.require_zero_loss) = (false, true);
        let text = String::from_utf8(other.encode()).expect("JSON");
        assert!(text.contains("\"drain\":30000,\"prove\":false,\"require_zero_loss\":true}"), "{text}");
        assert_eq!(Release::decode(text.as_bytes()).expect("a release"), other);
        assert!(!String::from_utf8(example().encode()).expect("JSON").contains("prove"));
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let golden = String::from_utf8(example().encode()).expect("JSON");
        for bad in [
            format!("{golden}\n"),
            golden.replacen(':', ": ", 1),
            golden.replacen("\"format\":1", "\"format\":2", 1),
            golden.replacen("\"app\"", "\"x\":1,\"app\"", 1),
            String::new(),
        ] {
            assert!(Release::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
