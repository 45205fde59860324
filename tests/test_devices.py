"""TensorFlow starts silently unless it fails or the user asks for its messages."""
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOISE = "I0000 00:00:1 port.cc:153] oneDNN custom operations are on"
# This module replaces TensorFlow; its messages do not pass through Python's sys.stderr
FAKE = f"""
import os
os.write(2, b"{NOISE}\\n" * 5000)

def end():
    {{ending}}

function = end  # is wrapped, not called

class distribute:
    Strategy = object

class config:
    list_physical_devices = staticmethod(end)
"""


def start(folder: pathlib.Path, ending: str, level: str | None) -> subprocess.CompletedProcess:
    """Import backend/devices.py in a process of its own, with a TensorFlow that ends with `ending`."""
    (folder / "tensorflow.py").write_text(FAKE.format(ending=ending), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    environment |= {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    command = ("import sys; from backend import devices; print('warning of the program', file=sys.stderr); "
               "print(devices.os.environ)")
    return subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("level", [None, "3"])
def test_successful_start_is_silent_and_later_warnings_are_shown(tmp_path, level):
    done = start(tmp_path, "pass", level)
    assert (done.returncode, done.stderr) == (0, "warning of the program\n")
    assert "'KERAS_BACKEND': 'tensorflow'" in done.stdout and "'TF_CPP_MIN_LOG_LEVEL': '3'" in done.stdout


@pytest.mark.parametrize("level", ["0", "2"])
def test_log_level_shows_the_messages_of_tensorflow(tmp_path, level):
    done = start(tmp_path, "pass", level)
    assert done.returncode == 0 and done.stderr.count(NOISE) == 5000


def test_verbose_shows_the_messages_of_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text(FAKE.format(ending="pass"), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", "import backend.devices", "--verbose"], capture_output=True, text=True,
                          timeout=60, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    assert done.returncode == 0 and done.stderr.count(NOISE) == 5000


def test_failed_import_is_shown_with_all_earlier_messages(tmp_path):
    done = start(tmp_path, "raise ImportError('libcudart.so.13')", None)
    assert done.returncode == 1 and done.stderr.count(NOISE) == 5000
    assert "ImportError: libcudart.so.13" in done.stderr and "warning of the program" not in done.stderr


def test_the_start_of_conversion_imports_no_large_library_in_vain_and_others_can_import_it_later():
    code = ("import sys, conversion.inference, evaluation.figures; large = ['sklearn', 'matplotlib.pyplot', 'IPython', "
            "'librosa', 'numba']; print([name for name in large if name in sys.modules]); "
            "import sklearn.base, matplotlib.pyplot")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
