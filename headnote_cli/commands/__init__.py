"""One module a command: config and plain values in, a value to show out."""
