//! What a bucket gives and refuses, asked through the real client over real connections. One binary: linking the client into many costs more than the tests.

#![allow(missing_docs, reason = "tests")]

mod campaign;
mod chain;
mod contract;
mod faults;
mod hostile;
mod store;
mod support;
mod urls;
