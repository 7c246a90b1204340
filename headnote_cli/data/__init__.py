"""Rows: their sources, prompts and token ids, and how long decisions are shortened."""

from headnote_cli.machine.libraries import quieten

quieten()
