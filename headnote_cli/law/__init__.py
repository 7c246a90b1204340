"""Swiss legal texts: acts, citations, considerations, languages."""

from enum import StrEnum


class Language(StrEnum):
    """In which the court writes headnotes."""

    GERMAN = "de"
    FRENCH = "fr"
    ITALIAN = "it"
