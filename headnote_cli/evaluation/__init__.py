"""`slds evaluate`: scores with their intervals."""

from headnote_cli.machine.libraries import quieten

quieten()
