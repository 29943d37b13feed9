//! The program `df`.

/// Deltas are made of buffers as long as the files.
#[global_allocator]
static MEMORY: df_cli::Paged = df_cli::Paged;

fn main() -> std::process::ExitCode {
    df_cli::main()
}
