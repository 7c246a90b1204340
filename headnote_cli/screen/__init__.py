"""What a person sees: tables, progress, pictures, errors in words."""
