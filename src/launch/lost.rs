//! Clusters that run though their profile's folder is gone: only the processes themselves say that they are there.

use std::path::{Path, PathBuf};

use crate::os::ProcessRef;
use crate::protocol::ClusterId;

/// Such a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub profile_dir: PathBuf,
    pub cluster_id: ClusterId,
    pub controller: ProcessRef,
    /// `ipcluster start`, which ends everything when it is told to.
    pub supervisor: Option<ProcessRef>,
}

/// All of this user. Looks at this machine's processes (Linux); elsewhere they are not found.
pub fn lost_clusters() -> Vec<Lost> {
    let mut found: Vec<Lost> = crate::os::process::of_this_user()
        .into_iter()
        .filter_map(|command| {
            let (profile_dir, cluster_id) = controller_of(&command.argv)?;
            if profile_dir.join("security").is_dir() {
                return None;
            }
            let controller = ProcessRef::of(command.pid)?;
            let supervisor = command.parent.filter(|parent| *parent > 1);
            Some(Lost {
                profile_dir,
                cluster_id,
                controller,
                supervisor: supervisor
                    .filter(|pid| {
                        crate::os::process::command(*pid).is_some_and(|of| is_supervisor(&of.argv))
                    })
                    .and_then(ProcessRef::of),
            })
        })
        .collect();
    found.sort_by(|a, b| (&a.profile_dir, &a.cluster_id.0).cmp(&(&b.profile_dir, &b.cluster_id.0)));
    found
}

/// The arguments with which `ipcluster start` starts its controller name both.
fn controller_of(argv: &[String]) -> Option<(PathBuf, ClusterId)> {
    let [program, verb, rest @ ..] = argv else {
        return None;
    };
    if !is_ours(program) || verb != "controller" {
        return None;
    }
    let value = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
    Some((
        PathBuf::from(value("--profile-dir=")?),
        ClusterId(value("--cluster-id=")?.to_owned()),
    ))
}

/// Packages may install it under a longer name.
fn is_ours(program: &str) -> bool {
    let name = Path::new(program)
        .file_name()
        .and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("ipcluster"))
}

fn is_supervisor(argv: &[String]) -> bool {
    argv.first().is_some_and(|program| is_ours(program)) && argv.iter().any(|word| word == "start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cluster_s_own_controller_counts() {
        let argv = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = controller_of(&argv(
            "/x/ipcluster controller --profile-dir=/p/profile_x --cluster-id= --ping=3",
        ));
        assert_eq!(
            found,
            Some(("/p/profile_x".into(), ClusterId(String::new())))
        );
        for line in [
            "ipcluster",
            "ipcluster controller",
            "ipcluster engine --profile-dir=/p --cluster-id=",
            "python controller --profile-dir=/p --cluster-id=",
        ] {
            assert_eq!(controller_of(&argv(line)), None, "{line}");
        }
        assert!(is_supervisor(&argv("ipcluster --debug start -n 4")));
        assert!(is_supervisor(&argv("/x/bin/ipcluster-rs start")));
        assert!(!is_supervisor(&argv("bash start")));
    }
}
