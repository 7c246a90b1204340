"""`slds train` and `slds preview-prompts`: TRL's trainer on pre-encoded rows."""

from headnote_cli.machine.libraries import quieten

quieten()
