"""The first use by a newcomer: scripts in a folder with spaces in its name, run from another folder."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from conftest import DEMO_IDS, leftovers

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = ["width=16", "encoder_banks=2", "postnet_banks=2", "highway_layers=1", "batch_size=2", "postnet_window=32",
         "postnet_steps=2", "encoder_steps=0", "decoder_steps=0", "griffin_lim_iters=1"]


@pytest.fixture(scope="module")
def places(tmp_path_factory, demo_recordings):
    """The scripts with the packages that they import, and another folder with four recordings of two people."""
    scripts, elsewhere = (tmp_path_factory.mktemp("first hour") / name for name in ("voice conversion", "some place"))
    scripts.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, scripts)
    for path in ROOT.glob("*/__init__.py"):
        shutil.copytree(path.parent, scripts / path.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
    for speaker, name in (("rms", "my recordings"), ("slt", "hers")):
        (elsewhere / name).mkdir(parents=True)
        for utterance in DEMO_IDS[:4]:
            shutil.copy(demo_recordings / speaker / f"{utterance}.ogg", elsewhere / name)
    return scripts, elsewhere


def run(places, script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script as a user does, without environment variables for TensorFlow."""
    scripts, elsewhere = places
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")}
    return subprocess.run([sys.executable, str(scripts / script), *arguments], cwd=elsewhere, capture_output=True,
                          text=True, timeout=600, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"})


def test_preparation_training_and_conversion_run_without_warnings(places):
    scripts, elsewhere = places
    before = sorted(scripts.iterdir())
    for command in (["prepro.py", "--source", "my recordings", "--target", "hers", "--data", "the features"],
                    ["train.py", "--data", "the features", "--logdir", "a run", *(f"--set={x}" for x in SMALL)],
                    ["eval.py", "my recordings/demo_001.ogg", "--logdir", "a run", "--out", "the results"]):
        done = run(places, *command)
        assert (done.returncode, done.stderr) == (0, ""), (command, done.stderr)  # no progress bar either
        assert done.stdout
    assert sorted(path.name for path in elsewhere.iterdir()) == ["a run", "hers", "my recordings", "the features",
                                                                 "the results"]
    assert (elsewhere / "the results" / "demo_001.wav").stat().st_size > 10_000
    assert sorted(scripts.iterdir()) == before


def test_interrupted_preparation_prints_one_message_and_leaves_no_temporary_files(places):
    """A terminal sends Ctrl-C to all processes of a command, here while several of them prepare recordings."""
    scripts, elsewhere = places
    features = elsewhere / "unfinished" / "features"
    process = subprocess.Popen([sys.executable, str(scripts / "prepro.py"), "--source", "my recordings",
                                "--target", "hers", "--data", "unfinished"], cwd=elsewhere, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    # Wait for the first recording of the source; the pitch of the target takes longer
    while process.poll() is None and len(list((features / "my recordings").glob("*.mel.npy"))) < 1:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "\nprepro.py: stopped; what was finished is kept\n"
    assert leftovers(elsewhere) == [] and not (elsewhere / "unfinished" / "manifest.csv").exists()
