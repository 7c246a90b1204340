"""slds: train a chat model to write headnotes of Swiss leading decisions."""

__version__ = "0.1.0"
