"""Main memory where a container or a batch system limits it: trees of control groups as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from headnote_cli.machine import memory as main_memory

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB, 50 of them available."""
    monkeypatch.setattr(main_memory, "ROOT", tmp_path)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}
    monkeypatch.setattr(main_memory.os, "sysconf", pages.__getitem__)
    save(tmp_path / "proc/meminfo", f"MemTotal: {64 * 2**20} kB\nMemAvailable: {50 * 2**20} kB\n")
    return tmp_path


def save(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def second(group: Path, limit: str, use: int, cache: int = 0) -> None:
    """A group of version 2."""
    save(group / "memory.max", f"{limit}\n")
    save(group / "memory.current", f"{use}\n")
    save(group / "memory.stat", f"anon {use - cache}\ninactive_file {cache}\nactive_file 0\n")


def first(group: Path, limit: int, use: int, cache: int = 0) -> None:
    """A group of version 1."""
    save(group / "memory.limit_in_bytes", f"{limit}\n")
    save(group / "memory.usage_in_bytes", f"{use}\n")
    save(group / "memory.stat", f"inactive_file 7\ntotal_inactive_file 0\ntotal_active_file {cache}\n")


def found() -> tuple[float, float]:
    return main_memory.main_memory() / GIB, main_memory.available_memory() / GIB


def test_without_a_limit_it_is_the_machine(system: Path) -> None:
    assert found() == (64, 50)
    save(system / "proc/self/cgroup", "4:memory:/\n1:name=systemd:/\n0::/\n")
    first(system / "sys/fs/cgroup/memory", 9223372036854771712, 9 * GIB)
    second(system / "sys/fs/cgroup", "max", 9 * GIB)
    assert found() == (64, 50)


def test_the_tightest_group_above_the_process_counts_and_the_cache_of_files_is_free(system: Path) -> None:
    save(system / "proc/self/cgroup", "0::/slurm/job_1/step_0\n")
    top = system / "sys/fs/cgroup"
    second(top / "slurm/job_1/step_0", "max", 3 * GIB)
    second(top / "slurm/job_1", str(16 * GIB), 8 * GIB, cache=2 * GIB)
    second(top / "slurm", str(60 * GIB), 58 * GIB, cache=1 * GIB)
    second(top / "other", str(GIB), GIB)
    assert found() == (16, 3)
    second(top / "slurm", str(60 * GIB), 61 * GIB)
    assert found() == (16, 0)


def test_a_container_under_a_path_of_its_host(system: Path) -> None:
    save(system / "proc/self/cgroup", "11:cpuset:/docker/1f\n4:cpu,memory:/docker/1f\n")
    first(system / "sys/fs/cgroup/memory", 8 * GIB, 5 * GIB, cache=4 * GIB)
    assert found() == (8, 7)


def test_a_system_that_tells_nothing(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "proc/meminfo").unlink()
    assert found() == (64, 64)
    monkeypatch.delattr(main_memory.os, "sysconf")
    assert found() == (0, 0)
