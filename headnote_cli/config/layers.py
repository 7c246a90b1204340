"""Read a config from its files and overrides, each value with its origin."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headnote_cli.config.assets import assets_root, locate
from headnote_cli.config.checks import checked
from headnote_cli.config.keys import RULES, SECRETS, Rule, Settings
from headnote_cli.config.problems import Entry, Origin, Problems, brief
from headnote_cli.config.renamed import DONE_OTHERWISE, done_otherwise, translated
from headnote_cli.config.yaml import Loader, read_entries, value_of
from headnote_cli.errors import ConfigError, UsageError

DEFAULT_CONFIG = "configs/ipst/slds/sft_liger_peft.yaml"


@dataclass(frozen=True)
class Config:
    """A checked configuration: typed settings, and the origin of each key that was set."""

    path: Path
    settings: Settings
    origins: Mapping[str, Origin]
    notes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def options(self) -> str:
        """The command-line options that read this config again."""
        shipped = assets_root()  # shipped files are found by name from any folder
        path = self.path.relative_to(shipped) if self.path.is_relative_to(shipped) else self.path
        return shlex.join(["--config", str(path), *(word for text in self.overrides for word in ("--set", text))])

    def is_set(self, key: str) -> bool:
        """Whether a file or `--set` gave this key."""
        return key in self.origins

    def written(self) -> dict[str, object]:
        """The keys that were set, with their values, without secrets."""
        return {key: getattr(self.settings, key) for key in self.origins if key not in SECRETS}

    def to_yaml(self) -> str:
        """All effective values with their origins; defaults are comments, so that the text loads as the same config."""
        lines = [f"# {self.path}"]
        for key in Settings.model_fields:
            if key in SECRETS and self.is_set(key):
                lines.append(f"# {key} is set and not shown  # {self.origins[key]}")
                continue
            value = getattr(self.settings, key)
            line = f"{key}: {as_yaml(self._absolute(value) if RULES.get(key, Rule()).is_located and value else value)}"
            lines.append(f"{line}  # {self.origins[key]}" if self.is_set(key) else f"# {line}  # default")
        return "\n".join(lines) + "\n"

    def _absolute(self, name: str) -> str:
        """A path that stays valid when the config is saved elsewhere."""
        path = self.locate(name)
        return name if path in (None, Path(os.path.expanduser(name))) else str(path.resolve())

    def where(self, key: str) -> str:
        """The place to name in a message about `key`."""
        return str(self.origins.get(key, self.path))

    def locate(self, name: str) -> Path | None:
        """The existing local path that `name` means; see `assets.locate`."""
        return locate(name, self.path.parent)

    def path_of(self, key: str) -> Path:
        """The existing path that `key` names.

        Raises:
            ConfigError: The key is not set, or the path does not exist.
        """
        name = getattr(self.settings, key)
        if name is None:
            raise ConfigError(f"`{key}` is not set", str(self.path), f"add a line `{key}: …`")
        path = self.locate(name)
        if path is None:
            hint = "looked in the working directory, beside the config file and in the shipped files"
            raise ConfigError(f"`{key}`: there is no {name}", self.where(key), hint)
        return path


def as_yaml(value: object) -> str:
    """A value as YAML that `Loader` reads back, on one line and in printable characters."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{as_yaml(key)}: {as_yaml(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    text = json.dumps(value, ensure_ascii=False)
    return "".join(character if character.isprintable() else f"\\U{ord(character):08x}" for character in text)


def default_config_path() -> Path:
    """`$SLDS_CONFIG`, else the workshop's file under the working directory, else the shipped one."""
    return Path(os.environ.get("SLDS_CONFIG") or DEFAULT_CONFIG)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read, layer and check a configuration.

    Args:
        path: The YAML file; without it, see `default_config_path`.
        overrides: `key=value` and `key.sub=value`, the value in YAML.

    Raises:
        ConfigError: A file cannot be read, or keys or values are invalid; the message lists all of them.
    """
    file = _find(path or default_config_path())
    problems = Problems()
    notes: list[str] = []
    entries: dict[str, Entry] = {}
    for layer in _layers(file, problems):
        entries |= translated(layer, problems, notes)
    entries = _with_overrides(entries, overrides, problems, notes)
    entries.pop("extends", None)
    settings = checked(entries, problems)
    problems.raise_if_any()
    for key in done_otherwise(settings):
        notes.append(f"{entries.pop(key).origin}: `{key}` is ignored: {DONE_OTHERWISE[key][1]}")
        settings = settings.model_copy(update={key: Settings.model_fields[key].get_default(call_default_factory=True)})
    return Config(file, settings, {key: entry.origin for key, entry in entries.items()}, tuple(notes), tuple(overrides))


def _find(path: Path) -> Path:
    file = locate(str(path))
    if file is None or not file.is_file():
        shipped = sorted(str(p.relative_to(assets_root())) for p in (assets_root() / "configs").rglob("*.yaml"))
        kind = "is a folder, not a file" if file else "there is no such file"
        raise ConfigError(kind, str(path), f"shipped configs: {', '.join(shipped)}")
    return file


def _layers(file: Path, problems: Problems, inside: tuple[Path, ...] = ()) -> Iterator[dict[str, Entry]]:
    """The entries of each file in the `extends` chain, the base first."""
    chain = (*inside, file.resolve())
    entries = read_entries(file, problems)
    base = entries.get("extends")
    if base is not None and not isinstance(base.value, str):
        problems.add(base.origin, f"`extends: {brief(base.value)}` is not the name of a file")
    elif base is not None:
        target = locate(str(file.parent / base.value)) or locate(base.value)
        if target is None or not target.is_file():
            problems.add(base.origin, f"`extends`: there is no file {base.value}")
        elif target.resolve() in chain:
            problems.add(
                base.origin, f"`extends` goes round in a circle: {' → '.join(p.name for p in chain)} → {target.name}"
            )
        else:
            yield from _layers(target, problems, chain)
    yield entries


def _with_overrides(
    entries: dict[str, Entry], overrides: Sequence[str], problems: Problems, notes: list[str]
) -> dict[str, Entry]:
    for text in overrides:
        name, equals, written = text.partition("=")
        origin = Origin(f"--set {name}")
        if not equals or not name:
            raise UsageError(f"--set {text}: write --set key=value")
        try:
            loader = Loader(written)
            node = loader.get_single_node()
            value = None if node is None else value_of(loader, node, name)
        except Exception as error:  # YAML constructors may raise anything
            reason = getattr(error, "problem", None) or error
            problems.add(origin, f"not valid YAML: {brief(written)}: {brief(str(reason))}")
            continue
        key, *subs = name.split(".")
        if key == "extends":
            problems.add(origin, "`extends` belongs into a file")
            continue
        outer = entries[key].value if key in entries else None
        entries = entries | translated({key: Entry(_nested(outer, subs, value), origin)}, problems, notes)
    return entries


def _nested(outer: object, subs: list[str], value: object) -> object:
    """`outer` with `value` at the path `subs`; just `value` if the path is empty."""
    if not subs:
        return value
    mapping = outer if isinstance(outer, dict) else {}
    return mapping | {subs[0]: _nested(mapping.get(subs[0]), subs[1:], value)}
