//! What is packed comes back, whatever the old and the new bytes are.
#![no_main]

use df_delta::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::round_trip(data));
