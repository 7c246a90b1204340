"""The command line: options, help, and what to show."""
