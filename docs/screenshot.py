"""docs/images/demo.png: the top of the page that `limbeck demo` writes.

limbeck demo --out runs/demo && python docs/screenshot.py runs/demo/report.html /usr/bin/chromium
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

page, chromium = Path(sys.argv[1]).resolve(), sys.argv[2]
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    tab = browser.new_page(viewport={"width": 1100, "height": 1190}, device_scale_factor=1.5)
    tab.goto(page.as_uri())
    tab.screenshot(path=Path(__file__).parent / "images" / "demo.png")
