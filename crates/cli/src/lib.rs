//! The program df
