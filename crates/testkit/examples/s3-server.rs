//! The tests' S3 server as a program, for scripts and benches:
//!
//!     cargo run -p df-testkit --features s3 --example s3-server -- --root DIR --port N
//!
//! Its first line is the endpoint, the next ones are the variables that a client needs, as `NAME=value`. It ends when its input does
//! (`--stay`: when it is killed), and then says how many requests there were.

use df_testkit::s3::Server;
use std::io::{Read, Write};
use std::path::PathBuf;

fn main() {
    let (mut root, mut port, mut stay) = (None, 0, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--root" => root = args.next().map(PathBuf::from),
            "--port" => port = args.next().and_then(|port| port.parse().ok()).expect("--port takes a number"),
            "--stay" => stay = true,
            _ => panic!("there are --root DIR, --port N and --stay, not {arg}"),
        }
    }
    let server = match &root {
        Some(root) => Server::at(root, port),
        None => Server::start(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.endpoint()).expect("a reader");
    for (name, value) in server.env() {
        writeln!(out, "{name}={value}").expect("a reader");
    }
    writeln!(out, "BUCKET={}", server.bucket()).and_then(|()| out.flush()).expect("a reader");
    if stay {
        loop {
            std::thread::park();
        }
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    writeln!(out, "{:?}", server.counts()).expect("a reader");
}
