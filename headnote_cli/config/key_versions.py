"""Keys that only some of the supported versions of TRL and transformers have.

`upstream_keys` is generated from the pinned versions. What other supported versions add is typed here by hand, and so
is which versions have a key that comes or goes. A test compares both tables with the installed versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from pydantic import BaseModel, ConfigDict


class AddedKeys(BaseModel):
    """The fields that the pinned versions lack."""

    model_config = ConfigDict(defer_build=True)  # validated as parts of `Settings` alone


@dataclass(frozen=True)
class Versions:
    """The versions of a package that have a key: from `first` on, before `end`."""

    package: str
    first: str = "0.0"
    end: str | None = None


# Empty, since TRL 1.16 has the same keys with transformers 5.23 and 5.24.
VERSIONS: dict[str, Versions] = {}


def version_fault(key: str) -> str | None:
    """Why the installed versions lack a key, None if they have it."""
    versions = VERSIONS.get(key)
    if versions is None:
        return None
    installed = version(versions.package)
    if _minor(installed) < _minor(versions.first):
        return f"`{key}` is known from {versions.package} {versions.first} on; {installed} is installed"
    if versions.end and _minor(installed) >= _minor(versions.end):
        return f"`{key}` was removed in {versions.package} {versions.end}; {installed} is installed"
    return None


def _minor(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)
