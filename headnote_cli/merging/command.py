"""`slds merge`: checkpoints and their base → one self-contained model folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.layers import Config
from headnote_cli.errors import DataError, SldsError, UnreachableError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.plan import Quantization
from headnote_cli.merging.folder import complete, manifest_of, prompts_of
from headnote_cli.models.adapter_base import base_of_adapter, noted_quantization
from headnote_cli.models.weights import fingerprint, has_weights, known_sha256
from headnote_cli.runs.files import flush, sha256, write_json
from headnote_cli.runs.folders import (
    ADAPTER_CONFIG,
    MERGED,
    MERGED_SUFFIX,
    find_checkpoint,
    is_adapter,
    record_of,
    replacing,
)

if TYPE_CHECKING:
    from headnote_cli.merging.plan import MergeJob, MergePlan
    from headnote_cli.merging.stream import Hashes, Written
    from headnote_cli.merging.verification import Verification

UNVERIFIED = "-unverified"


@dataclass(frozen=True)
class MergeReport:
    """What was merged, and where it was written."""

    base: str
    adapters: tuple[Path, ...]
    output: Path
    onto: str
    copied: int
    merged: int
    bytes: int
    dtype: str
    seconds: dict[str, float]
    verification: Verification | None  # None: not requested

    def to_json(self) -> dict[str, Any]:
        check = self.verification
        names = [str(adapter) for adapter in self.adapters]
        return {
            "base": self.base,
            "adapter": names[0] if len(names) == 1 else names,
            "output": str(self.output),
            "onto": self.onto,
            "tensors": {"copied": self.copied, "merged": self.merged},
            "bytes": self.bytes,
            "dtype": self.dtype,
            "verified": check.passed if check else None,
            "max_abs_diff": check.distance.max_abs if check else None,
            "relative_l2": check.distance.relative_l2 if check else None,
            "verification": asdict(check) if check else None,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class MergeOptions:
    """The command-line options; None means the value of the config or the base."""

    output: Path | None = None
    dtype: str | None = None
    onto: str = "base"
    shard_bytes: int | None = None
    verify: bool = True
    force: bool = False
    push: str | None = None  # a hub id


def merge(config: Config, emit: Listener, checkpoints: Sequence[str], options: MergeOptions) -> MergeReport:
    """Merge checkpoints into their base, one after the other.

    Args:
        checkpoints: Paths, or names for `runs.find_checkpoint`; if empty, `peft_peft_model_path`.

    Raises:
        UnreachableError: The checkpoint, its adapter or the base is missing.
        UsageError: The output exists, or overlaps the checkpoint.
        DataError: Files are broken, a tensor matches no weight, or the merged model is not base + adapters.
    """
    adapters = _adapters(config, checkpoints)
    target = options.output or _default_output(config, adapters[-1], named=bool(checkpoints))
    for adapter in adapters:
        _require_free(target, adapter, options.force)
    record = record_of(adapters[-1]) or {}
    source = base_of_adapter(config, adapters[0], record)
    with _hashing(Path(source.name)) as hashes:
        from headnote_cli.models.base import stored_quantization_of, weights_folder

        job = _job(config, options, adapters, record, source.name)
        base, is_packed = job.base.name, stored_quantization_of(job.base) is not None
        base_folder, prompts = weights_folder(job.base), prompts_of(config, adapters[-1])
        if source.is_trained_on:
            _require_same_base(record, base_folder)
        with replacing(target) as folder:
            if is_packed:
                job, hashes = _dequantized(job, base_folder, folder, emit), {}
            written, plan = _write(job, folder, emit, hashes)
            complete(base_folder, adapters[-1], folder, record, prompts)
            check = None
            if options.verify or plan is None:
                check = _verify(job, plan, written, folder, target, prompts, record.get("max_length"))
            write_json(folder / MERGED, manifest_of(config, record, base, job, written, folder, check))
            flush(folder)
    if options.push:
        from headnote_cli.models.hub import push

        emit(Note(f"pushed to {push(target, options.push)}"))
    return MergeReport(
        base=base,
        adapters=job.adapters,
        output=target,
        onto=options.onto,
        copied=written.copied,
        merged=written.merged,
        bytes=sum(file.stat().st_size for file in target.rglob("*") if file.is_file()),
        dtype=written.dtype,
        seconds={part: round(spent, 3) for part, spent in written.seconds.items()},
        verification=check,
    )


@contextmanager
def _hashing(base: Path) -> Iterator[Hashes]:
    """The hashes of a base's files, computed while the libraries are imported, which uses one core."""
    files = base.glob("model*.safetensors")
    pool = ThreadPoolExecutor(1)
    try:
        yield {file.name: pool.submit(sha256, file) for file in files if known_sha256(file) is None}
    finally:
        pool.shutdown(cancel_futures=True)


def _adapters(config: Config, checkpoints: Sequence[str]) -> list[Path]:
    default = config.settings.peft_peft_model_path
    named = list(checkpoints) or ([default] if default else [])
    if not named:
        raise UsageError("name a checkpoint with --checkpoint", hint="for example --checkpoint latest")
    return [_adapter(find_checkpoint(name, config)) for name in named]


def _adapter(folder: Path) -> Path:
    if is_adapter(folder):
        return folder
    if (folder / "config.json").is_file():
        raise UsageError("the checkpoint is a whole model (full fine-tuning): there is nothing to merge", str(folder))
    held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise UnreachableError(f"the folder holds no adapter (no {ADAPTER_CONFIG})", str(folder), f"it holds: {held}")


