//! The program df

pub mod args;
pub mod completions;
pub mod config;
pub mod exit;
pub mod init;
pub mod man;
pub mod name;
pub mod next;
pub mod progress;
pub mod time;
