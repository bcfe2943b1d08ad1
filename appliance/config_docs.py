"""Writes docs/configuration.md (`python -m appliance.config_docs`), or with `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from appliance.config_text import render_markdown
from appliance.settings import Settings

TARGET: Final = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"


def main(arguments: list[str]) -> int:
    """Write the file; with `--check` only compare (1 = it differs)."""
    text = render_markdown(Settings)
    if "--check" not in arguments:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET.name} is not what the settings say now: run `make docs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
