"""The checks of the project in the order of their speed: ``python -m tests``, options go to pytest."""

from __future__ import annotations

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


def main() -> int:
    for command in (*CHECKS, [sys.executable, "-m", "pytest", *sys.argv[1:]]):
        print("$", Path(command[0]).name, *command[1:], flush=True)
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
