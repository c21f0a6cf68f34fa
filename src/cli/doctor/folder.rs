//! The profile's folder, its file system's clock, and what clusters have left in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Finding;
use crate::cli::output::size;
use crate::cli::setup::Setup;
use crate::cli::target::{hub, runs_by_itself};
use crate::launch::condition::Condition;
use crate::launch::found::Found;
use crate::launch::ledger::stop_command;
use crate::launch::lost::lost_clusters;
use crate::os::files::{free_space, remedy};
use crate::profile::ProfileDir;

/// Clocks of machines that are kept together by the network differ by less.
const SKEW: Duration = Duration::from_secs(2);

/// Logs and connection files need little; a database needs more.
const SPACE: u64 = 100 << 20;

/// Is it there, and can it be written to by this user and read by nobody else?
pub(super) fn profile(profile: &ProfileDir, exists: bool) -> Vec<Finding> {
    const CHECK: &str = "profile";
    let location = profile.location();
    let place = location.display();
    if !exists {
        let above = existing_above(location);
        return vec![match try_write(&above) {
            Ok(_) => Finding::ok(
                CHECK,
                format!("{place} does not exist yet: the first start makes it"),
            ),
            Err(error) => Finding::problem(
                CHECK,
                format!(
                    "{place} does not exist, and cannot be made in {}: {error}",
                    above.display()
                ),
                remedy(&error),
            ),
        }];
    }
    let mut findings = Vec::new();
    for folder in [profile.security_dir(), profile.pid_dir(), profile.log_dir()] {
        // It is made by the first start.
        let folder = if folder.is_dir() {
            folder
        } else {
            location.to_owned()
        };
        match try_write(&folder) {
            Ok(skew) => findings.extend(clock(&folder, skew)),
            Err(error) => findings.push(Finding::problem(
                CHECK,
                format!("{} cannot be written to: {error}", folder.display()),
                remedy(&error),
            )),
        }
    }
    findings.dedup_by_key(|finding| finding.check);
    findings.extend(private(&profile.security_dir()));
    findings.extend(space(location));
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("{place} can be written to, and its secrets are this user's alone"),
        ));
    }
    findings
}

fn existing_above(path: &Path) -> PathBuf {
    let mut above = path.ancestors().filter(|folder| folder.is_dir());
    above.next().unwrap_or_else(|| Path::new("/")).to_owned()
}

/// How far the file's time is from that of this machine: from below zero, ahead of it.
fn try_write(folder: &Path) -> std::io::Result<Skew> {
    let path = folder.join(format!(".ipcluster-doctor-{}", std::process::id()));
    let before = SystemTime::now();
    let written = fs::write(&path, b"x").and_then(|()| fs::metadata(&path)?.modified());
    let after = SystemTime::now();
    let _ = fs::remove_file(&path);
    Ok(Skew::between(before, written?, after))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skew {
    None,
    Behind(Duration),
    Ahead(Duration),
}

impl Skew {
    fn between(before: SystemTime, written: SystemTime, after: SystemTime) -> Self {
        let behind = before.duration_since(written).unwrap_or_default();
        let ahead = written.duration_since(after).unwrap_or_default();
        if behind >= SKEW {
            Self::Behind(behind)
        } else if ahead >= SKEW {
            Self::Ahead(ahead)
        } else {
            Self::None
        }
    }
}

fn clock(folder: &Path, skew: Skew) -> Option<Finding> {
    let (by, which) = match skew {
        Skew::None => return None,
        Skew::Behind(by) => (by, "behind"),
        Skew::Ahead(by) => (by, "ahead of"),
    };
    Some(Finding::warning(
        "clock",
        format!(
            "the clock of the file system of {} is {:.1} s {which} that of this machine",
            folder.display(),
            by.as_secs_f64()
        ),
        "keep both by NTP: times of files and records are compared",
    ))
}

/// Connection files hold the key: who reads them can run code as this user.
fn private(security: &Path) -> Vec<Finding> {
    let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode() & 0o777);
    let mut open: Vec<String> = Vec::new();
    if mode(security).is_some_and(|mode| mode & 0o077 == 0) {
        return Vec::new();
    }
    let files = fs::read_dir(security).into_iter().flatten().flatten();
    for path in files.map(|entry| entry.path()) {
        if mode(&path).is_some_and(|mode| mode & 0o077 != 0) {
            open.push(path.display().to_string());
        }
    }
    if open.is_empty() {
        return Vec::new();
    }
    vec![Finding::problem(
        "secrets",
        format!("others may read {}", open.join(", ")),
        format!(
            "`chmod 700 {}`; and start anew, as the keys in them may be known",
            security.display()
        ),
    )]
}

