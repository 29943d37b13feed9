//! The program `df-node`: what df puts on a node.

/// Deltas are made of buffers as long as the files.
#[global_allocator]
static MEMORY: df_deploy::Paged = df_deploy::Paged;

fn main() -> std::process::ExitCode {
    df_deploy::main()
}
