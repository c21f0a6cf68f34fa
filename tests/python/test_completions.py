"""What shells offer for values of arguments."""

import shutil
import subprocess

import pytest
from cluster_fixtures import BINARY, clusters  # noqa: F401


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell}")


@pytest.fixture
def shell(clusters, tmp_path):
    """Runs a script, by a shell that finds `ipcluster` and two profiles."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "ipcluster").symlink_to(BINARY)
    for name in ("night", "noon"):
        clusters.ok("profile", "create", name)

    def run(*command):
        env = {**clusters.env, "PATH": f"{bin}:{clusters.env['PATH']}", "HOME": str(tmp_path)}
        done = subprocess.run(command, env=env, cwd=bin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


# Of each: the words of a command line, the last of which is completed, and what is offered for it.
CASES = [
    (("ipcluster", "stop", "--profile", ""), {"night", "noon"}),
    (("ipcluster", "stop", "--profile", "ni"), {"night"}),
    (("ipcluster", "start", "--engines", "s"), {"ssh", "sshproxy", "slurm", "sge"}),
    (("ipcluster", "start", "--controller", "s"), {"ssh", "slurm", "sge"}),
    (("ipcluster", "status", "--log-level", "de"), {"debug"}),
    (("ipcluster", "engine", "--restart", "o"), {"on-failure"}),
    (("ipcluster", "controller", "--scheme", "l"), {"leastload", "lru"}),
    (("ipengine", "--profile", "noo"), {"noon"}),
]


@needs("bash")
@pytest.mark.parametrize(("words", "offered"), CASES)
def test_bash_offers_values(shell, words, offered):
    script = r"""
        source <(ipcluster completions bash --program="$1")
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        "_$1" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    """
    assert set(shell("bash", "-c", script, "bash", *words)) == offered


@needs("fish")
@pytest.mark.parametrize(("words", "offered"), CASES)
def test_fish_offers_values(shell, words, offered):
    script = f"ipcluster completions fish --program={words[0]} | source; complete -C '{' '.join(words)}' | cut -f 1"
    assert set(shell("fish", "--no-config", "-c", script)) == offered


@needs("zsh")
def test_zsh_is_told_of_values(shell, clusters):
    script = r"""
        compdef() { true }
        compadd() { print -l -- ${(P)2} }
        ipcluster completions zsh > script && source ./script
        __ipcluster_profiles
        grep -c ":NAME:__ipcluster_profiles'" script > count && print counted
    """
    assert shell("zsh", "-f", "-c", script) == ["night", "noon", "counted"]
    text = clusters.ok("completions", "zsh")
    for values in ("LAUNCHER:(local ssh mpi slurm pbs sge lsf htcondor)", "LEVEL:(debug info warning error critical)"):
        assert values in text


def test_the_manual_s_folder_is_made(clusters, tmp_path):
    clusters.ok("man", str(tmp_path / "new" / "man"))
    assert (tmp_path / "new" / "man" / "ipcluster.1").exists()
