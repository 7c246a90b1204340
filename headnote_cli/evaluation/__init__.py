"""`slds evaluate`: scores with confidence intervals."""

from headnote_cli.machine.libraries import quieten

quieten()
