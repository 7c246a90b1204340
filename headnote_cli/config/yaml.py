"""Read a YAML 1.2 file without duplicate keys, each value with its position."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from headnote_cli.config.keys import kinds
from headnote_cli.config.problems import Entry, Origin, Problems
from headnote_cli.config.renamed import RENAMED
from headnote_cli.errors import ConfigError


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (2e-4 is a number, `no` is text); duplicate keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for mark, message in self.repeated_keys(node):
            raise yaml.constructor.ConstructorError(None, None, message, mark)
        return super().construct_mapping(node, deep)

    def repeated_keys(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Mark, str]]:
        """The position of each key repeated in the mapping itself, and a message."""
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                raise yaml.constructor.ConstructorError(None, None, "a key is not text", key_node.start_mark)
            if key_node.value in seen:
                yield key_node.start_mark, f"`{key_node.value}` is given twice, first in line {seen[key_node.value]}"
            seen.setdefault(key_node.value, key_node.start_mark.line + 1)


Loader.yaml_implicit_resolvers = {}
Loader.yaml_constructors = {  # no bytes, dates or sets, which no key takes
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    text = node.value.lower()
    return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)


Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_entries(file: Path, problems: Problems) -> dict[str, Entry]:
    """The top-level keys of one file, with their positions."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as UTF-8 text: {error}", str(file)) from error
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None or isinstance(node, yaml.MappingNode):
            return _entries_of(loader, node, file, problems) if node else {}
    except Exception as error:  # YAML constructors may raise anything
        mark = getattr(error, "problem_mark", None)
        origin = Origin(str(file), mark.line + 1, mark.column + 1) if mark else Origin(str(file))
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', None) or error}", str(origin)) from error
    raise ConfigError("a config is a list of `key: value` lines", f"{file}:{node.start_mark.line + 1}")


def _entries_of(loader: Loader, node: yaml.MappingNode, file: Path, problems: Problems) -> dict[str, Entry]:
    for mark, message in loader.repeated_keys(node):
        problems.add(_place(file, mark), message)
    loader.flatten_mapping(node)
    entries: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        try:
            value = value_of(loader, value_node, key_node.value)
        except yaml.constructor.ConstructorError as error:
            mark = error.problem_mark or value_node.start_mark
            problems.add(_place(file, mark), error.problem or str(error))
        else:
            entries[key_node.value] = Entry(value, _place(file, key_node.start_mark))
    return entries


def value_of(loader: Loader, node: yaml.Node, key: str) -> Any:
    """The value of a key. Keys of text keep the text as written: the commit 7e44914 is not a number."""
    value = loader.construct_object(node, deep=True)
    types = kinds(RENAMED.get(key, key))
    if not types or not types <= {str, list[str], NoneType}:
        return value
    if isinstance(node, yaml.SequenceNode):
        return [_spelling(inner, item) for inner, item in zip(node.value, value, strict=True)]
    return _spelling(node, value)


def _spelling(node: yaml.Node, value: Any) -> Any:
    """A scalar as written; null stays null."""
    return node.value if isinstance(node, yaml.ScalarNode) and value is not None else value


def _place(file: Path, mark: yaml.Mark) -> Origin:
    return Origin(str(file), mark.line + 1, mark.column + 1)
