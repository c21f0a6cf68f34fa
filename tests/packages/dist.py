"""Where the packages are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "target" / "packages" / "dist"


def made(pattern):
    """The one package of this name."""
    found = sorted(DIST.glob(pattern))
    assert len(found) == 1, f"{len(found)} files {pattern} in {DIST}: `make packages` makes them"
    return found[0]
