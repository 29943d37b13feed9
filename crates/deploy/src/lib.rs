//! The machine's side: activation by symlink swap
