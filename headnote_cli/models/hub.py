"""Uploads to the hub, only on request."""

from __future__ import annotations

from pathlib import Path

from headnote_cli.models.base import reaching


def push(folder: Path, name: str) -> str:
    """Upload a folder as the private model `name`; returns its address.

    Raises:
        UnreachableError: The hub rejects it: no login, no network, or no permission for that name.
    """
    from huggingface_hub import create_repo, upload_folder

    with reaching("hub", name):
        address = create_repo(name, private=True, exist_ok=True)
        upload_folder(repo_id=name, folder_path=str(folder), commit_message="Written by slds")
    return str(address)
