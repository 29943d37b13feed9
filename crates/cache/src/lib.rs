//! Blobs and images at rest
