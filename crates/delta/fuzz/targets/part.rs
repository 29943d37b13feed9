//! A part of a delta is unpacked to the bytes that are due or refused, against a base that is hostile, too.
#![no_main]

use df_delta::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::part(data));
