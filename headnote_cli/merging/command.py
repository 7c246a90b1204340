"""`slds merge`: checkpoints and their base → one self-contained model folder, and a later look at such a folder."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.assets import assets_root
from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.sources import sound
from headnote_cli.errors import ConfigError, DataError, SldsError, UnreachableError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.adapter_base import AdapterBase, base_of_adapter
from headnote_cli.models.quantization import noted_quantization
from headnote_cli.models.weights import (
    fingerprint,
    has_weights,
    known_sha256,
    weight_files,
)
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
    from headnote_cli.merging.plan import MergeJob
    from headnote_cli.merging.stream import Written
    from headnote_cli.merging.verification import Probe, Verification
    from headnote_cli.models.base import BaseModel
from headnote_cli.merging.folder import complete, manifest_of, prompts_of, stop_as_taught

# Three lines of the court's kind of text, for prompts templates that the shipped rows do not fit.
PROBES = (
    "Art. 41 Abs. 1 OR; Haftung aus unerlaubter Handlung. Voraussetzungen der Widerrechtlichkeit (E. 2.1).",
    "Art. 8 CC; fardeau de la preuve. Portée de la maxime des débats devant l'autorité cantonale (consid. 3).",
    "Art. 29 cpv. 2 Cost.; diritto di essere sentito. Obbligo di motivazione della decisione impugnata (consid. 4a).",
)
PROBE_TOKENS = 512
PROBE_ROWS = Path("samples/slds/test.jsonl")
UNVERIFIED = "-unverified"


@dataclass(frozen=True)
class MergeReport:
    """What was merged into where."""

    base: str
    adapters: tuple[Path, ...]
    output: Path
    onto: str
    copied: int
    merged: int
    bytes: int
    dtype: str
    seconds: dict[str, float]
    verification: Verification | None  # None: not asked for

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
    """What the command line says about a merge; None takes the config's or the base's own."""

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
        checkpoints: Paths, or names looked up as `runs.find_checkpoint` says; none: `peft_peft_model_path`.

    Raises:
        UnreachableError: No such checkpoint or base, or no adapter in it.
        UsageError: The output exists already, or lies where it must not.
        DataError: Files are broken, a tensor finds no weight, or the merged model is not base + adapters.
    """
    adapters = _adapters(config, checkpoints)
    target = options.output or _default_output(config, adapters[-1], named=bool(checkpoints))
    for adapter in adapters:
        _require_free(target, adapter, options.force)
    record = record_of(adapters[-1]) or {}
    found = base_of_adapter(config, adapters[0], record)
    with ThreadPoolExecutor(1) as early:
        unknown = (file for file in weight_files(Path(found.name)) if known_sha256(file) is None)
        hashes = {file.name: early.submit(sha256, file) for file in unknown}
        try:
            return _merge(config, emit, target, options, _Sources(tuple(adapters), record, found, hashes))
        except BaseException:
            early.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Sources:
    """What is merged: adapters, the record of the last one's run, and their base.

    Attributes:
        hashes: Of the base's files: taken while the libraries are being imported, which keeps one core busy.
    """

    adapters: tuple[Path, ...]
    record: Mapping[str, Any]
    base: AdapterBase
    hashes: Mapping[str, Future[str]]


