"""The pages in a real browser without a network: sorting by keyboard, playing recordings, opening pictures, telephones.

The tests control Chromium or Chrome with the DevTools protocol through two pipes; without a browser they are skipped.
"""
import fcntl
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

from common import audio_files
from conftest import tone
from evaluation import page as results_page
from hyperparams import HyperParams
from tools import gallery

import numpy as np
import pytest
from test_figures import utterance

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}")

KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}
# The browser reads from descriptor 3 and writes to descriptor 4
MOVE = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
        "os.execv(sys.argv[3], sys.argv[3:])")
SECONDS = {"a": 1.5, "b": 0.5, "c": 1.0}


class Browser:
    """A page opened in a headless browser; `events` holds what the browser reported."""

    def __init__(self, page: pathlib.Path | str, profile: pathlib.Path):
        self.numbers, self.rest, self.events = itertools.count(1), b"", []
        (theirs_in, self.to), (self.back, theirs_out) = os.pipe(), os.pipe()
        # Use descriptors from 10 on, because 3 and 4 become copies of them
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        command = [sys.executable, "-I", "-S", "-c", MOVE, *map(str, ends), BROWSER, "--headless", "--disable-gpu",
                   "--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1400,900",
                   *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        self.process = subprocess.Popen(command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self.session = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol !== 'about:'")

    def __call__(self, method: str, **parameters) -> dict:
        """Call a method of the protocol and wait for its answer."""
        message = {"id": next(self.numbers), "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            received = self.receive()
            if received.get("id") == message["id"]:
                assert "error" not in received, received
                return received["result"]
            self.events.append(received)

    def receive(self) -> dict:
        while b"\0" not in self.rest:
            assert select.select([self.back], [], [], 60.0)[0], "the browser does not answer"
            data = os.read(self.back, 2 ** 16)
            assert data, "the browser has ended"
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def evaluate(self, script: str):
        """The value of a script, or that to which its promise resolves; an exception fails the test."""
        found = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a script is true."""
        end = time.monotonic() + 90.0
        while not self.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key, as a person does."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code={" ": "Space"}.get(key, key),
                 windowsVirtualKeyCode=code, text=text if kind == "keyDown" else "")

    def tab_to(self, selector: str) -> None:
        """Press the tabulator until the focus is on the element of a selector."""
        for _ in range(100):
            if self.evaluate(f"document.activeElement?.matches({json.dumps(selector)})"):
                return
            self.press("Tab")
        raise AssertionError(f"the keyboard does not reach {selector}")

    def close(self) -> None:
        os.close(self.to)  # this ends the browser
        try:
            self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.back)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A results page of three sentences in a folder with a space in its name."""
    folder, hp, rows = tmp_path_factory.mktemp("browser") / "results of #1", HyperParams(), []
    utterance(folder / "audio" / "p.png")
    for (name, seconds), distortion in zip(SECONDS.items(), (5.25, 10.5, np.nan)):
        audio_files.save_wav(folder / "audio" / f"{name} ü #1.wav", tone(440.0, seconds=seconds), hp)
        rows.append({"id": name, "audio": {"converted": f"audio/{name} ü #1.wav"}, "picture": "audio/p.png",
                     "measures": {"stops": True, "MCD dB": distortion}})
    results_page.write_page(folder, "Voice conversion", rows, {"MCD dB": 7.9})
    browser = Browser(folder / "index.html", tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


ORDER = "[...document.querySelectorAll('tbody th[data-value]')].map(cell => cell.textContent).join('')"


def test_keyboard_sorts_the_table(page):
    assert page.evaluate(ORDER) == "abc"
    heading = "th:last-child button"
    page.tab_to(heading)
    page.press("Enter")
    assert page.evaluate(ORDER) == "abc"
    page.press(" ")
    assert page.evaluate(ORDER) == "bac"  # a row without a value stays last
    assert page.evaluate(f"document.querySelector('{heading}').parentElement.ariaSort") == "descending"
    assert page.evaluate(f"document.activeElement.matches('{heading}')")
    page.press("Enter")
    assert page.evaluate(ORDER) == "abc"


def test_keyboard_plays_a_recording_to_its_end(page):
    page.tab_to("audio[aria-label='b, converted']")
    page.evaluate("window.player = document.activeElement, 0")
    page.press(" ")
    page.wait("player.ended")
    assert page.evaluate("player.duration") == pytest.approx(SECONDS["b"], abs=0.01)
    assert page.evaluate("player.currentTime") == pytest.approx(SECONDS["b"], abs=0.01)


@pytest.mark.parametrize("name", SECONDS)
def test_every_recording_plays(page, name):
    script = f"""(async () => {{
        const player = document.querySelector("audio[aria-label='{name}, converted']");
        await player.play();
        player.pause();
        return player.duration;
    }})()"""
    assert page.evaluate(script) == pytest.approx(SECONDS[name], abs=0.01)


def test_keyboard_opens_a_picture(page):
    page.tab_to("summary")
    assert not page.evaluate("document.querySelector('details').open")
    page.press("Enter")
    page.wait("document.querySelector('details[open] img').naturalWidth > 600")
    assert page.evaluate("document.querySelector('.results').offsetWidth <= document.body.clientWidth")


def check_events(browser: Browser, least: int) -> None:
    """Check all that the browser has reported: no errors, and at least `least` requests, all for local files."""
    browser.evaluate("0")  # when this is answered, all earlier events have been reported
    # A browser cancels the request for a recording when it knows its length
    methods = [event["method"] for event in browser.events if not event["params"].get("canceled")]
    assert "Runtime.exceptionThrown" not in methods and "Network.loadingFailed" not in methods
    for event in browser.events:
        if event["method"] == "Log.entryAdded":
            assert event["params"]["entry"]["level"] not in ("error", "warning"), event
        if event["method"] == "Runtime.consoleAPICalled":
            assert event["params"]["type"] not in ("error", "warning", "assert"), event
    addresses = [event["params"]["request"]["url"] for event in browser.events
                 if event["method"] == "Network.requestWillBeSent"]
    assert len(addresses) >= least and all(address.startswith(("file:///", "data:")) for address in addresses)


def test_page_reports_no_errors_and_requests_only_local_files(page):
    """This test follows those of this page because it checks all events that the browser has reported."""
    check_events(page, 5)


@pytest.fixture(scope="module")
def listen(tmp_path_factory):
    """The page with the samples of the repository."""
    browser = Browser(gallery.ROOT / "docs" / "index.html", tmp_path_factory.mktemp("listen"))
    yield browser
    browser.close()


def test_every_sample_loads_and_the_keyboard_plays_one(listen):
    listen.wait("[...document.querySelectorAll('audio')].every(player => player.readyState > 0)")
    durations = listen.evaluate("[...document.querySelectorAll('audio')].map(player => player.duration)")
    assert len(durations) >= 15 and min(durations) > 0.5
    listen.tab_to("audio")
    listen.evaluate("window.player = document.activeElement, 0")
    listen.press(" ")
    listen.wait("player.currentTime > 0.1")


@pytest.mark.parametrize("scheme, darker", [("light", False), ("dark", True)])
def test_page_of_samples_reads_well_on_a_telephone_and_in_the_dark(listen, scheme, darker):
    listen("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    listen("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    assert listen.evaluate("document.documentElement.scrollWidth") <= 360
    assert listen.evaluate("Math.min(...[...document.querySelectorAll('audio')].map(each => each.offsetWidth))") > 250
    colours = "(style => [style.color, style.backgroundColor].map(text => text.match(/\\d+/g).map(Number)))"
    text, back = listen.evaluate(f"{colours}(getComputedStyle(document.body))")
    assert (sum(back) < sum(text)) == darker and abs(sum(text) - sum(back)) > 400


def test_page_of_samples_reports_no_errors(listen):
    check_events(listen, 16)
