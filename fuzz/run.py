"""Runs each fuzz target under libFuzzer, in turn or some of them. Needs no nightly Rust.

    python3 fuzz/run.py [--seconds 60] [--only TARGET …]

What is interesting stays in target/fuzz/corpus between runs, what fails in target/fuzz/artifacts: put that into
fuzz/corpus/TARGET with the repair, where the tests run it for ever.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / "target/fuzz"
TARGETS = sorted(path.name for path in (HERE / "corpus").iterdir())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--only", action="append", choices=TARGETS)
    options = parser.parse_args()
    environment = {**os.environ, "PATH": os.pathsep.join([str(PLACE / "tools/bin"), os.environ["PATH"]])}
    if not shutil.which("cargo-fuzz", path=environment["PATH"]):
        install = ["cargo", "install", "cargo-fuzz", "--locked", "--root", str(PLACE / "tools")]
        subprocess.run(install, check=True, env=environment)
    failed = []
    for target in options.only or TARGETS:
        figures = run(target, options.seconds, environment)
        print(f"{target}: {figures or 'FAILED'}", flush=True)
        if figures is None:
            failed.append(target)
    if failed:
        sys.exit(f"what fails is in {PLACE / 'artifacts'}: {', '.join(failed)}")


def run(target, seconds, environment):
    """What libFuzzer says in the end, or None if the target fails."""
    found, artifacts = PLACE / "corpus" / target, PLACE / "artifacts" / target
    for folder in (found, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    # Optimized, and yet with debug assertions and overflow checks, which is what there is to find.
    command = ["cargo", "fuzz", "run", "--sanitizer", "none", "--target-dir", str(PLACE / "build"), "any"]
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=1"]
    arguments = [str(found), str(HERE / "corpus" / target), "--", *limits, f"-artifact_prefix={artifacts}/"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=HERE.parent,
        env={**environment, "FUZZ_TARGET": target},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        print(done.stderr[-4000:])
        return None
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    return f"{runs[1] if runs else '?'} inputs, {coverage[-1] if coverage else '?'} places reached"


if __name__ == "__main__":
    main()
