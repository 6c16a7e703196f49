"""Gallery and map of centroids, driven by keyboard, mouse and finger."""

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser, pages):
    browser.open(pages["run"])
    return browser


def cards(page):
    found = page.driver.find_elements(By.CSS_SELECTOR, ".card")
    return [card for card in found if card.is_displayed()]


def scores(page):
    return [float(card.get_attribute("data-score")) for card in cards(page)]


def slider_of(card):
    return card.find_element(By.CSS_SELECTOR, ".wipe")


def layer(card, name):
    return card.find_element(By.XPATH, f".//figure[figcaption[text()='{name}']]")


def shown_part(page, card, name):
    """Percent of its width that a layer shows: what its clip leaves, 0 where it is hidden."""
    figure = layer(card, name)
    if figure.value_of_css_property("visibility") == "hidden":
        return 0
    clip = figure.value_of_css_property("clip-path")
    return 100 if clip == "none" else 100 - float(clip.split()[1].rstrip("%"))


def choose(page, name, text):
    Select(page.driver.find_element(By.ID, f"gallery-{name}")).select_by_visible_text(text)


def set_range(page, identifier, value):
    page.run(
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        page.driver.find_element(By.ID, identifier),
        value,
    )


def test_arrow_keys_lead_from_the_image_over_the_regions_to_the_label(page):
    card = cards(page)[0]
    slider = slider_of(card)
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "Image"
    assert shown_part(page, card, "Regions") == 0
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "5 % Regions over Image"
    assert shown_part(page, card, "Regions") == 5
    slider.send_keys(Keys.END)
    assert slider.get_attribute("aria-valuetext") == "Label"
    assert shown_part(page, card, "Label") == 100
    slider.send_keys(Keys.ARROW_LEFT)
    assert shown_part(page, card, "Label") == 95
    assert page.messages() == []


def test_buttons_jump_to_a_layer_and_say_which_one_is_shown(page):
    card = cards(page)[0]
    stops = {stop.text: stop for stop in card.find_elements(By.CSS_SELECTOR, ".stop")}
    assert list(stops) == ["Image", "Regions", "Label"]
    stops["Regions"].click()
    pressed = {name: stop.get_attribute("aria-pressed") for name, stop in stops.items()}
    assert pressed == {"Image": "false", "Regions": "true", "Label": "false"}
    assert shown_part(page, card, "Regions") == 100
    assert shown_part(page, card, "Label") == 0


def test_the_mouse_draws_the_edge_over_the_picture(page):
    card = cards(page)[0]
    stage = card.find_element(By.CSS_SELECTOR, ".stage")
    width = stage.size["width"]
    start = ActionChains(page.driver).move_to_element(stage).click_and_hold()
    start.move_by_offset(round(0.25 * width), 0).release().perform()
    assert shown_part(page, card, "Regions") == pytest.approx(75, abs=2)
    # At the regions shown whole, the edge at the left is the label's.
    slide = slider_of(card)
    slide.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 20)
    drag = ActionChains(page.driver)
    drag.move_to_element_with_offset(stage, round(-0.4 * width), 0).click_and_hold()
    drag.move_by_offset(round(0.2 * width), 0).release().perform()
    assert shown_part(page, card, "Label") == pytest.approx(30, abs=2)


def test_a_finger_draws_the_edge_too(page):
    card = cards(page)[0]
    stage = card.find_element(By.CSS_SELECTOR, ".stage")
    page.run("arguments[0].scrollIntoView({block: 'center'})", stage)
    width = stage.size["width"]
    actions = ActionBuilder(page.driver, mouse=PointerInput("touch", "finger"))
    finger = actions.pointer_action
    finger.move_to(stage).pointer_down().move_to(stage, round(-0.3 * width), 0).pointer_up()
    actions.perform()
    assert shown_part(page, card, "Regions") == pytest.approx(20, abs=3)


