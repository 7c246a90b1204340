"""Write configs/schema.json, which editors read to complete and check the keys of a config.

`--check` exits with 1 when the file in the tree is not what the keys give.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from headnote_cli.config.keys import RULES, Settings
from headnote_cli.config.renamed import GONE, RENAMED

TARGET = Path(__file__).resolve().parents[1] / "configs" / "schema.json"


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors: types, choices, ranges, and old names as deprecated."""
    schema = Settings.model_json_schema()
    schema["title"] = "slds configuration"
    schema.pop("description", None)
    properties = schema["properties"]
    for key, rule in RULES.items():
        if rule.range:
            properties[key] |= {"minimum": rule.range[0], "maximum": rule.range[1]}
        if rule.form:
            pattern, words = rule.form
            properties[key] |= {"pattern": f"^({pattern.removeprefix('(?s)')})$", "description": words}
    properties["lora_target_modules"]["minItems"] = 1
    for old, new in RENAMED.items():
        properties[old] = properties[new] | {"deprecated": True, "description": f"now `{new}`"}
    del properties["warmup_ratio"]["maximum"]
    properties["warmup_ratio"]["exclusiveMaximum"] = 1
    for old, (_, reason) in GONE.items():
        properties[old] = {"deprecated": True, "description": reason}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if parser.parse_args().check:
        return int(TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
