"""The Python wheel: the program under a name that ipyparallel has not got."""

import json
import platform
import shutil
import subprocess
import sys
import sysconfig

import project
from project import DIST, ROOT, TREE, run

# In the folder of scripts, where ipyparallel's own are.
PROGRAM = "ipcluster-rs"


def make():
    python = run(
        sys.executable,
        ROOT / "tests" / "python_environment.py",
        project.WORK / "tools",
        ROOT / "packaging" / "requirements.txt",
        stdout=subprocess.PIPE,
        text=True,
    ).strip()
    version = project.version()
    name = f"ipcluster_rs-{version}"
    work = project.WORK / "wheel"
    shutil.rmtree(work, ignore_errors=True)
    folder = work / name
    scripts = folder / f"{name}.data" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(TREE / "bin" / "ipcluster", scripts / PROGRAM)

    information = folder / f"{name}.dist-info"
    (information / "licenses").mkdir(parents=True)
    text = (ROOT / "packaging" / "wheel" / "METADATA.in").read_text()
    (information / "METADATA").write_text(text.replace("@VERSION@", version))
    (information / "WHEEL").write_text(
        f"Wheel-Version: 1.0\nGenerator: ipcluster {version}\nRoot-Is-Purelib: false\nTag: py3-none-{_platform()}\n"
    )
    for licence in ("LICENSE", "THIRD-PARTY-LICENSES"):
        shutil.copy(TREE / "share/doc/ipcluster" / licence, information / "licenses")
    environment = {"SOURCE_DATE_EPOCH": str(project.epoch())}
    run(python, "-m", "wheel", "pack", folder, "--dest-dir", work, env=environment, stdout=subprocess.DEVNULL)
    (wheel,) = work.glob("*.whl")
    if sys.platform == "linux":
        wheel = _with_glibc(python, wheel)
    shutil.copy(wheel, DIST)


def _platform():
    if sys.platform == "linux":
        return f"linux_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _with_glibc(python, wheel):
    """The same, under the tag that says which glibc it takes; auditwheel looks at what the program asks for."""
    words = run(python, "-m", "auditwheel", "show", "--json", wheel, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    tag = f"--platform-tag={json.loads(words)['overall_tag']}"
    name = run(python, "-m", "wheel", "tags", "--remove", tag, wheel, stdout=subprocess.PIPE, text=True)
    return wheel.with_name(name.strip())
