//! What batch systems say of a job, understood. Pure.

use super::system::System;
use crate::launch::supervisor::JobEnd;

/// What becomes of a job, all of its tasks together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits, for the reason that the system gives.
    Queued(String),
    /// Some of it runs, on these hosts, if the system says so.
    Running(String),
    Ended(JobEnd),
}

/// What a command wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub succeeded: bool,
    pub stdout: String,
    pub stderr: String,
}

/// The state of the job `id`; an error when the system could not be asked.
pub fn parse(system: System, id: &str, answer: &Answer) -> Result<JobState, String> {
    let tasks = match system {
        System::Slurm => lines(answer).map(slurm).collect(),
        System::Pbs => pbs(&answer.stdout),
        System::Sge => lines(answer).filter_map(|line| sge(id, line)).collect(),
        System::Lsf => lines(answer).filter_map(|line| lsf(id, line)).collect(),
        System::HtCondor => lines(answer).filter_map(condor).collect(),
    };
    if let Some(state) = together(tasks) {
        return Ok(state);
    }
    if answer.succeeded || is_unknown_job(&answer.stderr) || is_unknown_job(&answer.stdout) {
        return Ok(JobState::Ended(JobEnd::Gone));
    }
    let said = answer.stderr.trim();
    Err(if said.is_empty() {
        "it failed without a word".to_owned()
    } else {
        said.to_owned()
    })
}

/// The systems' words for a job that they do not have any more.
fn is_unknown_job(text: &str) -> bool {
    const WORDS: [&str; 6] = [
        // squeue
        "invalid job id",
        // qstat of PBS and Torque
        "unknown job id",
        "unknown job array",
        "job has finished",
        // bjobs
        "is not found",
        "no unfinished job found",
    ];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

fn lines(answer: &Answer) -> impl Iterator<Item = &str> {
    answer
        .stdout
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
}

/// A job runs as long as one of its tasks does, and ends with its last one; the worst end is told.
fn together(tasks: Vec<JobState>) -> Option<JobState> {
    let rank = |state: &JobState| match state {
        JobState::Running(_) => 4,
        JobState::Queued(_) => 3,
        JobState::Ended(JobEnd::Completed) => 0,
        JobState::Ended(JobEnd::Gone | JobEnd::Cancelled) => 1,
        JobState::Ended(_) => 2,
    };
    tasks.into_iter().max_by_key(rank)
}

/// `STATE|REASON|NODES`, as our `--format` asks for.
fn slurm(line: &str) -> JobState {
    let mut parts = line.split('|').map(str::trim);
    let state = parts.next().unwrap_or_default();
    let reason = parts.next().unwrap_or_default();
    let nodes = parts.next().unwrap_or_default();
    match state {
        "RUNNING" | "COMPLETING" | "STAGE_OUT" | "SUSPENDED" | "STOPPED" | "SIGNALING"
        | "RESIZING" => JobState::Running(nodes.to_owned()),
        "COMPLETED" => JobState::Ended(JobEnd::Completed),
        "CANCELLED" | "REVOKED" => JobState::Ended(JobEnd::Cancelled),
        "TIMEOUT" | "DEADLINE" => JobState::Ended(JobEnd::TimeLimit),
        "NODE_FAIL" | "BOOT_FAIL" => JobState::Ended(JobEnd::NodeFailure),
        "PREEMPTED" => JobState::Ended(JobEnd::Preempted),
        "OUT_OF_MEMORY" => JobState::Ended(JobEnd::OutOfMemory),
        "FAILED" | "LAUNCH_FAILED" => JobState::Ended(JobEnd::Failed),
        // PENDING, CONFIGURING, REQUEUED, SPECIAL_EXIT, and what later versions may add.
        _ => JobState::Queued(because(state, reason)),
    }
}

fn because(state: &str, reason: &str) -> String {
    if reason.is_empty() || reason == "None" {
        state.to_ascii_lowercase()
    } else {
        format!("{}: {reason}", state.to_ascii_lowercase())
    }
}

/// `qstat -f`: a paragraph for each job or task, with `job_state = R`.
fn pbs(text: &str) -> Vec<JobState> {
    let mut tasks = Vec::new();
    let value = |line: &str, key: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    };
    for paragraph in text.split("Job Id:").skip(1) {
        let find = |key: &str| paragraph.lines().find_map(|line| value(line, key));
        let Some(state) = find("job_state") else {
            continue;
        };
        let is_array = find("array").is_some_and(|is| is == "True");
        let host = find("exec_host").unwrap_or_default();
        tasks.push(match state.as_str() {
            // B: an array of which some jobs run.
            "R" | "E" | "S" | "U" | "B" | "T" => JobState::Running(host),
            "C" | "F" | "X" => {
                JobState::Ended(match find("exit_status").or_else(|| find("Exit_status")) {
                    Some(code) if code == "0" => JobEnd::Completed,
                    // Killed by the server: Torque's and PBS's own codes and signals.
                    Some(code) if code == "271" || code == "143" || code == "265" => {
                        JobEnd::Cancelled
                    }
                    Some(code) if code == "-29" => JobEnd::TimeLimit,
                    Some(_) => JobEnd::Failed,
                    None if is_array => JobEnd::Completed,
                    None => JobEnd::Gone,
                })
            }
            state => JobState::Queued(match find("comment") {
                Some(comment) => comment,
                None => match state {
                    "H" => "held".to_owned(),
                    "W" => "waits for its time".to_owned(),
                    _ => "queued".to_owned(),
                },
            }),
        });
    }
    tasks
}

