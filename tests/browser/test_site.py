"""The documentation's site in a real browser: whole without a network, on a phone as on a desk."""

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PAGES = ("index", "method", "configuration", "reference/command-line", "reference/python")
LOOKS = [
    (page, scheme, width) for page in PAGES for scheme in ("light", "dark") for width in (1400, 360)
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Address(str):
    """An address of the site, opened as a file is."""

    __slots__ = ()

    def as_uri(self):
        return str(self)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", out]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return out


@pytest.fixture(scope="module")
def site(folder):
    """Address of the site, served on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("page", "scheme", "width"), LOOKS)
def test_a_page_asks_nobody_else_and_has_nothing_to_complain(browser, site, page, scheme, width):
    browser.messages(), browser.requests()
    browser.open(Address(f"{site}/{page}.html"), width, scheme)
    browser.screenshot(f"site-{page.replace('/', '-')}-{scheme}-{width}", width)
    assert browser.messages() == []
    requests = browser.requests()
    assert f"{site}/assets/fusseg.css" in [url.split("?")[0] for url in requests]
    assert [url for url in requests if not url.startswith((f"{site}/", "data:"))] == []


def test_no_page_scrolls_sideways_on_a_phone(browser, folder):
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        browser.open(page, 360)
        assert browser.run("return document.documentElement.scrollWidth") <= 360, page.name


@pytest.mark.parametrize(("scheme", "name"), [("light", "default"), ("dark", "slate")])
def test_colors_follow_the_system(browser, site, scheme, name):
    browser.open(Address(f"{site}/index.html"), scheme=scheme)
    assert browser.run("return document.body.dataset.mdColorScheme") == name


def test_the_search_finds_commands_keys_and_public_names(browser, site):
    for words, page, part in [
        ("annotate", "reference/command-line.html", "#fusseg-annotate"),
        ("separation_weight", "configuration.html", "#localstego"),
        ("from_pretrained", "reference/python.html", "#fusseg.from_pretrained"),
    ]:
        browser.open(Address(f"{site}/index.html"))
        field = browser.driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
        field.click()
        field.send_keys(words)
        WebDriverWait(browser.driver, 20).until(
            lambda driver, page=page, part=part: any(
                link.get_attribute("href").startswith(f"{site}/{page}")
                and link.get_attribute("href").endswith(part)
                for link in driver.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
            )
        )


def test_formulas_have_a_size(browser, site):
    browser.open(Address(f"{site}/method.html"))
    sizes = browser.run(
        "return [...document.querySelectorAll('.formula math')].map((one) => "
        "[one.getBoundingClientRect().width, one.getBoundingClientRect().height])"
    )
    assert len(sizes) > 8
    assert all(width > 60 and height > 15 for width, height in sizes)
