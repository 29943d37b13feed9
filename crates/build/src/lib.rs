//! From a commit to an output directory
