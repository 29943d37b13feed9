//! Derived objects: one request each, and only they have addresses.

use std::time::Duration;

use df_core::{Digest, ImageId};

use super::super::derived::Derived;
use super::super::objects::Body;
use super::Bench;
use crate::store::Store;

#[test]
fn a_derived_object_is_put_asked_for_read_and_lost_without_harm() {
    let bench = Bench::new();
    let store = bench.store();
    let image = |n: u8| ImageId(Digest::of(&[n]));
    let delta = Derived::Delta { from: image(1), to: image(2) };
    let whole = Derived::Whole(image(2));
    assert_eq!((store.derived_has(&delta, 5).expect("asked"), store.derived_get(&delta, 9).expect("asked")), (false, None));
    for derived in [&delta, &whole] {
        for bytes in [&b"older bytes"[..], b"bytes"] {
            store.derived_put(derived, &Body::Bytes(bytes.into())).expect("put");
        }
        assert!(store.derived_has(derived, 5).expect("asked") && !store.derived_has(derived, 6).expect("asked"));
        assert_eq!(store.derived_get(derived, 5).expect("read"), Some(b"bytes".to_vec()));
        assert!(store.derived_get(derived, 4).is_err(), "bounded");
        let url = store.derived_url(derived, Duration::from_secs(900)).expect("an address");
        assert!(url.ends_with(derived.key().as_str()));
    }
    assert_eq!(delta.key().as_str(), format!("d/{}/{}", image(1), image(2)));
    assert_eq!(store.contents().expect("read"), Default::default());
}
