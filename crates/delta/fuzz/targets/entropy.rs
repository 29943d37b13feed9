//! A packed stream is unpacked to the bytes that are due or refused, whatever it holds.
#![no_main]

use df_delta::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::entropy(data));
