//! Bytes and a base to fewer bytes, and back
