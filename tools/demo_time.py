"""Print the time from typing ``regionspot demo`` to the first name, step by step.

Needs what ``make test-demo`` installs, and the head of ``make quickstart``:

    PYTHONPATH=build/demo .venv/bin/python tools/demo_time.py
"""

import os
import shutil
import subprocess
import sys
import time

from playwright.sync_api import sync_playwright

WAIT_MS = 600_000


def main() -> None:
    """Start the command, open the page, draw a box and read its name."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        # Like a visitor's browser, it is open before the command is typed.
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(WAIT_MS)
        start = time.monotonic()

        def report(step: str) -> None:
            print(f"{time.monotonic() - start:6.1f} s  {step}", flush=True)  # noqa: T201

        command = [sys.executable, "-m", "regionspot", "demo"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
            first_line = next(iter(server.stdout or ()), None)
            if first_line is None:
                raise SystemExit(2)  # the command has said why
            report("the URL is printed")
            page.goto(first_line.split()[0])
            page.locator("#pictures button img").first.click()
            page.get_by_text("its name appears here").wait_for()
            report("the page is open, with an example picture")
            canvas = page.locator("#drawing canvas")
            corners = ({"x": 110, "y": 50}, {"x": 270, "y": 210})
            canvas.drag_to(canvas, source_position=corners[0], target_position=corners[1])
            report("a box is drawn")
            cell = page.locator("#names [role=gridcell][aria-colindex='2']").first
            report(f"its name is read: {cell.inner_text().strip()}")
            server.terminate()
        browser.close()


if __name__ == "__main__":
    main()
