"""`slds train` and `slds preview-prompts`: TRL's trainer on rows encoded beforehand."""

from headnote_cli.machine.libraries import quieten

quieten()
