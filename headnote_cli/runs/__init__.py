"""Run folders: their record, checkpoints and metrics, and files that are never half-written."""
