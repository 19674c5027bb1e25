"""Check a report in a browser: no request, no error, no sideways scrolling, all figures described.

    python experiments/check_report.py report/report.html [--shots FOLDER] [--chromium PATH]

Opens the page in headless Chromium, 400 and 1280 CSS pixels wide, over its debugging pipe. At 1280,
no text is smaller than SMALLEST, in figures too, no row of figures leaves a third empty, and up to
FEW domains take at most HIGHEST pixels. Prints the faults and exits with status 1 if there are any.
--shots writes PNGs of the whole page as it opens.
"""

import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.browser import Browser
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command

WIDTHS = (400, 1280)
DESK = 1280
SMALLEST = 11.0  # pixels of text at DESK
HIGHEST, FEW = 4000, 3  # pixels of a page with so many domains at DESK
# With every fold open: elements wider than the window, images without text or content, the smallest
# text in pixels, in figures too (data-text: at the image's natural width), links that lead nowhere,
# and rows of figures that leave more than a quarter empty.
LOOK = """(() => {
  const height = document.documentElement.scrollHeight;
  document.querySelectorAll('details').forEach(e => e.open = true);
  const rows = [...document.querySelectorAll('.figures')].flatMap(grid => {
    const tops = {};
    for (const f of grid.children) (tops[f.getBoundingClientRect().top] ??= []).push(f);
    return Object.values(tops).map(row => ({first: row[0].id, share: row.reduce(
      (sum, f) => sum + f.getBoundingClientRect().width, 0) / grid.clientWidth}));
  });
  const name = e => e.id || e.className || e.tagName;
  const wide = [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *')
    && e.getBoundingClientRect().right > innerWidth + 1).map(name);
  const images = [...document.images];
  const texts = [...document.querySelectorAll('body *')].filter(e => e.innerText?.trim());
  return JSON.stringify({
    width: document.documentElement.scrollWidth, window: innerWidth,
    height, wide, domains: Number(document.querySelector('main').dataset.domains || 0),
    gaps: rows.filter(row => row.share < 0.75).map(row => row.first),
    drawn: Math.min(...images.map(i => i.dataset.text * i.clientWidth / i.naturalWidth)),
    lost: [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href')).filter(
      h => !document.getElementById(h.slice(1))),
    images: images.length,
    mute: images.filter(i => !i.alt.trim()).map(name),
    broken: images.filter(i => !i.complete || !i.naturalWidth).map(i => name(i.parentElement)),
    unread: [...document.querySelectorAll('figure')].filter(
      f => !f.querySelector('figcaption')?.innerText.trim()).map(name),
    smallest: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize))),
  });
})()"""


def faults_at(browser: Browser, page: Path, width: int, shot: Path | None) -> list[str]:
    """The faults of the page at a width; prints a summary."""
    browser.events.clear()
    for domain in ("Page", "Network", "Log", "Runtime"):
        browser.call(f"{domain}.enable")
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    browser.call("Page.navigate", url=page.resolve().as_uri())
    browser.wait_for("Page.loadEventFired")
    if shot:
        size = {"x": 0, "y": 0, "width": width, "height": min(_height(browser), 16000), "scale": 1}
        image = browser.call("Page.captureScreenshot", clip=size, captureBeyondViewport=True)
        shot.write_bytes(base64.b64decode(image["data"]))
    seen = json.loads(browser.value(LOOK))
    faults = [
        f"{fault}: {seen[fault]}"
        for fault in ("wide", "mute", "broken", "unread", "lost")
        if seen[fault]
    ]
    if seen["width"] > width:
        faults.append(f"the page is {seen['width']} wide")
    if not seen["images"]:
        faults.append("the page has no figure")
    if width == DESK:
        faults += _desk_faults(seen)
    faults += [_fault_of(event) for event in browser.events if _fault_of(event)]
    print(
        f"{width}: {seen['images']} figures, {seen['height']} px high, smallest text "
        f"{seen['smallest']} px, in figures {seen['drawn']:.1f} px; {faults or 'ok'}"
    )
    return faults


def _height(browser: Browser) -> int:
    """The height of the page as it is."""
    return browser.value("document.documentElement.scrollHeight")


def _desk_faults(seen: dict[str, Any]) -> list[str]:
    """The faults of the layout on a wide window."""
    faults = [f"a row of figures with a gap: {seen['gaps']}"] if seen["gaps"] else []
    least = min(seen["smallest"], seen["drawn"])
    if least < SMALLEST:
        faults.append(f"text of {least:.1f} px, under {SMALLEST:g}")
    if seen["domains"] <= FEW and seen["height"] > HIGHEST:
        faults.append(f"{seen['height']} px high for {seen['domains']} domains, over {HIGHEST}")
    return faults


def _fault_of(event: dict[str, Any]) -> str:
    """The fault that an event reports; empty for a harmless event."""
    parameters = event.get("params", {})
    match event.get("method"):
        case "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            return "" if url.startswith(("file:", "data:")) else f"request: {url}"
        case "Log.entryAdded":
            return f"log: {parameters['entry']['text']}"
        case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled":
            return f"console: {json.dumps(parameters)[:200]}"
    return ""


def main() -> None:
    """Check the page at every width. Raises UserError."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("--shots", type=Path, help="folder for a PNG of the page at each width")
    parser.add_argument("--chromium", default="chromium", help="program of the browser (chromium)")
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        raise UserError(f"{arguments.page} does not exist; make it with `report.py transfer`")
    if not shutil.which(arguments.chromium):
        raise UserError(
            f"{arguments.chromium} is not installed; give the path of a Chromium as --chromium"
        )
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(arguments.chromium, profile)
        try:
            faults = []
            for width in WIDTHS:
                shot = arguments.shots / f"{width}.png" if arguments.shots else None
                faults += faults_at(browser, arguments.page, width, shot)
        finally:
            browser.close()
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
