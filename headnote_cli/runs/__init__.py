"""Run folders: their record, their checkpoints, their metrics, and files that are whole or not there."""