def _merge(config: Config, emit: Listener, target: Path, options: MergeOptions, sources: _Sources) -> MergeReport:
    from headnote_cli.merging.plan import MergeJob
    from headnote_cli.models.base import require_fitting_class, stored_quantization_of, weights_folder

    adapters, record, hashes = sources.adapters, sources.record, sources.hashes
    base = _base_model(config, sources.base.name, record)
    require_fitting_class(base, config.where("model_class"))
    stored = stored_quantization_of(base)
    trained = None if stored else noted_quantization(record)
    onto = None if stored else _onto(config, options.onto, trained)
    job = MergeJob(base, adapters, options.dtype, onto, options.shard_bytes)
    base_folder = weights_folder(base)
    if sources.base.is_trained_on:
        _require_same_base(record, base_folder)
    with replacing(target) as folder:
        if stored:
            job, hashes = replace(job, base=_dequantized(base, base_folder, folder, emit)), {}
        written, plan = _write(job, folder, emit, hashes)
        prompts = prompts_of(config, adapters[-1])
        complete(base_folder, adapters[-1], folder, record, prompts)
        stop_as_taught(folder, record, prompts)
        check = None
        if options.verify or plan is None:
            from headnote_cli.merging.verification import verify

            with _kept_unverified(folder, target):
                check = verify(job, plan, folder, written.dtype, probes_for(folder, prompts, record), trained)
            _require_passed(check, target)
        write_json(folder / MERGED, manifest_of(config, record, base.name, job, written, folder, check))
        flush(folder)
    if options.push:
        from headnote_cli.models.hub import push

        emit(Note(f"pushed to {push(target, options.push)}"))
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    seconds = {part: round(spent, 3) for part, spent in written.seconds.items()}
    return MergeReport(
        base.name,
        job.adapters,
        target,
        options.onto,
        written.copied,
        written.merged,
        size,
        written.dtype,
        seconds,
        check,
    )


def _adapters(config: Config, checkpoints: Sequence[str]) -> list[Path]:
    default = config.settings.peft_peft_model_path
    named = list(checkpoints) or ([default] if default else [])
    if not named:
        raise UsageError("name a checkpoint with --checkpoint", hint="for example --checkpoint latest")
    adapters = [find_checkpoint(name, config) for name in named]
    for adapter in adapters:
        _require_adapter(adapter)
    return adapters


def _require_adapter(folder: Path) -> None:
    if is_adapter(folder):
        return
    if (folder / "config.json").is_file():
        raise UsageError("the checkpoint is a whole model (full fine-tuning): there is nothing to merge", str(folder))
    held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise UnreachableError(f"the folder holds no adapter (no {ADAPTER_CONFIG})", str(folder), f"it holds: {held}")


def _default_output(config: Config, adapter: Path, named: bool) -> Path:
    """`peft_output_model_path` if that belongs to the checkpoint, else the checkpoint's path with `-merged`."""
    path = config.settings.peft_output_model_path
    if path and (not named or Path(path).name.startswith(adapter.name)):
        return Path(path).expanduser()
    return adapter.with_name(adapter.name + MERGED_SUFFIX)


def _require_free(target: Path, adapter: Path, force: bool) -> None:
    if target.resolve() == adapter.resolve() or adapter.resolve() in target.resolve().parents:
        raise UsageError("the output lies inside the checkpoint", str(target), "choose another --output")
    if target.resolve() in adapter.resolve().parents:
        raise UsageError("the output is a folder that the checkpoint lies in", str(target), "choose another --output")
    if target.exists() and not force:
        raise UsageError("the output exists already", str(target), "choose another --output, or --force to replace it")


def _base_model(config: Config, name: str, record: Mapping[str, Any]) -> BaseModel:
    """The base with the class of its run, else the config's own, else the one that its architecture says."""
    from headnote_cli.models.base import BaseModel, base_of

    model_class = record.get("model_class") or (config.settings.model_class if config.is_set("model_class") else None)
    return BaseModel(name, model_class) if model_class else base_of(name)


def _dequantized(base: BaseModel, stored: Path, folder: Path, emit: Listener) -> BaseModel:
    """A base in full beside the merged folder that is being written, which takes it along when it is done."""
    from headnote_cli.merging.dequantization import write_dequantized

    emit(Note("the base lies in 4 bits: the adapter is merged into the weights that these stand for"))
    whole = folder.with_name("base")
    shutil.rmtree(whole, ignore_errors=True)
    write_dequantized(stored, whole)
    return replace(base, name=str(whole), revision="main")


