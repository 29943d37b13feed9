//! What builds give and refuse. One binary: linking libgit2 into many costs more than the tests.

#![allow(missing_docs, reason = "tests")]

mod off;
mod recipe;
mod source;
mod static_programs;
mod strict;
mod support;
