"""Every page in a real browser: nothing is fetched, nothing complains, everyone can read them."""

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = pytest.mark.browser

CONTRAST = (Path(__file__).parent / "page_checks.js").read_text()
PAGES = ("run", "comparison", "quality", "suggestion", "adaptation")
LOOKS = [
    (page, scheme, width) for page in PAGES for scheme in ("light", "dark") for width in (1400, 360)
]


@pytest.mark.parametrize(("page", "scheme", "width"), LOOKS)
def test_a_page_opens_from_the_disk_without_a_request_or_a_message(
    browser, pages, page, scheme, width
):
    browser.requests()
    browser.open(pages[page], width, scheme)
    browser.screenshot(f"{page}-{scheme}-{width}", width)
    assert browser.messages() == []
    requests = browser.requests()
    assert pages[page].as_uri() in requests
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert [url for url in requests if url.startswith("file:")] == [pages[page].as_uri()]


@pytest.mark.parametrize(("page", "scheme", "width"), LOOKS)
def test_no_width_makes_the_page_scroll_sideways(browser, pages, page, scheme, width):
    browser.open(pages[page], width, scheme)
    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_a_table_wider_than_the_screen_scrolls_by_itself(browser, pages):
    browser.open(pages["run"], 360)
    # as wide as that of a data set with many classes
    browser.run(
        "for (const row of document.querySelectorAll('.heat tr')) "
        "for (let copy = 0; copy < 20; copy += 1) "
        "row.children[1].before(row.children[1].cloneNode(true))"
    )
    scroll = browser.driver.find_element(By.CSS_SELECTOR, ".scroll:has(.heat)")
    assert browser.run("return arguments[0].scrollWidth > arguments[0].clientWidth", scroll)
    assert browser.run("return document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_every_text_stands_out_from_what_is_behind_it(browser, pages, page, scheme):
    browser.open(pages[page], scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    checked, failures = browser.run(CONTRAST)
    assert checked > 50
    assert failures == []


@pytest.mark.parametrize("page", PAGES)
def test_every_control_and_every_picture_has_a_name(browser, pages, page):
    browser.open(pages[page])
    controls = "a[href], button, select, input, summary, [tabindex='0'], img, [role=img], table"
    elements = browser.driver.find_elements(By.CSS_SELECTOR, controls)
    named = [one for one in elements if one.is_displayed()]
    assert len(named) > 10
    nameless = [one.get_attribute("outerHTML")[:120] for one in named if not one.accessible_name]
    assert nameless == []


@pytest.mark.parametrize("page", PAGES)
def test_the_tab_key_reaches_every_control_and_shows_where_it_is(browser, pages, page):
    browser.open(pages[page])
    controls = browser.run(
        "return [...document.querySelectorAll('a[href], button, select, input, summary')]"
        ".filter((one) => one.checkVisibility() && !one.disabled).length"
    )
    body = browser.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to the content"
    seen = set()
    while True:
        active = browser.driver.switch_to.active_element
        if active.id in seen or active.tag_name == "body":
            break
        seen.add(active.id)
        outline = active.value_of_css_property("outline-style")
        assert outline != "none", active.get_attribute("outerHTML")[:120]
        active.send_keys(Keys.TAB)
    assert len(seen) >= controls


@pytest.mark.parametrize("page", PAGES)
def test_the_choice_of_colors_overrules_the_system(browser, pages, page):
    browser.open(pages[page], scheme="light")
    theme = Select(browser.driver.find_element(By.ID, "theme"))
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(background)
    theme.select_by_visible_text("dark")
    dark = browser.run(background)
    assert dark != light
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    theme.select_by_visible_text("light")
    assert browser.run(background) == light
    theme.select_by_visible_text("system")
    assert browser.run(background) == dark


def test_the_comparison_leads_to_the_report_of_each_run(browser, pages):
    browser.open(pages["comparison"])
    links = browser.driver.find_elements(By.CSS_SELECTOR, "#scores a")
    assert [link.text for link in links] == ["a", "b", "c"]
    links[1].click()
    assert browser.driver.title == "b \N{EN DASH} fusseg report"


def test_the_command_can_be_copied(browser, pages):
    browser.open(pages["run"])
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    button = browser.driver.find_element(By.CSS_SELECTOR, "button[data-copy=command]")
    button.click()
    status = button.find_element(By.XPATH, "following-sibling::*[@role='status']")
    WebDriverWait(browser.driver, 10).until(lambda _: status.text)
    assert status.text == "Copied"
    copied = browser.driver.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], (error) => arguments[0](String(error)))"
    )
    assert copied == "fusseg run config.toml"
