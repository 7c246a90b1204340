"""Which of the court's languages a text is in."""

from __future__ import annotations

from functools import cache
from typing import Any

from headnote_cli.law import Language

LANGUAGES = tuple(language.value for language in Language)
CONSIDERED = (*LANGUAGES, "en")


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(CONSIDERED))
    return identifier


def detect_language(text: str) -> str | None:
    """`de`, `fr`, `it` or `en`; None for a text that is too short."""
    if len(text.split()) < 3:
        return None
    language, _ = _identifier().classify(text)
    return str(language)
