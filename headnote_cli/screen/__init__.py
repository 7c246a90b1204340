"""Everything that users see: tables, progress, plots and error messages."""
