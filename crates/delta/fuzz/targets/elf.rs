//! An executable is read, transformed and searched for references, whatever it holds; a transform that is undone gives the same bytes.
#![no_main]

use df_delta::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::elf(data));
