import sys
from pathlib import Path

# Of tests/python what starts the programs, of tests/worker what finds the Pythons of this machine.
for folder in ("python", "worker"):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / folder))
