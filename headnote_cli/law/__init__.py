"""Swiss legal texts: acts, citations, considerations, languages."""
