"""Run folders: their record and checkpoints, and which checkpoints are complete."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headnote_cli.config.layers import Config
from headnote_cli.errors import NO_ROOM, NOT_ALLOWED, DataError, SldsError, UnreachableError, UsageError
from headnote_cli.runs.files import Journal, altered, flush, read_json, sha256, write_json

RECORD = "run.json"
METRICS = "metrics.jsonl"
MANIFEST = "slds.json"  # in a checkpoint: its files, their sizes and hashes
MERGED = "merge.json"  # in a merged model: the same, its sources, and how to prompt it
PROMPTS = "prompts"
SAMPLES = "samples"
LOCK = ".lock"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's
MERGED_SUFFIX = "-merged"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A `checkpoint-N` folder. `fault` says what is wrong with it; None if it is complete."""

    path: Path
    step: int
    fault: str | None = None


@dataclass(frozen=True)
class Run:
    """A run folder and its contents."""

    folder: Path

    def record(self) -> dict[str, Any]:
        """The content of `run.json`; empty if there is none."""
        return read_json(self.folder / RECORD) or {}

    def metrics(self) -> list[dict[str, Any]]:
        """The logged steps, without incomplete lines."""
        return [entry for entry in Journal(self.folder / METRICS).lines() if isinstance(entry.get("step"), int)]

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints by step, incomplete ones with their fault."""
        matches = ((path, _CHECKPOINT.fullmatch(path.name)) for path in self.folder.glob("checkpoint-*"))
        folders = ((path, int(match[1])) for path, match in matches if match and path.is_dir())
        return [Checkpoint(path, step, _fault(path)) for path, step in sorted(folders, key=lambda item: item[1])]

    def whole_checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints."""
        return [checkpoint for checkpoint in self.checkpoints() if checkpoint.fault is None]

    def newest_whole(self) -> Checkpoint | None:
        """The checkpoint to resume from."""
        return next(reversed(self.whole_checkpoints()), None)

    def best_whole(self) -> Checkpoint | None:
        """The complete checkpoint with the lowest evaluation loss; None if none was evaluated."""
        losses = {line["step"]: line["eval_loss"] for line in self.metrics() if "eval_loss" in line}
        scored = [checkpoint for checkpoint in self.whole_checkpoints() if checkpoint.step in losses]
        return min(scored, key=lambda checkpoint: losses[checkpoint.step], default=None)

    def is_locked(self) -> bool:
        """Whether a process is using the folder now; checked without writing."""
        try:
            probe = os.open(self.folder / LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two checks do not block each other
        except OSError:
            return True
        finally:
            os.close(probe)
        return False


def now() -> str:
    """The current UTC time, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def seal(folder: Path) -> None:
    """Flush a checkpoint's files and write its manifest last: without one it is incomplete."""
    flush(folder)
    write_json(folder / MANIFEST, {"files": hashes_of(folder), "sealed": now()})


def hashes_of(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file in a folder except manifests, by relative path.

    Args:
        known: Hashes computed earlier.
    """
    files = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and name not in (MANIFEST, MERGED):
            files[name] = {"bytes": file.stat().st_size, "sha256": (known or {}).get(name) or sha256(file)}
    return files


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces `target` when the block succeeds.

    Until then, an existing `target` stays. The next process cleans up after a killed one.

    Raises:
        UsageError: Another process is writing the same folder.
        SldsError: The place cannot be written to.
    """
    work = target.with_name(f".{target.name}.writing")
    new, old = work / "new", work / "old"
    try:
        with locked(work):
            if old.is_dir() and not target.exists():  # killed between two renames
                old.rename(target)
            _remove(new, old)
            new.mkdir()
            try:
                yield new
                if target.exists():
                    target.rename(old)
                new.rename(target)
            finally:
                if old.is_dir() and not target.exists():
                    old.rename(target)
                _remove(new, old)
                _remove(work)
    except OSError as error:
        if error.errno not in NO_ROOM | NOT_ALLOWED:
            raise
        hint = "make room, or choose another --output; nothing was kept"
        raise SldsError(f"cannot be written: {error.strerror}", str(error.filename or target), hint) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process. The system releases the lock however the process ends.

    Raises:
        UsageError: Another process holds the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{LOCK}.json"
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = read_json(holder) or {}
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('since', '?')}"
        hint = "wait for it, stop it, or write to another place"
        raise UsageError(f"another run is at work in this folder: {who}", str(folder), hint) from None
    try:
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Lock an output file for this process.

    Raises:
        UsageError: Another process is writing it; the message names it.
    """
    work = output.with_name(f".{output.name}.writing")
    with locked(work):
        try:
            yield
        finally:
            _remove(work)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def tampered(folder: Path) -> str | None:
    """The first file of a sealed folder whose size or hash has changed, and how; else None."""
    files = (read_json(folder / MANIFEST) or {}).get("files") or {}
    return next((fault for name, noted in files.items() if (fault := altered(folder, name, noted))), None)


def _fault(folder: Path) -> str | None:
    try:
        manifest = read_json(folder / MANIFEST)
    except DataError as error:
        return str(error)
    if manifest is None:
        return f"no {MANIFEST}: saving was cut short, or another tool wrote it"
    files = manifest.get("files")
    if not isinstance(files, dict):
        return f"{MANIFEST} names no files"
    faults = (altered(folder, name, noted, by_hash=False) for name, noted in files.items())
    return next((fault for fault in faults if fault), None)


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter, not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def noted_base(adapter: Path) -> str | None:
    """The base model in PEFT's adapter config."""
    named = (read_json(adapter / ADAPTER_CONFIG) or {}).get("base_model_name_or_path")
    return str(named) if named else None


def find_checkpoint(name: str, config: Config) -> Path:
    """The checkpoint folder for a path, a name such as `checkpoint-1364`, `latest` or `best`.

    A name is searched in the config's `output_dir`, then in the newest run beside it that has it. `latest` is the
    newest complete one of the config's own run, `best` the complete one with the lowest evaluation loss.

    Raises:
        UnreachableError: It does not exist; the message lists those that do.
        DataError: Files in its manifest are missing or have another size.
    """
    by_word = {"latest": Run.newest_whole, "best": Run.best_whole}.get(name)
    if by_word is None and Path(name).expanduser().is_dir():
        return _sound(Path(name).expanduser())
    output = output_dir(config)
    runs = [output, *_runs_beside(output)]
    whole = by_word(Run(output)) if by_word else None
    if whole is not None:
        return whole.path
    for run in runs if by_word is None else []:
        if (run / name).is_dir():
            return _sound(run / name)
    present = [str(checkpoint.path) for run in runs for checkpoint in Run(run).checkpoints()]
    hint = (
        f"checkpoints found: {', '.join(present)}"
        if present
        else f"no run has a checkpoint yet: run `slds train --config {config.path}`"
    )
    raise UnreachableError(f"there is no checkpoint {name}", str(output), hint)


def _sound(folder: Path) -> Path:
    """Check a checkpoint against its manifest; other tools' checkpoints have none."""
    fault = _fault(folder) if (folder / MANIFEST).is_file() else None
    if fault is not None:
        raise DataError(f"the checkpoint is not whole: {fault}", str(folder))
    return folder


def _runs_beside(output: Path) -> list[Path]:
    """Other runs, newest first: under the first folder of a relative `output_dir`, beside an absolute one."""
    first = Path(*output.parts[:1])
    if output.is_absolute() or len(output.parts) < 2 or first.name == "..":
        records = output.parent.glob(f"*/{RECORD}")
    else:
        records = first.rglob(RECORD)
    newest = sorted(records, key=lambda file: file.stat().st_mtime, reverse=True)
    return [record.parent for record in newest if record.parent != output]


def output_dir(config: Config) -> Path:
    """The run folder of a config.

    Raises:
        UsageError: The config has none.
    """
    name = config.settings.output_dir
    if not name:
        raise UsageError("`output_dir` is not set", str(config.path), "add a line `output_dir: ./trainer_output/…`")
    return Path(name).expanduser()


def record_of(checkpoint: Path) -> dict[str, Any] | None:
    """The record of a checkpoint's run."""
    for folder in (checkpoint, checkpoint.parent):
        record = read_json(folder / RECORD)
        if record is not None:
            return record
    return None


def merged_models(config: Config) -> Iterator[Path]:
    """Complete merged folders of the config's run, newest first."""
    named = config.settings.peft_output_model_path
    candidates = [Path(named).expanduser()] if named else []
    if config.settings.output_dir:
        candidates += output_dir(config).glob(f"*{MERGED_SUFFIX}")
    whole = {folder.resolve(): folder for folder in candidates if (folder / MERGED).is_file()}
    yield from sorted(whole.values(), key=lambda folder: (folder / MERGED).stat().st_mtime, reverse=True)


def set_aside(folder: Path) -> Path:
    """Rename a folder to a free name, to keep it; returns the new path."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = folder.parent / f"{folder.name}.old-{stamp}"
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{folder.name}.old-{stamp}-{number}")
    folder.rename(target)
    return target
