//! The words of distributive-flow: digests, names, manifests, recipes and releases
