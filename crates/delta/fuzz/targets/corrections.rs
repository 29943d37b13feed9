//! A prediction is corrected or the corrections are refused, whatever both hold.
#![no_main]

use df_delta::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::corrections(data));
