"""The checks of the project: ``python -m tests``, options go to pytest.

Tests run in one process for each core, each on one thread: two processes of one thread are faster than one of two. A
process takes the files in their order, so that those of a file share its fixtures, and one that is done takes over half
of what another has left. Types are checked meanwhile.
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
)
TYPES = [str(TOOLS / "mypy")]
PARALLEL = ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal"]


def say(command: list[str]) -> None:
    """The command as it is typed."""
    print("$", Path(command[0]).name, *command[1:], flush=True)


def main() -> int:
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    for command in CHECKS:
        say(command)
        if code := subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            return code
    tests = [sys.executable, "-m", "pytest", *PARALLEL, *sys.argv[1:]]
    with subprocess.Popen(TYPES, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as types:
        say(tests)
        code = subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode
        said, _ = types.communicate()
    say(TYPES)
    print(said, end="", flush=True)
    return code or types.returncode


if __name__ == "__main__":
    sys.exit(main())
