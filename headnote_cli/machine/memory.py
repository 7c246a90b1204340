"""Main memory of the machine, or less if a container or batch system limits the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class _Files(NamedTuple):
    """The files of one cgroup version: a group's limit, its use, and how much of that is file cache.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """

    top: str
    limit: str
    use: str
    cache: tuple[str, ...]


_FIRST = _Files(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_SECOND = _Files("sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file"))


def main_memory() -> int:
    """Bytes of main memory that the process may use; 0 if unknown."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    return min([machine, *(limit for limit, _ in _limits())])


def available_memory() -> int:
    """Bytes of main memory that the process can still allocate; all memory if unknown."""
    free = _counts(ROOT / "proc/meminfo").get("MemAvailable:")
    if free is None:
        return main_memory()
    return max(0, min([free * 1024, *(limit - held for limit, held in _limits())]))


def _limits() -> Iterator[tuple[int, int]]:
    """The limit and used bytes of each control group of the process, from its own to the outermost.

    A container may see itself as the root under a path of the host: groups that do not exist are skipped.
    """
    for line in _text(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files = _FIRST if controllers else _SECOND
        top = ROOT / files.top
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            limit, use = _text(group / files.limit).strip(), _text(group / files.use).strip()
            if limit.isdecimal() and use.isdecimal():  # `max` means no limit
                counts = _counts(group / "memory.stat")
                yield int(limit), int(use) - sum(counts.get(name, 0) for name in files.cache)
            if group == top:
                break


def _counts(file: Path) -> dict[str, int]:
    """The numbers in a file, by the names before them."""
    lines = (line.split() for line in _text(file).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(file: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