/// `job-ID prior name user state …`, one line for each task or range of tasks.
fn sge(id: &str, line: &str) -> Option<JobState> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    if columns.first() != Some(&id) {
        return None;
    }
    let state = *columns.get(4)?;
    Some(
        if state.contains(['r', 't', 's', 'S', 'T']) && !state.contains("qw") {
            let queue = columns.get(7).filter(|column| column.contains('@'));
            JobState::Running(queue.map(|queue| (*queue).to_owned()).unwrap_or_default())
        } else if state.contains('E') {
            JobState::Queued(format!("in error state {state}, see `qstat -j {id}`"))
        } else if state.contains('h') {
            JobState::Queued("held".to_owned())
        } else {
            JobState::Queued("queued".to_owned())
        },
    )
}

/// `JOBID USER STAT QUEUE FROM_HOST EXEC_HOST …`, one line for each job of an array.
fn lsf(id: &str, line: &str) -> Option<JobState> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    if columns.first() != Some(&id) {
        return None;
    }
    let state = *columns.get(2)?;
    Some(match state {
        "RUN" | "USUSP" | "SSUSP" | "PROV" => JobState::Running(
            columns
                .get(5)
                .map(|host| (*host).to_owned())
                .unwrap_or_default(),
        ),
        "DONE" => JobState::Ended(JobEnd::Completed),
        "EXIT" => JobState::Ended(JobEnd::Failed),
        "ZOMBI" | "UNKWN" => JobState::Ended(JobEnd::NodeFailure),
        state => JobState::Queued(state.to_ascii_lowercase()),
    })
}

