"""Faces of the commands: options, help, and what to show."""
