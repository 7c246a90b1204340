"""Models: which base, its weights on the disk, loading and quantization, adapters, the model card."""

from headnote_cli.machine.libraries import quieten

quieten()
