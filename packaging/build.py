"""Makes the packages, all of them of one release build.

    python3 packaging/build.py [archives] [deb] [wheel] [formula] [--url=URL]

What is made goes to target/packages/dist, with SHA256SUMS. `--url` is where the source archive can be fetched, for the formula; without it that is its path
on this machine. Needs cargo, and git for the source archive; `deb` needs debhelper and dpkg-dev; `wheel` installs its
tools in target/packages/tools.
"""

import argparse

import archives
import deb
import formula
import project
import python_wheel
import tree

KINDS = ("archives", "deb", "wheel", "formula")


def main():
    parser = argparse.ArgumentParser(description="Makes the packages.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} [default: all that this machine can]")
    parser.add_argument("--url", help="where the source archive can be fetched")
    options = parser.parse_args()
    for kind in options.kinds:
        if kind not in KINDS:
            parser.error(f"there is no kind {kind!r}: {', '.join(KINDS)}")
    kinds = options.kinds or [kind for kind in KINDS if kind != "deb" or not deb.missing()]

    program = project.build()
    tree.make(program)
    if "archives" in kinds:
        archives.binary()
    if "archives" in kinds or "formula" in kinds:
        source = archives.source()
    if "deb" in kinds:
        deb.make()
    if "wheel" in kinds:
        python_wheel.make()
    if "formula" in kinds:
        formula.make(source, options.url or source.as_uri())
    archives.checksums()
    for path in sorted(project.DIST.iterdir()):
        print(f"{path.stat().st_size / 1e6:7.2f} MB  {path.relative_to(project.ROOT)}")


if __name__ == "__main__":
    main()
