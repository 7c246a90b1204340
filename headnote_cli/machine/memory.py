"""Main memory: the machine's, or less where a container or a batch system limits the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class _Files(NamedTuple):
    """Where a version of control groups keeps a group's limit, its use, and how much of that is the cache of files.

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
    """Bytes of main memory that the process may have; 0 where the system does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    return min([machine, *(limit for limit, _ in _limits())])


def available_memory() -> int:
    """Bytes of main memory that the process can still take; all of it where the system does not say."""
    free = _counts(ROOT / "proc/meminfo").get("MemAvailable:")
    if free is None:
        return main_memory()
    return max(0, min([free * 1024, *(limit - held for limit, held in _limits())]))


def _limits() -> Iterator[tuple[int, int]]:
    """The limit and the bytes held of each control group that the process is in, from its own to the outermost.

    A container may see itself as the top of the tree under a path of the host's: groups that are not there are passed.
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
            if limit.isdecimal() and use.isdecimal():  # `max` is none
                counts = _counts(group / "memory.stat")
                yield int(limit), int(use) - sum(counts.get(name, 0) for name in files.cache)
            if group == top:
                break


def _counts(file: Path) -> dict[str, int]:
    """The numbers of a file by the names before them."""
    lines = (line.split() for line in _text(file).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(file: Path) -> str:
    """What a file says, nothing if it is not there."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
