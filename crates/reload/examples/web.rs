//! A small HTTP service on hyper whose idle keep-alive connections live on over versions; with the feature `hyper`.
//!
//!     /               web commit=<DF_COMMIT> generation=<DF_GENERATION>
//!     /health         200
//!     /slow?ms=5000   as /, after that time, at most 30 s

use distributive_flow::{Service, http};
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::convert::Infallible;
use std::time::Duration;

const MAX_SLOW: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let service = Service::from_env()?;
    let listener = service.listener("http", "127.0.0.1:8080")?;
    let (handoff, draining) = (service.handoff()?, service.draining()?);
    let (commit, generation) = (service.commit().unwrap_or("none").to_owned(), service.generation().unwrap_or(0));
    let words = format!("web commit={commit} generation={generation}\n");
    service.ready()?;
    let answer = service_fn(move |request: Request<http::RequestBody>| {
        let words = words.clone();
        async move {
            if request.uri().path() == "/slow" {
                tokio::time::sleep(slow(request.uri().query().unwrap_or_default())).await;
            }
            Ok::<_, Infallible>(Response::new(words))
        }
    });
    http::serve(handoff, draining, "http", listener, answer).await?;
    service.stopping()
}

fn slow(query: &str) -> Duration {
    let ms = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    Duration::from_millis(ms).min(MAX_SLOW)
}
