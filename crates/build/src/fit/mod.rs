//! Whether a program fits a machine: what its ELF files ask for, and programs that ask for nothing.

pub(crate) mod elf;
pub(crate) mod needs;
pub(crate) mod static_program;
