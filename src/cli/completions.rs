//! `ipcluster completions`.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::cli::output::say;
use crate::cli::{CalledAs, Failure};

#[derive(Args, Clone, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell that is to read them
    #[arg(value_enum)]
    shell: Shell,

    /// The name under which the program is called
    #[arg(long, value_name = "NAME", default_value = "ipcluster", value_parser = ["ipcluster", "ipcontroller", "ipengine"])]
    program: String,
}

/// Prints them.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    say(&script(args.shell, &args.program)).map(drop)
}

fn script(shell: Shell, program: &str) -> String {
    let mut command = CalledAs::named(program).command();
    let mut script = Vec::new();
    generate(shell, &mut command, program, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_flags_of_its_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let whole = script(shell, "ipcluster");
            assert!(whole.contains("completions") && whole.contains("daemonize"));
            let controller = script(shell, "ipcontroller");
            assert!(
                controller.contains("sqlitedb") && controller.contains("_ipcontroller")
                    || shell == Shell::Fish
            );
            assert!(!controller.contains("daemonize"), "{shell}");
            assert!(script(shell, "ipengine").contains("memory-limit"));
        }
    }
}
