//! A real S3 server in this process, with everything that a bucket of strangers may do to a client; and a second one, moto, from elsewhere.
//!
//! [`Server`] is the s3s library with s3s-fs below it: requests are parsed, their signatures and checksums checked, and conditions
//! kept, as AWS does it. What s3s-fs leaves open is closed in `guarded`: all objects are behind one lock, so that conditional
//! writes cannot race; a body is read whole and its checksums are compared before anything of it is visible.
//!
//! A [`Fault`] makes the server misbehave in one way, for the requests that it names. Every request is recorded, so that a test can
//! count them. The bytes of objects can be read and changed behind the server's back.
//!
//! ```no_run
//! use df_testkit::s3::{Act, Fault, Server, Verb};
//!
//! let server = Server::start();
//! server.fault(Fault::new(Act::LostReply).on(Verb::Put).key("*/head"));
//! // … a client gets server.endpoint(), server.bucket() and server.env() …
//! assert_eq!(server.counts().list, 0);
//! ```

mod bodies;
mod exchange;
mod fault;
mod guarded;
mod lists;
mod moto;
mod objects;
mod raw;
mod record;
mod server;
mod sign;
#[cfg(test)]
mod tests;

pub use fault::{Act, Fault};
pub use moto::Moto;
pub use record::{Counts, Request, Verb};
pub use server::Server;
