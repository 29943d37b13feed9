//! Promises to the people who use df, one file each, in one program: linking it once is cheaper than once a file.

mod architecture;
mod docs;
