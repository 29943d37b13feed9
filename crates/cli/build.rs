//! Lets `df` carry the program for nodes: DF_NODE_ZST names it as one zstd frame, DF_NODE_DIGEST is the digest of what is in the frame.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=DF_NODE_ZST");
    println!("cargo::rerun-if-env-changed=DF_NODE_DIGEST");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(df_node_carried)");
    let (Some(packed), Ok(digest)) = (std::env::var_os("DF_NODE_ZST"), std::env::var("DF_NODE_DIGEST")) else { return };
    let packed = PathBuf::from(packed);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("df-node.zst");
    std::fs::copy(&packed, out).unwrap_or_else(|error| panic!("copy {}: {error}", packed.display()));
    println!("cargo::rerun-if-changed={}", packed.display());
    println!("cargo::rustc-env=DF_NODE_DIGEST={digest}");
    println!("cargo::rustc-cfg=df_node_carried");
}
