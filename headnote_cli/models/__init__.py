"""Models: which base, its weights on disk, loading and quantization, adapters, the model card."""

from headnote_cli.machine.libraries import quieten

quieten()