/// `STATUS HOST HOLD_REASON`, with numbers for states.
fn condor(line: &str) -> Option<JobState> {
    let mut words = line.split_whitespace();
    let state: u32 = words.next()?.parse().ok()?;
    let host = words.next().filter(|word| *word != "undefined");
    let why = words.collect::<Vec<_>>().join(" ");
    Some(match state {
        2 | 6 | 7 => JobState::Running(host.unwrap_or_default().to_owned()),
        3 => JobState::Ended(JobEnd::Cancelled),
        4 => JobState::Ended(JobEnd::Completed),
        5 => JobState::Queued(format!("held: {why}")),
        _ => JobState::Queued("idle".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn said(system: System, id: &str, stdout: &str) -> JobState {
        let answer = Answer {
            succeeded: true,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        parse(system, id, &answer).unwrap()
    }

    fn queued(why: &str) -> JobState {
        JobState::Queued(why.to_owned())
    }

    fn running(place: &str) -> JobState {
        JobState::Running(place.to_owned())
    }

    #[test]
    fn slurm_s_states_are_understood() {
        for (line, expected) in [
            ("PENDING|Resources|", queued("pending: Resources")),
            ("PENDING|None|", queued("pending")),
            ("RUNNING|None|node[1-2]", running("node[1-2]")),
            ("COMPLETED|None|node1", JobState::Ended(JobEnd::Completed)),
            ("CANCELLED|None|node1", JobState::Ended(JobEnd::Cancelled)),
            (
                "TIMEOUT|TimeLimit|node1",
                JobState::Ended(JobEnd::TimeLimit),
            ),
            (
                "NODE_FAIL|NodeDown|node1",
                JobState::Ended(JobEnd::NodeFailure),
            ),
            ("", JobState::Ended(JobEnd::Gone)),
        ] {
            assert_eq!(said(System::Slurm, "7", line), expected, "{line}");
        }
    }

    #[test]
    fn a_system_that_is_down_is_not_the_end_of_a_job() {
        let answer = |stderr: &str| Answer {
            succeeded: false,
            stdout: String::new(),
            stderr: stderr.to_owned(),
        };
        let down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)";
        assert_eq!(
            parse(System::Slurm, "7", &answer(down)),
            Err(down.to_owned())
        );
        let gone = "slurm_load_jobs error: Invalid job id specified";
        let ended = JobState::Ended(JobEnd::Gone);
        assert_eq!(parse(System::Slurm, "7", &answer(gone)), Ok(ended.clone()));
        let gone = "qstat: Unknown Job Id 7.server";
        assert_eq!(parse(System::Pbs, "7", &answer(gone)), Ok(ended.clone()));
        assert_eq!(
            parse(System::Lsf, "7", &answer("Job <7> is not found")),
            Ok(ended)
        );
    }

    #[test]
    fn pbs_tells_of_each_task() {
        let text = "Job Id: 7[1].head\n    Job_Name = ipengine\n    job_state = C\n    exit_status = 0\n\n\
                    Job Id: 7[2].head\n    job_state = R\n    exec_host = node3/0\n";
        assert_eq!(said(System::Pbs, "7[]", text), running("node3/0"));
        let text = "Job Id: 7.head\n    job_state = Q\n    comment = Not Running: Insufficient amount of resource\n";
        assert_eq!(
            said(System::Pbs, "7", text),
            queued("Not Running: Insufficient amount of resource")
        );
        let text = "Job Id: 7.head\n    job_state = C\n    exit_status = 271\n";
        assert_eq!(
            said(System::Pbs, "7", text),
            JobState::Ended(JobEnd::Cancelled)
        );
    }

    #[test]
    fn grid_engine_tells_of_all_jobs() {
        let text = "job-ID  prior   name       user         state submit/start at     queue       slots ja-task-ID\n\
                    ----------------------------------------------------------------------------------------\n\
                      17 0.55500 ipengine   me           r     11/22/2026 00:00:00 all.q@node1        1 1\n\
                      17 0.55500 ipengine   me           r     11/22/2026 00:00:00 all.q@node1        1 2\n\
                      18 0.00000 other      you          qw    11/22/2026 00:00:00                    1\n";
        assert_eq!(said(System::Sge, "17", text), running("all.q@node1"));
        assert_eq!(said(System::Sge, "18", text), queued("queued"));
        assert_eq!(said(System::Sge, "1", text), JobState::Ended(JobEnd::Gone));
        let failed = "  17 0.5 ipengine me Eqw 11/22/2026 00:00:00 1 1-2:1\n";
        assert_eq!(
            said(System::Sge, "17", failed),
            queued("in error state Eqw, see `qstat -j 17`")
        );
    }

    #[test]
    fn lsf_tells_of_each_job_of_an_array() {
        let text = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME\n\
                    12      me      DONE  normal     head        node1       ipengine-[1] Nov 22 00:00\n\
                    12      me      PEND  normal     head                    ipengine-[2] Nov 22 00:00\n";
        assert_eq!(said(System::Lsf, "12", text), queued("pend"));
        let text = "12 me EXIT normal head node1 ipengine-[1] Nov 22 00:00\n";
        assert_eq!(
            said(System::Lsf, "12", text),
            JobState::Ended(JobEnd::Failed)
        );
    }

    #[test]
    fn htcondor_counts_states() {
        assert_eq!(
            said(System::HtCondor, "3", "1 undefined undefined\n"),
            queued("idle")
        );
        assert_eq!(
            said(
                System::HtCondor,
                "3",
                "2 slot1@node undefined\n1 undefined undefined"
            ),
            running("slot1@node")
        );
        assert_eq!(
            said(System::HtCondor, "3", "5 undefined no such executable"),
            queued("held: no such executable")
        );
        assert_eq!(
            said(System::HtCondor, "3", ""),
            JobState::Ended(JobEnd::Gone)
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in "(7|7\\[\\]|Job Id:| |\\||job_state = |R|\\n|[A-Za-z0-9=]{0,8}){0,30}") {
            for system in System::ALL {
                let answer = Answer { succeeded: false, stdout: text.clone(), stderr: text.clone() };
                let _ = parse(system, "7", &answer);
            }
        }
    }
}
