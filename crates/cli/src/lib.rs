//! The program df

pub mod args;
pub mod exit;
pub mod name;
pub mod next;
pub mod progress;
pub mod time;
