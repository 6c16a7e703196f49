"""Real runs, and a headless Chromium that opens their pages from the disk."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipes.toml"
SETTINGS = (
    'data.train_sites=["tank","tunnel"]',
    'data.held_out_sites=["hall","yard"]',
    "data.images_per_site=6",
    "data.image_size=[120,160]",
    "model.num_clusters=4",
    "local.steps=3",
    "federation.rounds=3",
    "federation.lloyd_rounds=1",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = 1400, 360


def fusseg(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fusseg", *map(str, arguments)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Every page of three runs made by the command line; two are alike but for the seed."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {"a": (), "b": ("seed=1",), "c": ("federation.strategy=fedavg", "model.num_clusters=3")}
    for name, more in runs.items():
        overrides = [part for key in (*SETTINGS, *more) for part in ("--set", key)]
        fusseg("run", EXAMPLE, "--out", folder / name, "--cache", folder / "cache", *overrides)
    run, cache = folder / "a", ("--cache", folder / "cache")
    fusseg("report", *(folder / name for name in runs), "--out", folder / "compare.html")
    fusseg("quality", run, folder / "b", *cache)
    overrides = [part for key in SETTINGS for part in ("--set", key)]
    suggested = ("--out", folder / "suggest-k.html", "--k", "2,3,4,6")
    fusseg("suggest-k", EXAMPLE, *suggested, *cache, *overrides)
    scenes = folder / "scenes"
    fusseg("scenes", "pipes", "--out", scenes, "--images", 4)
    fusseg("adapt", run, scenes, "--out", folder / "adapted", *cache)
    return {
        "run": run / "report.html",
        "comparison": folder / "compare.html",
        "quality": run / "quality.html",
        "suggestion": folder / "suggest-k.html",
        "adaptation": folder / "adapted" / "adaptation.html",
    }


class Browser:
    """One window; every message of its console and every request is kept."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page, width=WIDE, scheme="light", height=900):
        self.resize(width, height)
        # without smooth scrolling an element stands still once it is scrolled to
        media = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.driver.get(page.as_uri())

    def resize(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def messages(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        events = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        return [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]

    def screenshot(self, name, width):
        folder = os.environ.get("FUSSEG_SCREENSHOTS")
        height = self.run("return document.documentElement.scrollHeight")
        self.resize(width, height)
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.fail(f"{missing[0]} is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    yield Browser(driver)
    driver.quit()
