import sys
from pathlib import Path

# The harness, and of tests/python what starts the programs.
for folder in (Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent / "python"):
    sys.path.insert(0, str(folder))
