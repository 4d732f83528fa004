"""Takes the picture of a report's first screen, docs/report.png, with Chromium.

Usage: python examples/reports/classifier.py      # writes report.html
       python scripts/picture_report.py report.html
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "report.png"
NAMES = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="HTML page of `report.save`")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        raise SystemExit("error: no Chromium found (apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "report.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            "--window-size=1200,900",
            # Charts are drawn by a script after the page has loaded.
            "--virtual-time-budget=10000",
            f"--screenshot={picture}",
            arguments.report.resolve().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        size = picture.stat().st_size
        if size > MOST_BYTES:
            raise SystemExit(
                f"error: the picture has {size:,} bytes, not {MOST_BYTES:,}"
            )
        arguments.out.write_bytes(picture.read_bytes())
    print(f"{arguments.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
