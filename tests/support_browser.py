"""A real headless Chromium for tests: pages from disk or loopback, screenshots, console, accessibility by axe."""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.base import AXE_SCRIPT
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs the Debian packages chromium and chromium-driver",
)

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)


@contextmanager
def browser(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Chrome]:
    """Chromium with a profile of its own; every message of the console is kept, and so is every request."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in _FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(shutil.which("chromedriver"), log_output=os.devnull)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = Chrome(options=options, service=service)
        try:
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            yield driver
        finally:
            driver.quit()


def complaints(driver: Chrome) -> list[str]:
    """What the console says since it was last asked: errors and warnings; nothing, on a good page."""
    entries = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]


def requests(driver: Chrome) -> list[str]:
    """URLs that were asked for since this was last called, also those that failed; those without a network are none."""
    entries = driver.get_log("performance")  # type: ignore[no-untyped-call]
    events = [json.loads(e["message"])["message"] for e in entries]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:", "chrome:", "chrome-untrusted:"))]


def violations(driver: Chrome) -> list[str]:
    """What axe finds against WCAG 2.1 A and AA (names, contrast, structure), with the first element of each."""
    driver.execute_script(AXE_SCRIPT)
    rules = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}"
    script = f"const done = arguments[0]; axe.run(document, {rules}).then(done, e => done({{violations: [String(e)]}}))"
    found: dict[str, Any] = driver.execute_async_script(script)
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in found["violations"]]


def screenshot(driver: Chrome, file: Path) -> Path:
    """The whole page as PNG."""
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    file.write_bytes(base64.b64decode(shot["data"]))
    return file
