//! What sets the kernels of one host apart: their environment and their processors.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::mail::Rank;

/// Environment of the kernel of rank `rank` among `count`: `{rank}` and `{n}` in values are replaced, so that
/// `CUDA_VISIBLE_DEVICES = "{rank}"` gives each its own device.
pub(super) fn environment(
    template: &BTreeMap<String, String>,
    rank: Rank,
    count: u32,
) -> Map<String, Value> {
    template
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace("{rank}", &rank.to_string())
                .replace("{n}", &count.to_string());
            (name.clone(), Value::from(value))
        })
        .collect()
}

/// The processors of one kernel: as many for each as there are, or, with more kernels than processors, one in turn.
pub(super) fn processors(available: &[usize], rank: Rank, count: u32) -> Vec<usize> {
    let (rank, count) = (rank as usize, count.max(1) as usize);
    let share = available.len() / count;
    if share == 0 {
        return available
            .get(rank % available.len().max(1))
            .copied()
            .into_iter()
            .collect();
    }
    available
        .iter()
        .skip(rank * share)
        .take(share)
        .copied()
        .collect()
}

/// The rank that whoever started this process as a part of an MPI job has given it.
pub fn mpi_rank(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    // Open MPI; Hydra of MPICH and Intel MPI; MVAPICH; PMIx; Slurm's srun.
    [
        "OMPI_COMM_WORLD_RANK",
        "PMI_RANK",
        "MV2_COMM_WORLD_RANK",
        "PMIX_RANK",
        "SLURM_PROCID",
    ]
    .into_iter()
    .find_map(|name| variable(name)?.parse().ok())
}

/// Processors that this process may use.
#[cfg(target_os = "linux")]
pub(super) fn available_processors() -> Vec<usize> {
    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::Pid;
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn available_processors() -> Vec<usize> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_gets_its_own() {
        let template = BTreeMap::from([("CUDA_VISIBLE_DEVICES".to_owned(), "{rank}".to_owned())]);
        assert_eq!(environment(&template, 3, 4)["CUDA_VISIBLE_DEVICES"], "3");
        let cpus: Vec<usize> = (0..8).collect();
        assert_eq!(processors(&cpus, 1, 4), [2, 3]);
        assert_eq!(
            processors(&cpus, 3, 3),
            [6, 7],
            "a restarted one may have any rank"
        );
        assert_eq!(processors(&cpus, 9, 16), [1]);
        assert!(processors(&[], 1, 4).is_empty());
    }

    #[test]
    fn the_rank_is_the_launchers() {
        let rank = |set: &[(&str, &str)]| {
            mpi_rank(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(rank(&[]), None);
        assert_eq!(rank(&[("OMPI_COMM_WORLD_RANK", "3")]), Some(3));
        assert_eq!(rank(&[("PMI_RANK", "x"), ("SLURM_PROCID", "7")]), Some(7));
    }
}
