//! The program `df-node`: what df puts on a node.

fn main() -> std::process::ExitCode {
    df_deploy::main()
}
