"""The report in Debian's Chromium: offline, at three widths, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import example_run
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fullbore.record.run import RunFolder
from fullbore.ui.report import PANELS, write

pytestmark = pytest.mark.real

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || element.closest("svg, script")) continue;
    const [one, two] = [light(numbers(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    if ((one + 0.05) / (two + 0.05) < 4.5) poor.push(element.outerHTML.slice(0, 120));
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing; get it with: apt-get update && apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, width: int, scheme: str) -> tuple[Page, list[str]]:
    """The page in an offline context, and what it complained of or asked the network for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    page, trouble = context.new_page(), []
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("request", lambda request: trouble.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    return page, trouble


@pytest.mark.parametrize("width", [390, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_panel_is_there_and_fits(browser: Browser, width: int, scheme: str) -> None:
    path = write(example_run.done())
    page, trouble = opened(browser, path, width, scheme)
    for name in ("verdict", *(name for name, *_ in PANELS)):
        box = page.locator(f"#{name}").bounding_box()
        assert box is not None and box["width"] > 300 and box["height"] > 30, name
        assert page.locator(f"#{name}").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_CONTRAST) == []
    assert trouble == []
    page.context.close()


@pytest.mark.parametrize("make", example_run.EVERY, ids=lambda make: make.__name__)
def test_whatever_ended_the_run_it_opens_quietly(browser: Browser, make: Callable[[], RunFolder]) -> None:
    page, trouble = opened(browser, write(make()), 390, "dark")
    assert page.locator(".verdict").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert trouble == []
    page.context.close()


def test_light_and_dark_grounds_differ(browser: Browser) -> None:
    path, grounds = write(example_run.packed()), set()
    for scheme in ("light", "dark"):
        page, _ = opened(browser, path, 800, scheme)
        grounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        page.context.close()
    assert grounds == {"rgb(255, 255, 255)", "rgb(20, 23, 26)"}


def test_shares_on_the_page_sum_to_one_hundred(browser: Browser) -> None:
    page, _ = opened(browser, write(example_run.done()), 800, "light")
    shares = [float(text.removesuffix(" %")) for text in page.locator(".ledger .share").all_inner_texts()]
    assert len(shares) > 5 and abs(sum(shares) - 100) <= 0.5
    widths = page.locator(".whole i").evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().width)")
    whole = page.locator(".whole").bounding_box()
    assert whole is not None and abs(sum(widths) - whole["width"]) < 1
    page.context.close()


def test_pointing_at_a_line_reads_it_out(browser: Browser) -> None:
    page, trouble = opened(browser, write(example_run.done()), 1400, "light")
    plot = page.locator("#learning .plot").first
    plot.hover()
    said = page.locator("#learning output.read").inner_text()
    match = re.fullmatch(r"step (\d+): training ([\d.]+) · validation ([\d.]+)", said)
    assert match is not None, said
    step, training = int(match[1]), float(match[2])
    assert 200 <= step <= 240 and abs(training - example_run.loss(step)) < 0.4
    page.mouse.move(1, 1)
    assert page.locator("output.read").count() == 0 and trouble == []
    page.context.close()


def test_it_prints(browser: Browser, tmp_path: Path) -> None:
    page, _ = opened(browser, write(example_run.done()), 1400, "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2
    page.context.close()
