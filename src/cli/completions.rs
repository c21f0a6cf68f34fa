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
    with_profiles(shell, &String::from_utf8_lossy(&script))
}

/// The names of profiles, as a shell asks for them while it completes.
const PROFILES: &str =
    r"ipcluster profile list 2>/dev/null | sed -n '/^TEMPLATES/q; s/^  \([^ ]*\) .*/\1/p'";

/// clap's own scripts know what stands in the command line's definition alone, and profiles are the user's: they are asked
/// for then. clap's way to ask a program (`unstable-dynamic`) is not stable yet.
fn with_profiles(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Bash => {
            let by_file = "--profile)\n                    COMPREPLY=($(compgen -f \"${cur}\"))";
            let by_name = "--profile)\n                    COMPREPLY=($(compgen -W \"$(__ipcluster_profiles)\" -- \"${cur}\"))";
            let script = script.replace(by_file, by_name);
            format!("__ipcluster_profiles() {{\n    {PROFILES}\n}}\n\n{script}")
        }
        Shell::Zsh => {
            let is_profile = |line: &str| line.trim_start().starts_with("'--profile=[");
            let lines = script.lines().map(|line| match is_profile(line) {
                true => line.replace(":NAME:_default'", ":NAME:__ipcluster_profiles'") + "\n",
                false => format!("{line}\n"),
            });
            let script: String = lines.collect();
            let begin = "autoload -U is-at-least\n";
            let function = format!(
                "{begin}\n__ipcluster_profiles() {{\n    local -a names\n    names=(${{(f)\"$({PROFILES})\"}})\n    \
                 compadd -a names\n}}\n"
            );
            script.replacen(begin, &function, 1)
        }
        Shell::Fish => {
            let lines = script
                .lines()
                .map(|line| match line.contains(" -l profile -d ") {
                    true => format!("{line} -f -a \"(__ipcluster_profiles)\"\n"),
                    false => format!("{line}\n"),
                });
            let script: String = lines.collect();
            format!("function __ipcluster_profiles\n    {PROFILES}\nend\n\n{script}")
        }
        _ => script.to_owned(),
    }
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
