"""The release archive: what is in it, and that its manual pages, completions and unit are what they should be."""

import hashlib
import shutil
import subprocess
import tarfile

import pytest
from dist import DIST, VERSION, made

NAMES = ("ipcluster", "ipcontroller", "ipengine")


def needs(program):
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


def output(*command, **how):
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_checksums_are_those_of_the_packages():
    lines = (DIST / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    others = {path.name for path in DIST.iterdir()} - {"SHA256SUMS"}
    assert set(sums) == others and len(others) >= 2
    for name, digest in sums.items():
        assert hashlib.sha256((DIST / name).read_bytes()).hexdigest() == digest, name


def test_the_program_answers_to_each_of_its_names(installation):
    for name in NAMES:
        assert output(installation / "bin" / name, "--version").split()[-1] == VERSION
    assert "--sqlitedb" in output(installation / "bin" / "ipcontroller", "--help")


def test_archives_name_nobody_who_made_them():
    for path in DIST.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
        assert {member.uid for member in members} == {0}
        assert not [member.name for member in members if member.name.startswith(("/", ".."))]


def test_every_linked_library_s_licence_is_named(installation):
    text = (installation / "share/doc/ipcluster/THIRD-PARTY-LICENSES").read_text()
    first, *licences = text.split("\n\n" + "-" * 79 + "\n\n")
    names = [line.split(" ")[0] for line in first.splitlines()[2:]]
    assert {"clap", "tokio", "rusqlite", "libsqlite3-sys"} <= set(names)
    # For tests alone.
    assert not {"zmq", "proptest", "tempfile"} & set(names)
    assert not [line for line in first.splitlines()[2:] if "see below" in line]
    assert len(licences) > 20 and "Permission is hereby granted" in text


@needs("man")
def test_manual_pages_are_read_without_a_warning(installation):
    pages = sorted((installation / "share/man/man1").iterdir())
    assert {f"{name}.1" for name in (*NAMES, "ipcluster-start", "ipcluster-db-query")} <= {page.name for page in pages}
    for page in pages:
        # The way lintian looks at them.
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and not done.stderr, f"{page.name}: {done.stderr}"


@needs("bash")
def test_bash_completes(installation):
    folder = installation / "share/bash-completion/completions"
    script = """
        source "$1/$2"
        COMP_WORDS=("${@:2}"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        "_$2" "$2" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def completed(*words):
        return output("bash", "-c", script, "bash", folder, *words).split()

    assert {"start", "stop", "status"} <= set(completed("ipcluster", "st"))
    assert "--daemonize" in completed("ipcluster", "start", "--d")
    assert "json" in completed("ipcluster", "stop", "--output-format", "j")
    assert "--sqlitedb" in completed("ipcontroller", "--sq")
    assert "--memory-limit" in completed("ipengine", "--mem")


@needs("zsh")
def test_zsh_completes(installation, tmp_path):
    # zsh completes at a terminal alone, which `zpty` is. The line that the key has left is written to a file.
    folder = installation / "share/zsh/site-functions"
    script = r"""
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "fpath=($1 \$fpath); autoload -U compinit; compinit -u -D"
        zpty -w shell "left() { zle complete-word; print -r -- \$BUFFER >> $2; echo 'it is the''re' }"
        zpty -w shell "zle -N left; bindkey '^I' left; echo 'is re''ady'"
        zpty -r -m shell words '*is ready*'
        for line in "${@:3}"; do
            zpty -w -n shell "$line"$'\t'
            zpty -r -m shell words '*it is there*'
            zpty -w -n shell $'\x15'
        done
        zpty -d shell
    """
    lines = tmp_path / "lines"
    typed = ["ipcluster star", "ipcluster start --daemon", "ipcontroller --sqlited", "ipengine --memory-li"]
    output("timeout", "60", "zsh", "-f", "-c", script, "zsh", folder, lines, *typed)
    completed = [line.rstrip(" =") for line in lines.read_text().splitlines()]
    assert completed == [
        "ipcluster start",
        "ipcluster start --daemonize",
        "ipcontroller --sqlitedb",
        "ipengine --memory-limit",
    ]


@needs("fish")
def test_fish_completes(installation, tmp_path):
    folder = installation / "share/fish/vendor_completions.d"

    def completed(line):
        script = f'set -p fish_complete_path "{folder}"; complete -C "{line}"'
        environment = {"PATH": f"{installation}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
        return [line.split("\t")[0] for line in output("fish", "-c", script, env=environment).splitlines()]

    assert {"start", "stop", "status"} <= set(completed("ipcluster st"))
    assert "--daemonize" in completed("ipcluster start --d")
    assert "--sqlitedb" in completed("ipcontroller --sq")
    assert "--memory-limit" in completed("ipengine --mem")


@needs("systemd-analyze")
def test_the_user_unit_is_understood(installation, tmp_path):
    text = (installation / "lib/systemd/user/ipcluster@.service").read_text()
    # Where it is looked for when it is installed.
    unit = tmp_path / "ipcluster@lab.service"
    unit.write_text(text.replace("ExecStart=ipcluster", f"ExecStart={installation}/bin/ipcluster"))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "MANPATH": str(installation / "share/man")}
    words = output("systemd-analyze", "--user", "verify", unit, env=environment)
    assert str(unit.name) not in words, words


def test_the_source_archive_has_what_it_takes_to_build_and_test():
    with tarfile.open(made(f"ipcluster-{VERSION}.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Cargo.toml", "Cargo.lock", "src/main.rs", "Makefile", "LICENSE", "packaging/build.py", "profiles/ssh.toml"} <= names
    assert not {name for name in names if name.startswith(("target", ".venv"))}