fn space(location: &Path) -> Option<Finding> {
    let free = free_space(location)?;
    (free < SPACE).then(|| {
        Finding::warning(
            "disk",
            format!(
                "{} are left on the file system of {}",
                size(free),
                location.display()
            ),
            "free some, or name another place with --profile-dir or IPYTHONDIR",
        )
    })
}

/// Clusters of the profile: do those that run answer, and what have others left?
pub(super) fn clusters(setup: &Setup) -> Vec<Finding> {
    let profile = &setup.profile;
    let mut findings = Vec::new();
    let mut stale = Vec::new();
    for found in Found::all(profile) {
        let name = format!("cluster {:?}", found.cluster_id.0);
        match found.condition() {
            Condition::Stale => stale.push(name),
            Condition::ControllerLost => findings.push(Finding::problem(
                "clusters",
                format!("{name} has lost its controller, and parts of it still run"),
                format!("`{}` ends them", stop_command(profile, &found.cluster_id)),
            )),
            _ => findings.push(answers(setup, &found, &name)),
        }
    }
    for lost in lost_clusters() {
        if lost.profile_dir == profile.location() {
            findings.push(Finding::warning(
                "clusters",
                format!(
                    "the folder was deleted under a cluster that runs (process {})",
                    lost.controller
                ),
                "`ipcluster stop` with this profile ends it",
            ));
        }
    }
    if !stale.is_empty() {
        findings.push(Finding::warning(
            "stale files",
            format!("{} ended without removing their files", stale.join(", ")),
            "`ipcluster clean` removes them, and a new start does",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "clusters",
            "none runs, and none has left files",
        ));
    }
    findings
}

fn answers(setup: &Setup, found: &Found, name: &str) -> Finding {
    const ANSWER: Duration = Duration::from_secs(5);
    let of_cluster = Setup {
        cluster_id: found.cluster_id.clone(),
        profile: setup.profile.clone(),
        settings: setup.settings.clone(),
        common: setup.common.clone(),
        traits: Vec::new(),
    };
    let status = hub(&of_cluster).and_then(|mut hub| Ok(hub.status(ANSWER)?));
    let lone = found.lone_controller();
    let alone = lone.as_ref().map_or_else(String::new, |controller| {
        format!("; its controller {}", runs_by_itself(controller))
    });
    let end = lone.map_or_else(
        || stop_command(&setup.profile, &found.cluster_id),
        |controller| format!("kill {controller}"),
    );
    match status {
        Ok(status) => Finding::ok(
            "clusters",
            format!(
                "{name} runs and answers, with {} engines{alone}",
                status.engines.len()
            ),
        ),
        Err(failure) => Finding::problem(
            "clusters",
            format!(
                "{name} runs, but its controller does not answer: {}",
                failure.message().unwrap_or_default()
            ),
            format!("`ipcluster logs --controller` shows what it says, `{end}` ends it"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(Skew::between(at(9000), at(8990), at(9010)), Skew::None);
        let behind = Skew::between(at(9000), at(4000), at(9010));
        assert_eq!(behind, Skew::Behind(Duration::from_secs(5)));
        let ahead = Skew::between(at(9000), at(13_000), at(10_000));
        assert_eq!(ahead, Skew::Ahead(Duration::from_secs(3)));
        assert!(
            clock(Path::new("/x"), ahead)
                .unwrap()
                .found
                .contains("3.0 s ahead")
        );
        assert!(clock(Path::new("/x"), Skew::None).is_none());
    }

    #[test]
    fn secrets_that_others_can_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let security = folder.path().join("security");
        fs::create_dir(&security).unwrap();
        let file = security.join("ipcontroller-client.json");
        fs::write(&file, "{}").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&security, 0o755);
        set(&file, 0o644);
        assert!(private(&security)[0].found.contains("client.json"));
        set(&file, 0o600);
        assert!(private(&security).is_empty());
        set(&file, 0o644);
        set(&security, 0o700);
        assert!(private(&security).is_empty());
    }

    #[test]
    fn what_is_not_there_yet_is_looked_for_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing_above(&folder.path().join("a/b/c")), folder.path());
        assert_eq!(try_write(folder.path()).unwrap(), Skew::None);
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
        assert!(try_write(&folder.path().join("none")).is_err());
    }
}
