//! The program `df`.

fn main() -> std::process::ExitCode {
    df_cli::main()
}
