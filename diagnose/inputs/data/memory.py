"""How much memory there is for a table."""

from __future__ import annotations

import os
from pathlib import Path

from diagnose.errors import InputError

PEAK = 2.1
"""What opening a dense table takes at most, in tables of float64: itself and the samples made of it. Measured on 2,000
rows of 25,000 features: 1.5 for samples in float32, 2.0 in float64."""
SYSTEM = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container's limit stands, in bytes or ``max``."""


def available() -> int | None:
    """Bytes that can be taken without swapping, a container's limit in mind; None where the system doesn't say."""
    sizes = [size for size in (_free(), *map(_limit, LIMITS)) if size is not None]
    return min(sizes, default=None)


def refuse_beyond(rows: int, width: int, name: str) -> None:
    """Refuse a dense table that cannot be opened: the kernel would kill the process without a word.

    Raises:
        InputError: what opening it takes is more than there is.
    """
    table, memory = 8 * rows * width, available()
    if memory is not None and PEAK * table > memory:
        raise InputError(
            f"{rows:,} rows of {width:,} features need {PEAK * table / 1e9:,.1f} GB as a dense table, "
            f"{memory / 1e9:,.1f} GB are free",
            name,
            "use a file with fewer rows or features",
        )


def _free() -> int | None:
    try:
        lines = SYSTEM.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
