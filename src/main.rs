use std::process::ExitCode;

fn main() -> ExitCode {
    ipcluster::cli::main(std::env::args_os())
}
