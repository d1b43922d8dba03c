//! `meshctl`: hands its arguments to the library.

fn main() -> std::process::ExitCode {
    mesh_cli::app::main()
}