def _require_same_base(record: Mapping[str, Any], base: Path) -> None:
    """
    Raises:
        DataError: The weights at hand are not those that the run was trained on.
    """
    noted = record.get("base_fingerprint")
    if noted and has_weights(base) and fingerprint(base) != noted:
        raise DataError(
            "these weights are not those that the checkpoint was trained on: their fingerprint differs",
            str(base),
            "bring back the base of the run, or merge a copy of the checkpoint that lies outside its run",
        )


def _onto(config: Config, onto: str, trained: Quantization | None) -> Quantization | None:
    """`--onto nf4`: as the run did it, else as the config would."""
    if onto == "base":
        return None
    settings = config.settings
    return trained or Quantization(settings.bnb_4bit_quant_type, settings.use_bnb_nested_quant, "bfloat16")


def _write(job: MergeJob, folder: Path, emit: Listener, hashes: Mapping[str, Future[str]]) -> tuple[Written, Any]:
    """The weights: streamed, or merged by PEFT where it alone knows how; then there is no plan."""
    from headnote_cli.merging.plan import plan_merge
    from headnote_cli.merging.stream import require_room, write_config, write_merged
    from headnote_cli.models.adapters import NotOurs

    try:
        plan = plan_merge(job)
    except NotOurs as reason:
        from headnote_cli.merging.with_peft import merge_with_peft

        return merge_with_peft(job, folder, str(reason), emit), None
    require_room(plan.bytes, folder)
    written = write_merged(plan, folder, emit, hashes)
    write_config(plan, folder, job.dtype)
    return written, plan


def probes_for(folder: Path, prompts: Path | None, record: Mapping[str, Any]) -> list[Probe]:
    """Real prompts: the shipped rows in the run's own templates; plain lines where these do not fit."""
    from headnote_cli.merging.verification import Probe, probes_of
    from headnote_cli.models.base import BaseModel, load_tokenizer

    tokenizer = load_tokenizer(BaseModel(str(folder), "AutoModelForCausalLM"))
    limit = min(record.get("max_length") or PROBE_TOKENS, PROBE_TOKENS)
    try:
        if prompts is None:
            raise ConfigError("no prompts")
        encoder = Encoder(tokenizer, PromptTemplates(prompts), limit)
        rows = itertools.islice(stream_rows(assets_root() / PROBE_ROWS), len(PROBES))
        encoded = [one.example() for _, row in rows if (one := encoder.encode(sound(row))) is not None]
        return [Probe(one["input_ids"], one["labels"]) for one in encoded]
    except SldsError:
        return probes_of(PROBES, tokenizer)


@contextmanager
def _kept_unverified(folder: Path, target: Path) -> Iterator[None]:
    """A verification that cannot run says nothing against what was merged: that stays under a name that says so.

    Raises:
        SldsError: It cannot run.
    """
    try:
        yield
    except Exception as error:
        kept = target.with_name(f"{target.name}{UNVERIFIED}")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        raise SldsError(
            f"the merged model could not be verified: {error}; it lies unverified in {kept}",
            str(target),
            "merge again with more memory free, or with --no-verify",
        ) from error


def _require_passed(check: Verification, target: Path) -> None:
    if not check.passed:
        raise DataError(
            f"the merged model is not base + adapter: {check.how} differ by {check.distance.relative_l2:.2g} "
            f"(relative L2; {check.tolerance:g} is what rounding explains)",
            str(target),
            "nothing was written",
        )


def read_size(text: str) -> int:
    """`5GB`, `500MB`, `2GiB` → bytes.

    Raises:
        UsageError: It is none of these.
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    for unit, width in sorted(units.items(), key=lambda pair: -len(pair[0])):
        if text.upper().endswith(unit):
            number = text[: -len(unit)].strip()
            try:
                size = int(float(number) * width)
            except (ValueError, OverflowError):
                break
            if size > 0:
                return size
            break
    raise UsageError(f"--max-shard-size {text}: write a size such as 5GB or 500MB")
