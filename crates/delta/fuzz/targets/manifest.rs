//! A manifest is refused or canonical: it encodes to the bytes that it was decoded from.
#![no_main]

use df_core::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.encode(), data);
    }
});
