"""`slds merge`: merges adapters into their base, streamed and verified."""

from headnote_cli.machine.libraries import quieten

quieten()
