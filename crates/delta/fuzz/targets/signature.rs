//! A signature that a node sends is refused or harmless: the delta made by it is bounded, and its rsync delta is applied or refused.
#![no_main]

use df_delta::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::signature(data));
