"""The files of an installation, in the folders that they have below /usr or /usr/local."""

import shutil
import subprocess

import licences
import project
from project import ROOT, TREE, run

NAMES = ("ipcluster", "ipcontroller", "ipengine")
# Where each shell looks for the completions of a command.
COMPLETIONS = {
    "bash": "share/bash-completion/completions/{}",
    "zsh": "share/zsh/site-functions/_{}",
    "fish": "share/fish/vendor_completions.d/{}.fish",
}


def make(program):
    """Makes it anew of the built program, which writes its manual pages and completions itself."""
    for folder in (TREE, project.DIST):
        shutil.rmtree(folder, ignore_errors=True)
    project.DIST.mkdir(parents=True)
    binary = TREE / "bin" / "ipcluster"
    binary.parent.mkdir(parents=True)
    shutil.copy(program, binary)
    binary.chmod(0o755)
    for name in NAMES[1:]:
        (TREE / "bin" / name).symlink_to("ipcluster")

    for shell, place in COMPLETIONS.items():
        for name in NAMES:
            path = TREE / place.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(run(binary, "completions", shell, f"--program={name}", stdout=subprocess.PIPE))

    pages = TREE / "share" / "man" / "man1"
    pages.mkdir(parents=True)
    run(binary, "man", pages)

    units = TREE / "lib" / "systemd" / "user"
    units.mkdir(parents=True)
    shutil.copy(ROOT / "packaging" / "systemd" / "ipcluster@.service", units)

    documents = TREE / "share" / "doc" / "ipcluster"
    shutil.copytree(ROOT / "profiles", documents / "examples" / "profiles")
    shutil.copytree(ROOT / "packaging" / "grafana", documents / "examples" / "grafana")
    for path in ("README.md", "CHANGELOG.md", "LICENSE", "src/differences.md"):
        shutil.copy(ROOT / path, documents)
    (documents / "THIRD-PARTY-LICENSES").write_text(licences.text())
