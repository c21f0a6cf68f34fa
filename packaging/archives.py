"""Archives that are the same, byte by byte, whenever they are made of the same commit and build."""

import gzip
import hashlib
import io
import subprocess
import tarfile

import project
from project import DIST, TREE


def binary():
    """The tree, to be unpacked into /usr/local or anywhere else."""
    name = f"ipcluster-{project.version()}-{project.host()}"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in [TREE, *sorted(TREE.rglob("*"))]:
            archive.add(path, f"{name}/{path.relative_to(TREE)}", recursive=False, filter=_impersonal)
    return _write(f"{name}.tar.gz", plain.getvalue())


def _impersonal(member):
    member.mtime = project.epoch()
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def source():
    """What is committed."""
    name = f"ipcluster-{project.version()}"
    plain = project.run("git", "archive", "--format=tar", f"--prefix={name}/", "HEAD", stdout=subprocess.PIPE)
    return _write(f"{name}.tar.gz", plain)


def _write(name, plain):
    path = DIST / name
    path.write_bytes(gzip.compress(plain, mtime=0))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checksums():
    """SHA256SUMS, for `sha256sum -c`."""
    path = DIST / "SHA256SUMS"
    others = sorted(other for other in DIST.iterdir() if other != path)
    path.write_text("".join(f"{digest(other)}  {other.name}\n" for other in others))