def test_layers_can_fade_and_stand_side_by_side(page):
    card = cards(page)[0]
    choose(page, "mode", "fades")
    assert float(layer(card, "Regions").value_of_css_property("opacity")) == 0.5
    choose(page, "view", "side by side")
    lefts = [layer(card, name).rect["x"] for name in ("Image", "Regions", "Label")]
    assert lefts == sorted(set(lefts))
    assert float(layer(card, "Regions").value_of_css_property("opacity")) == 1
    assert not slider_of(card).is_displayed()
    assert not page.driver.find_element(By.ID, "gallery-all").is_enabled()


def test_one_slider_moves_all(page):
    set_range(page, "gallery-all", 200)
    assert {slider_of(card).get_attribute("value") for card in cards(page)} == {"200"}


def test_the_worst_comes_first_and_the_order_can_be_turned(page):
    worst = scores(page)
    assert worst == sorted(worst)
    choose(page, "sort", "best first")
    assert scores(page) == worst[::-1]


def test_images_can_be_filtered_by_site_and_by_score(page):
    assert len(cards(page)) == 12
    choose(page, "site", "yard")
    assert {card.get_attribute("data-site") for card in cards(page)} == {"yard"}
    assert page.driver.find_element(By.ID, "gallery-count").text == "6 of 12 shown"
    choose(page, "site", "all sites")
    middle = sorted(scores(page))[5]
    set_range(page, "gallery-limit", round(100 * middle))
    limit = round(100 * middle) / 100
    assert scores(page)
    assert max(scores(page)) <= limit
    assert page.driver.find_element(By.ID, "gallery-limit-value").text == f"{limit:.2f}"
    assert (
        page.driver.find_element(By.ID, "gallery-count").text == f"{len(cards(page))} of 12 shown"
    )


def test_one_color_can_be_shown_alone(page):
    choose(page, "only", "only pipe")
    script = """
      const canvases = [...document.querySelectorAll('.flat canvas')];
      return canvases.map((canvas) => {
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let clear = 0;
        for (let at = 3; at < data.length; at += 4) clear += data[at] === 0;
        return clear / (canvas.width * canvas.height);
      });
    """
    WebDriverWait(page.driver, 10).until(lambda _: len(page.run(script)) == 2 * 12)
    clear = page.run(script)
    assert 0.05 < sum(clear) / len(clear) < 0.95
    choose(page, "only", "all colors")
    assert page.driver.find_elements(By.CSS_SELECTOR, ".flat canvas") == []


def test_the_map_shows_the_centroids_of_the_chosen_round(page):
    slider = page.driver.find_element(By.ID, "centroids-round")
    drawing = page.driver.find_element(By.ID, "centroids-drawing")
    # the start: the clients sent sums, no centroids
    slider.send_keys(Keys.HOME)
    assert page.driver.find_element(By.ID, "centroids-value").text == "round 0"
    assert len(drawing.find_elements(By.CSS_SELECTOR, ".server")) == 4
    assert drawing.find_elements(By.CSS_SELECTOR, "path") == []
    # three rounds of training, in each 4 of the server's and 4 of either client
    slider.send_keys(Keys.ARROW_RIGHT)
    first = drawing.get_attribute("innerHTML")
    assert page.driver.find_element(By.ID, "centroids-value").text == "round 1"
    assert len(drawing.find_elements(By.CSS_SELECTOR, ".server")) == 4
    assert len(drawing.find_elements(By.CSS_SELECTOR, "path")) == 8
    slider.send_keys(Keys.ARROW_RIGHT)
    assert page.driver.find_element(By.ID, "centroids-value").text == "round 2"
    assert drawing.get_attribute("innerHTML") != first
    # finish and choice: the clients send sums, no centroids
    slider.send_keys(Keys.END)
    assert drawing.accessible_name == "Centroids after the choice: 4 of the server, from 0 clients"
    slider.send_keys(Keys.ARROW_LEFT)
    assert drawing.accessible_name == "Centroids after round 4: 4 of the server, from 0 clients"
    assert drawing.find_elements(By.CSS_SELECTOR, "path") == []
