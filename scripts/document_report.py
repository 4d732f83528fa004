"""Writes docs/report.schema.json, the JSON Schema of a report, from its classes.

Usage: python scripts/document_report.py
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfcompress.report._json import schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "report.schema.json"


def main() -> None:
    PAGE.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
