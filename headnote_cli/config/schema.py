"""The JSON schema of a config file, for editors."""

from __future__ import annotations

from typing import Any

from headnote_cli.config.keys import FORMS, RANGES, Settings
from headnote_cli.config.renamed import GONE, RENAMED


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors: types, choices, ranges, and old names as deprecated."""
    schema = Settings.model_json_schema()
    schema["title"] = "slds configuration"
    schema.pop("description", None)
    properties = schema["properties"]
    for key, (low, high) in RANGES.items():
        properties[key] |= {"minimum": low, "maximum": high}
    for key, (pattern, words) in FORMS.items():
        properties[key] |= {"pattern": f"^({pattern.removeprefix('(?s)')})$", "description": words}
    properties["lora_target_modules"]["minItems"] = 1
    for old, new in RENAMED.items():
        properties[old] = properties[new] | {"deprecated": True, "description": f"now `{new}`"}
    del properties["warmup_ratio"]["maximum"]
    properties["warmup_ratio"]["exclusiveMaximum"] = 1
    for old, (_, reason) in GONE.items():
        properties[old] = {"deprecated": True, "description": reason}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
