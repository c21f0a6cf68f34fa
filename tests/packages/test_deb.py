"""The Debian package on a Debian of its own, beside python3-ipyparallel, whose programs it must not destroy."""

import subprocess

import debian_root
import pytest
from dist import ROOT, VERSION, made

MISSING = debian_root.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no Debian to install it on: {MISSING}")

NAMES = ("ipcluster", "ipcontroller", "ipengine")
PACKAGE = "/srv/ipcluster.deb"

# Debian's own client, on whatever cluster of the default profile runs.
CLIENT = """
import os, ipyparallel
client = ipyparallel.Client(timeout=60)
client.wait_for_engines(2, timeout=60)
assert client.load_balanced_view().map_sync(lambda x: x**2, range(8)) == [x**2 for x in range(8)]
print(sorted(client.ids), len(set(client[:].apply_sync(os.getpid))))
"""


@pytest.fixture(scope="module")
def root():
    return debian_root.make(ROOT / "target" / "packages" / "debian-root")


@pytest.fixture
def debian(root, tmp_path):
    with debian_root.copy(root, tmp_path) as debian:
        debian.copy_in(made("ipcluster_*.deb"), PACKAGE)
        yield debian


def files(debian):
    """Everything there is, with what it is; not what package managers, logs and users keep for themselves."""
    skipped = ("proc", "dev", "sys", "tmp", "run", "home", "srv", "var/log", "var/cache", "var/lib/apt", "var/lib/dpkg")
    paths = " -o ".join(f"-path /{path}" for path in skipped)
    listing = debian.ok("sh", "-c", f"find / -xdev \\( {paths} \\) -prune -o -type d -printf '%p %M\\n' -o -printf '%p %M %s %l\\n'")
    return set(listing.splitlines())


def contents(debian, suffix=""):
    """The programs and pages of these names."""
    paths = [f"/usr/bin/{name}{suffix}" for name in NAMES]
    paths += [f"/usr/share/man/man1/{name}{suffix}.1.gz" for name in NAMES]
    return [line.split()[0] for line in debian.ok("sha256sum", *paths).splitlines()]


def use(debian):
    """A cluster, from its start to its end."""
    user = debian_root.USER
    assert "running" in debian.ok("ipcluster", "start", "-n", "2", "--daemonize", "-o", "json", user=user)
    assert debian.ok("python3", "-c", CLIENT, user=user).split("\n")[-2] == "[0, 1] 2"
    assert '"running"' in debian.ok("ipcluster", "list", "-o", "json", user=user)
    debian.ok("ipcluster", "stop", user=user)
    assert not debian.processes()


def is_ours(debian, name="ipcluster"):
    # Those of python3-ipyparallel do not say their names.
    return debian.ok(name, "--version").split() == [name, VERSION]


def test_it_stands_beside_debian_s_own_and_leaves_nothing(debian):
    before, stock = files(debian), contents(debian)
    diversions = debian.ok("dpkg-divert", "--list")
    version = debian.ok("ipcluster", "--version")

    debian.ok("dpkg", "--install", PACKAGE)
    assert all(is_ours(debian, name) for name in NAMES)
    assert contents(debian, ".ipyparallel") == stock
    assert debian.ok("ipcluster.ipyparallel", "--version") == version
    assert not debian.ok("dpkg", "--verify", "ipcluster", debian_root.STOCK)
    use(debian)

    debian.ok("dpkg", "--remove", "ipcluster")
    assert contents(debian) == stock and debian.ok("ipcluster", "--version") == version
    debian.ok("dpkg", "--purge", "ipcluster")
    assert files(debian) == before
    assert debian.ok("dpkg-divert", "--list") == diversions
    assert not debian.ok("dpkg", "--verify", debian_root.STOCK)
    assert "ipcluster" not in debian.ok("dpkg-query", "--show", "--showformat=${Package}\n").split()


def test_debian_s_own_stays_usable_beside_it(debian):
    user = debian_root.USER
    debian.ok("dpkg", "--install", PACKAGE)
    debian.ok("ipcluster.ipyparallel", "start", "-n", "2", "--daemonize", user=user)
    assert debian.ok("python3", "-c", CLIENT, user=user).split("\n")[-2] == "[0, 1] 2"
    assert "python3" in " ".join(word for process in debian.processes() for word in process.cmdline())
    debian.ok("ipcluster.ipyparallel", "stop", user=user)


def test_debian_s_own_may_come_later_and_go_earlier(debian):
    stock = contents(debian)
    debian.ok("dpkg", "--purge", debian_root.STOCK)
    before = files(debian)
    debian.ok("dpkg", "--install", PACKAGE)
    assert is_ours(debian)
    debian.ok("sh", "-c", f"dpkg --install /srv/{debian_root.STOCK}_*.deb")
    assert is_ours(debian) and contents(debian, ".ipyparallel") == stock
    debian.ok("dpkg", "--purge", debian_root.STOCK)
    assert is_ours(debian)
    debian.ok("dpkg", "--purge", "ipcluster")
    assert files(debian) == before


def test_a_newer_version_takes_the_place_of_an_older_one(debian, tmp_path):
    stock, before = contents(debian), files(debian)
    # The same, with a higher number.
    folder = tmp_path / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", made("ipcluster_*.deb"), folder], check=True)
    control = folder / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", folder, tmp_path / "newer.deb"], check=True, stdout=subprocess.DEVNULL)
    debian.copy_in(tmp_path / "newer.deb", "/srv/newer.deb")

    debian.ok("dpkg", "--install", PACKAGE)
    debian.ok("dpkg", "--install", "/srv/newer.deb")
    assert is_ours(debian) and contents(debian, ".ipyparallel") == stock
    debian.ok("dpkg", "--purge", "ipcluster")
    assert contents(debian) == stock and files(debian) == before


def test_it_names_the_libraries_that_it_needs_and_no_others():
    needs = subprocess.run(
        ["dpkg-deb", "--field", made("ipcluster_*.deb"), "Depends"], capture_output=True, text=True, check=True
    ).stdout
    assert {need.split()[0] for need in needs.split(",")} == {"libc6", "libgcc-s1"}, needs


def test_lintian_finds_no_error():
    if subprocess.run(["which", "lintian"], stdout=subprocess.DEVNULL).returncode != 0:
        pytest.skip("lintian is not installed")
    done = subprocess.run(
        [
            "lintian",
            "--allow-root",
            "--fail-on=error,warning",
            "--profile=debian",
            # It is not uploaded to Debian.
            "--suppress-tags=initial-upload-closes-no-bugs",
            made("ipcluster_*.deb"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
