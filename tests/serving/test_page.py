"""The page of the service in headless Chromium: whoever clicks events together sees new lists."""

import json
import shutil
import urllib.request

import pytest

from experiments.browser import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
WAIT_MS = 60_000  # for what a click leads to, beside other work
# {domain: item ids}, as they stand on the page
LISTS = """Object.fromEntries([...document.querySelectorAll('#lists section')].map(part => [
  part.querySelector('h3').textContent,
  [...part.querySelectorAll('li')].map(line => line.firstChild.textContent)]))"""
FOUND = "[...document.querySelectorAll('#found li')].map(line => line.firstChild.textContent)"
HARMLESS = ("Network.", "Page.", "Target.", "Runtime.executionContext")


class Page:
    """The page of a service in a browser, used with mouse and keyboard."""

    def __init__(self, browser: Browser, address: str):
        self.browser = browser
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.call(f"{domain}.enable")
        browser.call("Page.navigate", url=address)
        browser.wait_for("Page.loadEventFired")

    def wait_for(self, expression: str, value: object) -> None:
        """Wait until a JavaScript expression has a value."""
        self.browser.value(f"""new Promise((done, fail) => {{
          const end = Date.now() + {WAIT_MS}, wanted = JSON.stringify({json.dumps(value)});
          const look = () => {{
            const now = JSON.stringify({expression});
            if (now === wanted) done();
            else if (Date.now() > end) fail(new Error(now + ' is not ' + wanted));
            else setTimeout(look, 20);
          }};
          look();
        }})""")

    def click(self, selector: str) -> None:
        """Click on the first element of a CSS selector."""
        x, y = self.browser.value(f"""(element => {{
          element.scrollIntoView({{block: 'center'}});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})(document.querySelector({json.dumps(selector)}))""")
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def search(self, domain: str, text: str) -> None:
        """Choose a domain and type a text to search."""
        self.browser.value(f"""(select => {{
          select.value = {json.dumps(domain)};
          select.dispatchEvent(new Event('change'));
        }})(document.getElementById('domain'))""")
        self.click("#text")
        self.browser.call("Input.insertText", text=text)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome is installed")
def test_the_lists_of_all_domains_follow_the_clicks(start, tmp_path):
    service = start()
    with urllib.request.urlopen(f"{service.address}/health") as response:
        begin = json.load(response)["counted_until"]

    def expected(*events: tuple[str, str], exclude_seen: bool = True) -> dict[str, list[str]]:
        """The lists after these events (domain, item_id)."""
        timed = [
            {"item_id": item_id, "domain": domain, "time": begin + 60 * place}
            for place, (domain, item_id) in enumerate(events)
        ]
        body = {"events": timed, "exclude_seen": exclude_seen}
        _, answer = service.posted(json.dumps(body).encode())
        return {
            listed["domain"]: [item["item_id"] for item in listed["items"]]
            for listed in answer["lists"]
        }

    browser = Browser(CHROMIUM, str(tmp_path))
    try:
        page = Page(browser, service.address)
        nobody = expected()
        page.wait_for(LISTS, nobody)

        first = ("B", "B-0003")
        page.search(*first)
        page.wait_for(FOUND, ["B-0003"])
        page.click("#found button")
        after_one = expected(first)
        page.wait_for(LISTS, after_one)
        assert all(after_one[domain] != nobody[domain] for domain in nobody)

        second = ("A", after_one["A"][0])
        page.click("#lists section:first-child button")
        page.wait_for(LISTS, expected(first, second))
        page.wait_for("document.getElementById('state').textContent", "2 events are known")

        page.click("#seen")
        with_seen = expected(first, second, exclude_seen=False)
        page.wait_for(LISTS, with_seen)
        assert second[1] in with_seen["A"]
        page.click("#seen")

        page.click("#events li:first-child button")
        page.wait_for(LISTS, expected(second))
        page.click("#clear")
        page.wait_for(LISTS, nobody)

        requests = [
            event["params"]["request"]["url"]
            for event in browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        assert requests and all(url.startswith(service.address) for url in requests)
        assert [e for e in browser.events if not e["method"].startswith(HARMLESS)] == []
    finally:
        browser.close()
