"""`slds merge --check`: checks a merged folder later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.errors import DataError, SldsError, UnreachableError
from headnote_cli.models.weights import read_weights
from headnote_cli.runs.files import altered, read_json
from headnote_cli.runs.folders import MERGED


@dataclass(frozen=True)
class CheckReport:
    """The result of checking a merged folder."""

    folder: Path
    files: int
    faults: list[str]

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "files": self.files, "faults": self.faults, "sound": not self.faults}


def check_merged(folder: Path) -> CheckReport:
    """Compare every file of a merged folder with the hash in its `merge.json`, and read each weight file's header.

    Raises:
        UnreachableError: The folder is not a merged model of slds.
    """
    manifest = read_json(folder / MERGED)
    if manifest is None:
        raise UnreachableError(f"the folder is not a merged model of slds (no {MERGED})", str(folder))
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise DataError("names no files", str(folder / MERGED))
    faults = [fault for name, noted in files.items() if (fault := altered(folder, name, noted))]
    try:
        read_weights(folder)
    except SldsError as error:
        faults.append(str(error))
    return CheckReport(folder, len(files), faults)
