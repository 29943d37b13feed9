//! How many bytes does each coder make of a stream, and how fast?
//!
//! `entropy STREAM.SHAPE...`, with the shapes numbers, bytes, text and code; a file `STREAM.SHAPE.base` beside one is its context. The peers are the programs
//! `xz` and `zstd`, where they are installed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use df_delta::Level;
use df_delta::entropy::{Room, Shape, pack, unpack};

fn main() -> std::io::Result<()> {
    println!(
        "{:40} {:>8} {:>8} {:>8}  {:>8} {:>6} {:>6}  {:>8} {:>6} {:>6}",
        "stream", "bytes", "xz", "zstd", "small", "MB/s", "back", "fast", "MB/s", "back"
    );
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        let context = std::fs::read(format!("{path}.base")).unwrap_or_default();
        let shape = match path.rsplit('.').next() {
            Some("numbers") => Shape::Numbers,
            Some("bytes") => Shape::Bytes,
            Some("code") => Shape::Code,
            _ => Shape::Text,
        };
        print!("{path:40} {:>8}", bytes.len());
        print!(" {:>8}", piped("xz", &["-9e", "--format=raw", "-q", "-q", "-c"], &bytes));
        print!(" {:>8}", piped("zstd", &["-19", "--no-check", "-q", "-c"], &bytes));
        for level in [Level::Small, Level::Fast] {
            let (begun, mut packed) = (Instant::now(), Vec::new());
            pack(&bytes, &context, shape, level, &mut Room::to_unpack(), &mut packed);
            let (there, begun) = (begun.elapsed(), Instant::now());
            let back = unpack(&packed, &context, bytes.len(), &mut Room::to_unpack());
            let rate = |time: std::time::Duration| bytes.len() as f64 / 1e6 / time.as_secs_f64();
            print!("  {:>8} {:>6.2} {:>6.2}", packed.len(), rate(there), rate(begun.elapsed()));
            assert!(back.as_deref() == Ok(&bytes), "{path} does not come back");
        }
        println!();
    }
    Ok(())
}

/// How many bytes a program writes when it reads some.
fn piped(program: &str, args: &[&str], bytes: &[u8]) -> String {
    let run = || -> std::io::Result<usize> {
        let mut child =
            Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let n = child.wait_with_output()?.stdout.len();
        writer.join().map_err(|_| std::io::ErrorKind::Other)??;
        Ok(n)
    };
    run().map_or_else(|_| "-".to_owned(), |n| n.to_string())
}
