//! How fast is a bucket, asked through this client? Puts and gets objects of 16 MiB and says how long that took:
//!
//!     cargo run --release -p df-cache --features s3 --example bucket-speed -- ENDPOINT BUCKET [MEGABYTES] [IN_FLIGHT] [MEGABYTES_PER_OBJECT]
//!
//! Credentials come from the environment. The bytes are of no meaning and do not compress.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use df_cache::s3::aws::{AwsObjects, AwsOptions};
use df_cache::s3::objects::{Body, Condition, Key, ObjectError, Objects as _};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |arg| arg.parse());
    let (Some(endpoint), Some(bucket)) = (args.first(), args.get(1)) else {
        return Err("usage: bucket-speed ENDPOINT BUCKET".into());
    };
    let (all, in_flight, each) = (number(2, 500)? << 20, number(3, 16)?, number(4, 16)? << 20);
    let options = AwsOptions { endpoint: Some(endpoint.parse()?), ..AwsOptions::new(format!("s3://{bucket}/speed").parse()?) };
    let objects = AwsObjects::open(&options)?;
    let body: Arc<[u8]> = (0..each as u32 / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let keys = (0..all.div_ceil(each)).map(|i| Key::new(format!("p/{i}"))).collect::<Result<Vec<_>, _>>()?;
    say("put", all, || {
        in_parallel(&keys, in_flight, |key| objects.put(key, &Body::Bytes(Arc::clone(&body)), &Condition::Always).map(drop))
    })?;
    say("get", all, || in_parallel(&keys, in_flight, |key| objects.get(key, each as u64).map(drop)))?;
    println!("{:?}\n{objects:?}", objects.requests());
    Ok(())
}

fn in_parallel(keys: &[Key], threads: usize, each: impl Fn(&Key) -> Result<(), ObjectError> + Sync) -> Result<(), ObjectError> {
    let next = AtomicUsize::new(0);
    let work = || (std::iter::from_fn(|| keys.get(next.fetch_add(1, Ordering::Relaxed)))).try_for_each(&each);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

fn say(verb: &str, len: usize, work: impl FnOnce() -> Result<(), ObjectError>) -> Result<(), ObjectError> {
    let (begun, cpu) = (Instant::now(), cpu());
    work()?;
    let (took, cpu) = (begun.elapsed().as_secs_f64(), self::cpu() - cpu);
    println!("{verb}: {:.0} MB/s, {took:.2} s, {cpu:.2} s of processor", len as f64 / 1e6 / took);
    Ok(())
}

/// Returns how many seconds of processor this process has used.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
