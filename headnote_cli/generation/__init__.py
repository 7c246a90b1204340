"""`slds generate`: prompts to headnotes, by a model or a server."""

from headnote_cli.machine.libraries import quieten

quieten()
