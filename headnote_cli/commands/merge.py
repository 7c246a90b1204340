"""`slds merge`: a checkpoint's adapter and its base → one self-contained model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config import Config
from headnote_cli.errors import UnreachableError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.runs import (
    MANIFEST,
    MERGED_SUFFIX,
    PROMPTS,
    copy_prompts,
    find_checkpoint,
    is_adapter,
    noted_base,
    now,
    record_of,
    set_aside,
    write_json,
)

# Three lines of the court's kind of text, in its three languages, on which logits are compared.
PROBES = (
    "Art. 41 Abs. 1 OR; Haftung aus unerlaubter Handlung. Voraussetzungen der Widerrechtlichkeit (E. 2.1).",
    "Art. 8 CC; fardeau de la preuve. Portée de la maxime des débats devant l'autorité cantonale (consid. 3).",
    "Art. 29 cpv. 2 Cost.; diritto di essere sentito. Obbligo di motivazione della decisione impugnata (consid. 4a).",
)


@dataclass(frozen=True)
class MergeReport:
    """What was merged into where."""

    base: str
    adapter: Path
    output: Path
    copied: int
    merged: int
    bytes: int
    dtype: str
    verified: bool | None  # None: not asked for
    max_abs_diff: float | None
    relative_l2: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "adapter": str(self.adapter),
            "output": str(self.output),
            "tensors": {"copied": self.copied, "merged": self.merged},
            "bytes": self.bytes,
            "dtype": self.dtype,
            "verified": self.verified,
            "max_abs_diff": self.max_abs_diff,
            "relative_l2": self.relative_l2,
        }


def merge(
    config: Config,
    emit: Listener,
    checkpoint: str | None = None,
    output: Path | None = None,
    dtype: str | None = None,
    verify: bool = True,
    force: bool = False,
) -> MergeReport:
    """Merge a checkpoint.

    Args:
        checkpoint: A path, or a name looked up as `runs.find_checkpoint` says; default `peft_peft_model_path`.
        output: Default `peft_output_model_path` if that belongs to the checkpoint, else its path with `-merged`.

    Raises:
        UnreachableError: No such checkpoint, or it holds no adapter.
        UsageError: The output exists already.
    """
    settings = config.settings
    named = checkpoint or settings.peft_peft_model_path
    if named is None:
        raise UsageError("name a checkpoint with --checkpoint", hint="for example --checkpoint latest")
    adapter = find_checkpoint(named, config)
    _require_adapter(adapter)
    target = output or _default_output(config, adapter, checkpoint)
    _require_free(target, adapter, force)
    record = record_of(adapter) or {}
    prompts = _prompts(config, adapter)

    from headnote_cli.engine.base import BaseModel
    from headnote_cli.engine.merging import merge as merge_models

    base = BaseModel(_base_name(config, adapter, record), record.get("model_class") or settings.model_class)

    def finish(folder: Path) -> None:
        """Complete the folder, then give it its name."""
        if prompts is not None:
            copy_prompts(prompts, folder / PROMPTS)
        write_json(folder / MANIFEST, _manifest(config, record, adapter, base.name))
        if target.exists():
            emit(Note(f"the earlier output now lies in {set_aside(target)}"))
        folder.rename(target)

    result = merge_models(base, adapter, target, dtype, list(PROBES) if verify else [], finish, emit)
    check = result.verification
    return MergeReport(
        base.name,
        adapter,
        target,
        result.copied,
        result.merged,
        result.bytes,
        result.dtype,
        check.passed if check else None,
        check.max_abs_diff if check else None,
        check.relative_l2 if check else None,
    )


def _require_adapter(folder: Path) -> None:
    if is_adapter(folder):
        return
    if (folder / "config.json").is_file():
        raise UsageError("the checkpoint is a whole model (full fine-tuning): there is nothing to merge", str(folder))
    held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise UnreachableError("the folder holds no adapter (no adapter_config.json)", str(folder), f"it holds: {held}")


def _default_output(config: Config, adapter: Path, checkpoint: str | None) -> Path:
    named = config.settings.peft_output_model_path
    if named and (checkpoint is None or Path(named).name.startswith(adapter.name)):
        return Path(named).expanduser()
    return adapter.with_name(adapter.name + MERGED_SUFFIX)


def _require_free(target: Path, adapter: Path, force: bool) -> None:
    if target.resolve() == adapter.resolve() or adapter.resolve() in target.resolve().parents:
        raise UsageError("the output lies inside the checkpoint", str(target), "choose another --output")
    if target.resolve() in adapter.resolve().parents:
        raise UsageError("the output is a folder that the checkpoint lies in", str(target), "choose another --output")
    if target.exists() and not force:
        raise UsageError("the output exists already", str(target), "choose another --output, or --force to replace it")


def _base_name(config: Config, adapter: Path, record: dict[str, Any]) -> str:
    """The base of an adapter: its run's record first, then the config's key, then PEFT's own note."""
    settings = config.settings
    name = (
        record.get("base_model") or settings.peft_base_model_path or noted_base(adapter) or settings.model_name_or_path
    )
    if not name:
        raise UsageError("which base model?", str(adapter), "set `peft_base_model_path`")
    local = config.locate(str(name))
    return str(local) if local else str(name)


def _prompts(config: Config, adapter: Path) -> Path | None:
    """The templates of the adapter's run, else the config's."""
    kept = adapter.parent / PROMPTS
    if kept.is_dir():
        return kept
    return config.path_of("prompts_path") if config.settings.prompts_path else None


def _manifest(config: Config, record: dict[str, Any], adapter: Path, base: str) -> dict[str, Any]:
    """What the model was made of, and how it wants to be prompted."""
    keys = ("model_class", "max_length", "overflow", "overflow_field")
    described = {key: record.get(key, getattr(config.settings, key)) for key in keys}
    return described | {"base_model": base, "adapter": str(adapter), "data": record.get("data"), "merged": now()}
