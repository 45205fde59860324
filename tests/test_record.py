"""tools/record.py: a browser uploads a recording, gets its conversion, and both are deleted; long ones are refused."""
import importlib.util
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

from common.cli import UserError
from conftest import DEMO, words, write
from tools import record

import numpy as np
import pytest
import soundfile
from test_browser import BROWSER, Browser

RECORDING = DEMO / "rms" / "demo_001.ogg"
ROOT = pathlib.Path(record.__file__).resolve().parents[1]


@pytest.fixture
def loaded(monkeypatch, converter):
    monkeypatch.setattr(record, "load", lambda voice: converter)


def test_a_recording_is_converted(loaded):
    (sample_rate, samples), remarks = record.convert(str(RECORDING), "slt", False)
    assert remarks == "" and samples.dtype == np.int16
    assert len(samples) / sample_rate >= soundfile.info(RECORDING).duration


def test_a_recording_of_more_than_a_minute_is_refused(loaded, tmp_path):
    path = write(tmp_path / "long.wav", np.tile(words(1), 61))
    with pytest.raises(UserError, match="61 s are too long for this page, which takes 60 s; eval.py"):
        record.convert(str(path), "slt", False)


def stored(folder: pathlib.Path) -> list[str]:
    """Names of recordings below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix in (".ogg", ".wav"))


@pytest.fixture
def server(tmp_path):
    """The page's address; what it stores lies below tmp_path, for three seconds."""
    code = "from tools import record; record.DELETED = (1, 3); record.serve([])"
    process = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"TMPDIR": str(tmp_path)})
    yield next(found[0] for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert not list(tmp_path.glob("tmp*"))


BUTTON = "[...document.querySelectorAll('button')].find(each => each.textContent.trim() === '{}')"
LINKS = "[...document.querySelectorAll('a[data-testid=download-link]')].map(link => link.href)"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None or not importlib.util.find_spec("gradio"), reason="no browser or no gradio")
def test_a_browser_uploads_a_recording_and_gets_its_conversion(server, tmp_path):
    browser = Browser(server, tmp_path / "profile")
    try:
        browser.wait(f"!!{BUTTON.format('Submit')} && !!document.querySelector('[aria-label=\"Upload file\"]')")
        browser.evaluate("document.querySelector('[aria-label=\"Upload file\"]').click()")
        browser.wait("!!document.querySelector('input[type=file]')")
        root = browser("DOM.getDocument")["root"]["nodeId"]
        field = browser("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        browser("DOM.setFileInputFiles", nodeId=field, files=[str(RECORDING)])
        browser.wait(f"{LINKS}.length === 1")
        assert stored(tmp_path) == ["demo_001.ogg"]
        browser.evaluate(f"{BUTTON.format('Submit')}.click()")
        browser.wait(f"{LINKS}.length === 2")
        with urllib.request.urlopen(browser.evaluate(LINKS)[1]) as answer:
            wav, sample_rate = soundfile.read(io.BytesIO(answer.read()))
    finally:
        browser.close()
    assert np.abs(wav).max() > 0.1 and len(wav) / sample_rate >= soundfile.info(RECORDING).duration
    end = time.monotonic() + 20.0
    while stored(tmp_path):
        assert time.monotonic() < end, "what was stored is not deleted"
        time.sleep(0.1)
