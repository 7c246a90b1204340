"""Rows: where they come from, their prompts, their token ids, and where a long decision is cut."""

from headnote_cli.machine.libraries import quieten

quieten()
