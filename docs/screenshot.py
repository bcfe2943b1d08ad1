"""`make screenshot`: take docs/images/console.png from a running demo with a real browser.

Needs Chromium (Debian: `apt-get install chromium`). The demo runs on free ports in a temporary directory and ends by
itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
HEADRACE = Path(sys.executable).with_name("headrace")
CHROMIUM_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
DEVICES = 50
PATIENCE_S = 60.0


def main() -> int:
    """Run the demo, wait until every machine is connected and a window is exported, take the pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.stderr.write("error: chromium is not installed\nmend:  on Debian: apt-get install chromium\n")
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory) / "demo"
        settings = [option for name in ("mqtt", "tcp", "http") for option in ("--set", f"{name}.port=auto")]
        command = [str(HEADRACE), "demo", "--data-dir", str(data_dir), "--for", "50s", *settings]
        demo = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            url = _wait_for_console(data_dir)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
                page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
                _take(page, url, IMAGES / "console.png")
                browser.close()
        finally:
            demo.terminate()
            demo.wait(PATIENCE_S)
    return 0


def _wait_for_console(data_dir: Path) -> str:
    """The console's address, once all machines are connected and the sink has exported something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            port = json.loads((data_dir / "run" / "ports.json").read_text())["http"]
            url = f"http://127.0.0.1:{port}"
            with urllib.request.urlopen(f"{url}/api/v1/devices?limit=1", timeout=5) as answer:
                total = json.loads(answer.read())["total"]
            with urllib.request.urlopen(f"{url}/api/v1/exports?limit=1", timeout=5) as answer:
                exports = json.loads(answer.read())["exports"]
            if total >= DEVICES and exports:
                return url
        except (OSError, KeyError, ValueError):
            pass  # not up yet
        time.sleep(0.5)
    raise TimeoutError("the demo's console did not fill in time")


def _take(page: Page, url: str, path: Path) -> None:
    page.goto(url)
    page.wait_for_timeout(6_000)  # the page refreshes each second: a rate needs a few of them
    page.screenshot(path=str(path))


if __name__ == "__main__":
    sys.exit(main())