def _default_output(config: Config, adapter: Path, named: bool) -> Path:
    """`peft_output_model_path` if it belongs to the checkpoint, else the checkpoint's path with `-merged`."""
    path = config.settings.peft_output_model_path
    if path and (not named or Path(path).name.startswith(adapter.name)):
        return Path(path).expanduser()
    return adapter.with_name(adapter.name + MERGED_SUFFIX)


def _require_free(target: Path, adapter: Path, force: bool) -> None:
    output, checkpoint = target.resolve(), adapter.resolve()
    if output.is_relative_to(checkpoint):
        raise UsageError("the output lies inside the checkpoint", str(target), "choose another --output")
    if checkpoint.is_relative_to(output):
        raise UsageError("the output is a folder that the checkpoint lies in", str(target), "choose another --output")
    if target.exists() and not force:
        raise UsageError("the output exists already", str(target), "choose another --output, or --force to replace it")


def _job(
    config: Config, options: MergeOptions, adapters: Sequence[Path], record: Mapping[str, Any], base_name: str
) -> MergeJob:
    """The merge that the options, the config and the run's record describe.

    The model class is the run's, else the config's, else that of the base's architecture.
    """
    from headnote_cli.merging.plan import MergeJob
    from headnote_cli.models.base import BaseModel, base_of, require_fitting_class

    settings = config.settings
    model_class = record.get("model_class") or (settings.model_class if config.is_set("model_class") else None)
    base = BaseModel(base_name, model_class) if model_class else base_of(base_name)
    require_fitting_class(base, config.where("model_class"))
    trained, onto = noted_quantization(record), None
    if options.onto == "nf4":
        onto = trained or Quantization(settings.bnb_4bit_quant_type, settings.use_bnb_nested_quant, "bfloat16")
    return MergeJob(base, tuple(adapters), options.dtype, onto, options.shard_bytes, trained)


def _require_same_base(record: Mapping[str, Any], base: Path) -> None:
    """
    Raises:
        DataError: These are not the weights that the run was trained on.
    """
    noted = record.get("base_fingerprint")
    if noted and has_weights(base) and fingerprint(base) != noted:
        raise DataError(
            "these weights are not those that the checkpoint was trained on: their fingerprint differs",
            str(base),
            "bring back the base of the run, or merge a copy of the checkpoint that lies outside its run",
        )


def _dequantized(job: MergeJob, stored: Path, folder: Path, emit: Listener) -> MergeJob:
    """The same job with a dequantized base, written beside the merged folder and removed with it."""
    from headnote_cli.merging.dequantization import write_dequantized

    emit(Note("the base lies in 4 bits: the adapter is merged into the weights that these stand for"))
    whole = folder.with_name("base")
    shutil.rmtree(whole, ignore_errors=True)
    write_dequantized(stored, whole)
    return replace(job, base=replace(job.base, name=str(whole), revision="main"), onto=None, trained=None)


def _write(job: MergeJob, folder: Path, emit: Listener, hashes: Hashes) -> tuple[Written, MergePlan | None]:
    """Stream the weights, or let PEFT merge them if only it can; then there is no plan."""
    from headnote_cli.merging.plan import plan_merge
    from headnote_cli.merging.stream import require_room, write_config, write_merged
    from headnote_cli.models.adapters import NeedsPeft

    try:
        plan = plan_merge(job)
    except NeedsPeft as reason:
        from headnote_cli.merging.with_peft import merge_with_peft

        return merge_with_peft(job, folder, str(reason), emit), None
    require_room(plan.bytes, folder)
    written = write_merged(plan, folder, emit, hashes)
    write_config(plan, folder, job.dtype)
    return written, plan


def _verify(
    job: MergeJob,
    plan: MergePlan | None,
    written: Written,
    folder: Path,
    target: Path,
    prompts: Path | None,
    max_length: int | None,
) -> Verification:
    """Compare the output; if the verification cannot run, the folder is kept and renamed `…-unverified`.

    Raises:
        SldsError: The verification cannot run.
        DataError: The merged model is not base + adapters.
    """
    from headnote_cli.merging.verification import probes_for, verify

    try:
        check = verify(job, plan, folder, written.dtype, probes_for(folder, prompts, max_length))
    except Exception as error:
        kept = target.with_name(f"{target.name}{UNVERIFIED}")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        raise SldsError(
            f"the merged model could not be verified: {error}; it lies unverified in {kept}",
            str(target),
            "merge again with more memory free, or with --no-verify",
        ) from error
    if not check.passed:
        raise DataError(
            f"the merged model is not base + adapter: {check.how} differ by {check.distance.relative_l2:.2g} "
            f"(relative L2; {check.tolerance:g} is what rounding explains)",
            str(target),
            "nothing was written",
        )
    return check


def read_size(text: str) -> int:
    """`5GB`, `500MB`, `2GiB` → bytes.

    Raises:
        UsageError: It is not a size.
    """
    match = re.fullmatch(r"(\d*\.?\d+)\s*([KMG])(I?)B", text.upper())
    if match:
        number, prefix, is_binary = match.groups()
        size = int(float(number) * (1024 if is_binary else 1000) ** (1 + "KMG".index(prefix)))
        if size:
            return size
    raise UsageError(f"--max-shard-size {text}: write a size such as 5GB or 500MB")
