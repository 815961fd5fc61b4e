"""The page of the report in a real browser: it works, requests nothing, and fits a phone."""

import json

import pytest

from benchmarks import report
from tests.benchmarks import browser as web
from tests.benchmarks.reporting import test_sections as made

pytestmark = pytest.mark.skipif(
    not (web.CHROMIUM and web.CHROMEDRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    cells = [made.cell(model, size) for model in ("nin", "vgg19") for size in ("64", "1024", "256")]
    cells += [made.cell(seconds=0.001, device="cuda:0"), made.failed(resolution="2048", model="vgg19")]
    (folder / "record.json").write_text(json.dumps(made.record(cells)))
    assert report.main([str(folder / "record.json"), f"--output={folder}"]) == 0
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser():
    with web.browser() as opened:
        yield opened


SHOWN = "return [...document.querySelectorAll('#cells tbody tr')].filter((row) => !row.hidden).map((row) => row.cells[{}].textContent)"
CHOOSE = "const box = document.querySelector('[name={}]'); box.value = {!r}; box.dispatchEvent(new Event('input', {{bubbles: true}}))"


def test_the_page_logs_no_errors_and_requests_only_itself(browser, page):
    browser.show(page, 1280)
    assert browser.log_messages() == []
    requested = browser.requests()
    assert page.as_uri() in requested
    assert {url.partition(":")[0] for url in requested} <= {"file", "data"}


def test_filtering_narrows_the_tables_and_dims_the_plots(browser, page):
    browser.show(page, 1280)
    browser.run(CHOOSE.format("model", "nin"))
    assert set(browser.run(SHOWN.format(2))) == {"nin"}
    dimmed = browser.run("return [...document.querySelectorAll('svg .dimmed')].map((mark) => mark.dataset.model)")
    assert set(dimmed) == {"vgg19"}
    browser.run(CHOOSE.format("status", "out_of_memory"))
    assert browser.run(SHOWN.format(2)) == []
    browser.run("document.querySelector('form').reset(); return new Promise((done) => setTimeout(done, 50))")
    assert len(browser.run(SHOWN.format(2))) == 8


def test_a_click_on_a_heading_sorts_by_numbers_and_a_second_one_the_other_way(browser, page):
    browser.show(page, 1280)
    click = "[...document.querySelectorAll('#cells th button')].find((one) => one.textContent.startsWith('resolution')).click()"
    browser.run(click)
    sizes = [int(size) for size in browser.run(SHOWN.format(4))]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 2048
    browser.run(click)
    assert [int(size) for size in browser.run(SHOWN.format(4))] == sorted(sizes, reverse=True)


def test_the_page_fits_a_phone_with_drawings_of_its_own(browser, page):
    browser.show(page, 390)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    assert browser.run("return document.querySelector('#throughput .narrow svg').getBoundingClientRect().width") > 300
    assert browser.run("return document.querySelector('#throughput .wide svg').getBoundingClientRect().width") == 0


def test_plots_are_light_in_dark_mode(browser, page):
    ink = "return getComputedStyle(document.querySelector('#throughput .wide text')).fill"
    browser.show(page, 1280, "light")
    light = browser.run(ink)
    browser.show(page, 1280, "dark")
    brightness = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (light, browser.run(ink))]
    assert brightness[0] < 3 * 60 < 3 * 200 < brightness[1]


def test_all_tables_are_opened_for_print(browser, page):
    browser.show(page, 1280)
    browser.command("Page.printToPDF")
    assert browser.run("return [...document.querySelectorAll('details')].every((one) => one.open)")
