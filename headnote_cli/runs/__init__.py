"""Run folders: their record, their checkpoints, their metrics, and files that nobody meets half of."""
