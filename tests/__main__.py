"""The checks of the project in the order of their speed: ``python -m tests``, options go to pytest.

Tests run in one process for each core, those of a file in the same one, each on one thread: two processes of one thread
are faster than one of two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
CHECKS = (
    [str(TOOLS / "ruff"), "check", "."],
    [str(TOOLS / "ruff"), "format", "--check", "."],
    [str(TOOLS / "lint-imports")],
    [str(TOOLS / "mypy")],
)


PARALLEL = ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "loadfile"]


def main() -> int:
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    for command in (*CHECKS, [sys.executable, "-m", "pytest", *PARALLEL, *sys.argv[1:]]):
        print("$", Path(command[0]).name, *command[1:], flush=True)
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
