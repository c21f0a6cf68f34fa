//! What batch systems have in common, and how each says it. Pure. Commands, templates and directives are ipyparallel's,
//! where those work.

use crate::launch::role::Role;

/// A batch system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Slurm,
    Pbs,
    Sge,
    Lsf,
    HtCondor,
}

impl System {
    pub const ALL: [Self; 5] = [Self::Slurm, Self::Pbs, Self::Sge, Self::Lsf, Self::HtCondor];

    /// By the name that `--engines` takes.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Slurm => "slurm",
            Self::Pbs => "pbs",
            Self::Sge => "sge",
            Self::Lsf => "lsf",
            Self::HtCondor => "htcondor",
        }
    }

    /// As its users write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Slurm => "Slurm",
            Self::Pbs => "PBS",
            Self::Sge => "Grid Engine",
            Self::Lsf => "LSF",
            Self::HtCondor => "HTCondor",
        }
    }

    /// ipyparallel's class for this, followed by those that it derives from.
    pub fn lineage(self, role: Role) -> &'static [&'static str] {
        macro_rules! lineage {
            ($($own:literal),+ ; controller) => {
                &[$($own,)+ "BatchControllerLauncher", "BatchSystemLauncher", "ControllerLauncher", "BaseLauncher"]
            };
            ($($own:literal),+ ; engines) => {
                &[$($own,)+ "BatchEngineSetLauncher", "BatchSystemLauncher", "EngineLauncher", "BaseLauncher"]
            };
        }
        match (self, role) {
            (Self::Slurm, Role::Controller) => {
                lineage!("SlurmControllerLauncher", "SlurmLauncher"; controller)
            }
            (Self::Slurm, Role::Engines) => {
                lineage!("SlurmEngineSetLauncher", "SlurmLauncher"; engines)
            }
            (Self::Pbs, Role::Controller) => {
                lineage!("PBSControllerLauncher", "PBSLauncher"; controller)
            }
            (Self::Pbs, Role::Engines) => lineage!("PBSEngineSetLauncher", "PBSLauncher"; engines),
            (Self::Sge, Role::Controller) => {
                lineage!("SGEControllerLauncher", "SGELauncher", "PBSLauncher"; controller)
            }
            (Self::Sge, Role::Engines) => {
                lineage!("SGEEngineSetLauncher", "SGELauncher", "PBSLauncher"; engines)
            }
            (Self::Lsf, Role::Controller) => {
                lineage!("LSFControllerLauncher", "LSFLauncher"; controller)
            }
            (Self::Lsf, Role::Engines) => lineage!("LSFEngineSetLauncher", "LSFLauncher"; engines),
            (Self::HtCondor, Role::Controller) => {
                lineage!("HTCondorControllerLauncher", "HTCondorLauncher"; controller)
            }
            (Self::HtCondor, Role::Engines) => {
                lineage!("HTCondorEngineSetLauncher", "HTCondorLauncher"; engines)
            }
        }
    }

    pub fn submit_command(self) -> &'static [&'static str] {
        match self {
            Self::Slurm => &["sbatch"],
            Self::Pbs | Self::Sge => &["qsub"],
            Self::Lsf => &["bsub"],
            Self::HtCondor => &["condor_submit"],
        }
    }

    /// Before the job's id.
    pub fn delete_command(self) -> &'static [&'static str] {
        match self {
            Self::Slurm => &["scancel"],
            Self::Pbs | Self::Sge => &["qdel"],
            Self::Lsf => &["bkill"],
            Self::HtCondor => &["condor_rm"],
        }
    }

    /// Before the signal's number and the job's id; nothing where there is no such command.
    pub fn signal_command(self) -> &'static [&'static str] {
        match self {
            Self::Slurm => &["scancel", "-s"],
            Self::Pbs => &["qsig", "-s"],
            Self::Lsf => &["bkill", "-s"],
            Self::Sge | Self::HtCondor => &[],
        }
    }

    /// What asks for the state of a job.
    pub fn status_command(self, id: &str) -> Vec<String> {
        let id = id.to_owned();
        let words: &[&str] = match self {
            Self::Slurm => {
                let mut words =
                    texts(&["squeue", "--noheader", "--states=all", "--format=%T|%r|%N"]);
                words.push(format!("--jobs={id}"));
                return words;
            }
            Self::Pbs => &["qstat", "-f", "-t"],
            // It has no question for a single job's state.
            Self::Sge => return texts(&["qstat", "-u", "*"]),
            Self::Lsf => &["bjobs", "-a"],
            Self::HtCondor => {
                let mut words = vec!["condor_q".to_owned(), id];
                words.extend(texts(&["-af", "JobStatus", "RemoteHost", "HoldReason"]));
                return words;
            }
        };
        let mut words = texts(words);
        words.push(id);
        words
    }

    /// Finds the job's id in what the submit command says, and the group of it that is meant.
    pub fn job_id_regexp(self) -> (&'static str, usize) {
        match self {
            Self::Slurm | Self::Sge | Self::Lsf => (r"\d+", 0),
            // The id of an array is not complete without its brackets.
            Self::Pbs => (r"\d+(\[\])?", 0),
            Self::HtCondor => (r"(?m)(\d+)\.\s*$", 1),
        }
    }

    /// Is the script handed to the submit command as its input?
    pub fn submits_by_input(self) -> bool {
        self == Self::Lsf
    }

    /// Variables that the submit command needs.
    pub fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Else the output of all of an array's jobs is written over that of the others.
            Self::Lsf => &[("LSB_STDOUT_DIRECT", "Y")],
            _ => &[],
        }
    }

    pub fn batch_file_name(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Slurm, Role::Controller) => "slurm_controller.sbatch",
            (Self::Slurm, Role::Engines) => "slurm_engine.sbatch",
            (Self::Pbs, Role::Controller) => "pbs_controller",
            (Self::Pbs, Role::Engines) => "pbs_engines",
            (Self::Sge, Role::Controller) => "sge_controller",
            (Self::Sge, Role::Engines) => "sge_engines",
            (Self::Lsf, Role::Controller) => "lsf_controller",
            (Self::Lsf, Role::Engines) => "lsf_engines",
            (Self::HtCondor, Role::Controller) => "htcondor_controller",
            (Self::HtCondor, Role::Engines) => "htcondor_engines",
        }
    }

    /// The directive for a setting that is set; nothing where the system has no such thing.
    pub fn directive(self, setting: Setting) -> Option<&'static str> {
        use Setting::{Account, Options, Output, Qos, Queue, TimeLimit};
        Some(match (self, setting) {
            (Self::Slurm, Queue) => "#SBATCH --partition={queue}",
            (Self::Slurm, Account) => "#SBATCH --account={account}",
            (Self::Slurm, Qos) => "#SBATCH --qos={qos}",
            (Self::Slurm, TimeLimit) => "#SBATCH --time={timelimit}",
            (Self::Slurm, Output) => "#SBATCH --output={output_file}",
            (Self::Slurm, Options) => "#SBATCH {options}",
            (Self::Pbs, Queue) => "#PBS -q {queue}",
            (Self::Pbs, Account) => "#PBS -A {account}",
            (Self::Pbs, TimeLimit) => "#PBS -l walltime={timelimit}",
            (Self::Pbs, Output) => "#PBS -j oe\n#PBS -o {output_file}",
            (Self::Pbs, Options) => "#PBS {options}",
            (Self::Sge, Queue) => "#$ -q {queue}",
            (Self::Sge, Account) => "#$ -A {account}",
            (Self::Sge, TimeLimit) => "#$ -l h_rt={timelimit}",
            (Self::Sge, Output) => "#$ -j y\n#$ -o {output_file}",
            (Self::Sge, Options) => "#$ {options}",
            (Self::Lsf, Queue) => "#BSUB -q {queue}",
            (Self::Lsf, Account) => "#BSUB -P {account}",
            (Self::Lsf, TimeLimit) => "#BSUB -W {timelimit}",
            (Self::Lsf, Output) => "#BSUB -o {output_file}\n#BSUB -e {output_file}",
            (Self::Lsf, Options) => "#BSUB {options}",
            (Self::HtCondor, Account) => "accounting_group = {account}",
            (Self::HtCondor, Output) => {
                "output = {output_file}\nerror = {output_file}\nlog = {output_file}.events"
            }
            (Self::HtCondor, Options) => "{options}",
            (Self::Pbs | Self::Sge | Self::Lsf, Qos)
            | (Self::HtCondor, Queue | Qos | TimeLimit) => return None,
        })
    }

    /// What makes `n` of the engines' program.
    pub fn array_directive(self) -> &'static str {
        match self {
            Self::Slurm => "#SBATCH --ntasks={n}",
            Self::Pbs => "#PBS -t 1-{n}",
            Self::Sge => "#$ -t 1-{n}",
            Self::Lsf => "#BSUB -J ipengine-{cluster_id}[1-{n}]",
            Self::HtCondor => "queue {n}",
        }
    }

    /// Do directives stand at the end, as HTCondor's `queue`?
    pub fn array_is_last(self) -> bool {
        self == Self::HtCondor
    }

    /// The first lines, and what runs the program.
    pub fn template(self, role: Role) -> (&'static str, &'static str) {
        match (self, role) {
            (Self::Slurm, Role::Controller) => (
                "#!/bin/sh\n#SBATCH --export=ALL\n#SBATCH --job-name=ipcontroller-{cluster_id}\n#SBATCH --ntasks=1\n",
                "exec {program_and_args}\n",
            ),
            (Self::Slurm, Role::Engines) => (
                "#!/bin/sh\n#SBATCH --export=ALL\n#SBATCH --job-name=ipengine-{cluster_id}\n",
                "srun {program_and_args}\n",
            ),
            (Self::Pbs, Role::Controller) => (
                "#!/bin/sh\n#PBS -V\n#PBS -N ipcontroller\n",
                "exec {program_and_args}\n",
            ),
            (Self::Pbs, Role::Engines) => (
                "#!/bin/sh\n#PBS -V\n#PBS -N ipengine\n",
                "exec {program_and_args}\n",
            ),
            (Self::Sge, Role::Controller) => (
                // It kills at once what did not ask to be warned.
                "#!/bin/sh\n#$ -V\n#$ -S /bin/sh\n#$ -notify\n#$ -N ipcontroller\n",
                "exec {program_and_args}\n",
            ),
            (Self::Sge, Role::Engines) => (
                "#!/bin/sh\n#$ -V\n#$ -S /bin/sh\n#$ -N ipengine\n",
                "exec {program_and_args}\n",
            ),
            (Self::Lsf, Role::Controller) => (
                "#!/bin/sh\n#BSUB -env all\n#BSUB -J ipcontroller-{cluster_id}\n",
                "exec {program_and_args}\n",
            ),
            (Self::Lsf, Role::Engines) => {
                ("#!/bin/sh\n#BSUB -env all\n", "exec {program_and_args}\n")
            }
            (Self::HtCondor, _) => (
                "universe = vanilla\nexecutable = {executable}\n# The file system is shared.\ntransfer_executable = \
                 False\ngetenv = True\n",
                "arguments = \"{arguments}\"\n",
            ),
        }
    }
}

/// What users set for a job, beside the script as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    Queue,
    Account,
    Qos,
    TimeLimit,
    Output,
    Options,
}

impl Setting {
    pub const ALL: [Self; 6] = [
        Self::Queue,
        Self::Account,
        Self::Qos,
        Self::TimeLimit,
        Self::Output,
        Self::Options,
    ];

    /// The trait, which is the name in templates as well.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Account => "account",
            Self::Qos => "qos",
            Self::TimeLimit => "timelimit",
            Self::Output => "output_file",
            Self::Options => "options",
        }
    }
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
