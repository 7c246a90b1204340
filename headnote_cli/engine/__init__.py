"""The wing that imports torch, transformers, trl, peft and datasets. Nothing outside imports it at the top.

Torch takes as many threads as this process may use cores, or as `OMP_NUM_THREADS` says, so none are set here.
"""

from headnote_cli.libraries import quieten

quieten()
