//! Who makes a delta, and how often.

use super::bytes::Bytes;
use super::*;

/// A file that changed, and how often its delta was made; and another df that makes it, too.
#[derive(Default)]
struct TwoVersions {
    made: std::sync::atomic::AtomicUsize,
    other: Other,
    awaited: Mutex<Vec<Duration>>,
}

/// What another df of this machine does with the same delta.
#[derive(Default, Clone, Copy, PartialEq)]
enum Other {
    #[default]
    Nothing,
    /// It is done while we wait.
    MakesIt,
    /// It is killed while we wait.
    Dies,
    /// It is at it for ever.
    Hangs,
}

impl TwoVersions {
    fn with(other: Other) -> Self {
        Self { other, ..Self::default() }
    }

    fn is_over(&self) -> bool {
        !self.awaited.lock().expect("free").is_empty()
    }
}

impl TwoVersions {
    fn version(n: u8) -> (Vec<u8>, Manifest) {
        let bytes = [&[n; 10][..], &[b'.'; 5000]].concat();
        let kind = df_core::Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(&bytes) };
        let entry = df_core::Entry { path: "a".parse().expect("a path"), kind };
        (bytes, Manifest::new(vec![entry]).expect("a tree"))
    }
}

impl Images for TwoVersions {
    fn holds(&self, _: ImageId) -> bool {
        true
    }
    fn manifest(&self, image: ImageId) -> io::Result<Manifest> {
        [1, 2].map(|n| Self::version(n).1).into_iter().find(|it| it.image() == image).ok_or(io::ErrorKind::NotFound.into())
    }
    fn read(&self, digest: Digest, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = [1, 2].map(|n| Self::version(n).0).into_iter().find(|it| Digest::of(it) == digest);
        Ok(bytes.ok_or(io::ErrorKind::NotFound)?[offset as usize..][..len].to_vec())
    }
    fn kept_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>) -> Option<Delta> {
        (self.other == Other::MakesIt && self.is_over()).then(|| Delta::of(b"the other one's".to_vec(), "patch"))
    }
    fn making(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>) -> Option<Box<dyn std::any::Any + Send>> {
        let is_free = match self.other {
            Other::Nothing => true,
            Other::MakesIt | Other::Dies => self.is_over(),
            Other::Hangs => false,
        };
        is_free.then(|| Box::new(()) as _)
    }
    fn await_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>, patience: Duration) {
        self.awaited.lock().expect("free").push(patience);
    }
    fn keep_delta(&self, _: Option<ImageId>, _: ImageId, _: Level, _: Option<Codec>, _: &Delta) {
        self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[tokio::test]
async fn what_another_df_makes_is_waited_for_and_made_here_when_it_does_not_come() {
    let [old, new] = [1, 2].map(|n| TwoVersions::version(n).1.image());
    for (other, n_made, n_awaited) in [(Other::Nothing, 1, 0), (Other::MakesIt, 0, 1), (Other::Dies, 1, 1), (Other::Hangs, 1, 1)]
    {
        let images = Arc::new(TwoVersions::with(other));
        let deltas = Deltas::to(images.clone(), new).expect("both are here");
        let delta = deltas.patch(Some(old), Level::Fast, None).await.expect("there is one");
        let awaited = images.awaited.lock().expect("free").clone();
        assert_eq!((images.made.load(std::sync::atomic::Ordering::Relaxed), awaited.len()), (n_made, n_awaited));
        assert!(awaited.iter().all(|patience| (2..=120).contains(&patience.as_secs())), "{awaited:?}");
        assert_eq!(delta.digest() == Digest::of(b"the other one's"), other == Other::MakesIt, "the same bytes travel");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_nodes_that_ask_at_once_share_one_delta() {
    let (images, [old, new]) = (Arc::new(TwoVersions::default()), [1, 2].map(|n| TwoVersions::version(n).1.image()));
    let deltas = Arc::new(Deltas::to(images.clone(), new).expect("both are here"));
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let deltas = deltas.clone();
        nodes.spawn(async move { deltas.patch(Some(old), Level::Fast, None).await.expect("made") });
    }
    let made = nodes.join_all().await;
    assert_eq!(images.made.load(std::sync::atomic::Ordering::Relaxed), 1, "made once");
    let place = |delta: &Delta| if let Bytes::Memory(bytes) = &delta.bytes { bytes.as_ptr() } else { std::ptr::null() };
    assert!(made.iter().all(|delta| place(delta) == place(&made[0])), "held once");
}
