"""The wing that imports torch, transformers, trl, peft and datasets. Nothing outside imports it at the top."""

from headnote_cli.libraries import quieten

quieten()
