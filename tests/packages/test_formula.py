"""The Homebrew formula: its install and test blocks are run here, with a stand-in for Homebrew's own classes."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from dist import ROOT, made

pytestmark = pytest.mark.skipif(not shutil.which("ruby"), reason="ruby is not installed")

# The user's, not the tests'.
HOME = pwd.getpwuid(os.getuid()).pw_dir
STAND_IN = Path(__file__).parent / "homebrew_stand_in.rb"


def run(*command, **how):
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.mark.parametrize("path", [ROOT / "packaging/homebrew/ipcluster.rb", None])
def test_its_syntax_is_ruby_s(path):
    assert "Syntax OK" in run("ruby", "-c", path or made("ipcluster.rb"))


def test_it_builds_from_the_source_archive_and_passes_its_own_test(tmp_path, clean_environment):
    environment = {
        **clean_environment,
        # What has been compiled already is not compiled again: only the source is the archive's.
        "CARGO_TARGET_DIR": str(ROOT / "target"),
        "CARGO_HOME": os.environ.get("CARGO_HOME", f"{HOME}/.cargo"),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", f"{HOME}/.rustup"),
    }
    words = run("ruby", STAND_IN, made("ipcluster.rb"), tmp_path / "cellar", env=environment)
    prefix = tmp_path / "cellar"
    assert "the test block passed" in words
    assert (prefix / "bin/ipengine").readlink() == Path("ipcluster")
    for path in (
        "etc/bash_completion.d/ipcontroller",
        "share/zsh/site-functions/_ipcluster",
        "share/fish/vendor_completions.d/ipengine.fish",
        "share/man/man1/ipcluster-start.1",
        "share/ipcluster/profiles/ssh.toml",
    ):
        assert (prefix / path).stat().st_size > 0, path
    assert f"run: {prefix}/bin/ipcluster start" in words
