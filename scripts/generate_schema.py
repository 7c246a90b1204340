"""Write configs/schema.json, which editors read to complete and check the keys of a config.

`--check` exits with 1 when the file in the tree is not what the package gives.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from headnote_cli.config.schema import json_schema

TARGET = Path(__file__).resolve().parents[1] / "configs" / "schema.json"


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
