"""Measures on WORLD's analysis have the expected values; skipped where its libraries are missing."""
import numpy as np
import pytest

from evaluation import world
from conftest import demo_wav, words
from hyperparams import HyperParams

pytestmark = pytest.mark.skipif(not world.available(), reason="pyworld and pysptk are optional")
HP = HyperParams()


@pytest.fixture(scope="module")
def sentence() -> world.Speech:
    return world.analyse(demo_wav("slt", "demo_003", HP), HP)


def test_recording_does_not_differ_from_itself(sentence):
    measures = world.compare(sentence, sentence)
    assert measures["MCD dB"] == measures["F0 RMSE Hz"] == measures["voicing error"] == 0.0
    assert measures["F0 correlation"] == pytest.approx(1.0) and measures["median F0 ratio"] == 1.0
    assert measures["global variance ratio"] == pytest.approx(1.0)


def test_distortion_ignores_the_level(sentence):
    quiet = world.analyse(0.25 * demo_wav("slt", "demo_003", HP), HP)
    assert world.compare(quiet, sentence)["MCD dB"] < 0.5  # WORLD adds a little noise of its own


def test_another_voice_differs_more_than_added_silence(sentence):
    padded = world.analyse(np.pad(demo_wav("slt", "demo_003", HP), 8000), HP)
    assert world.compare(padded, sentence)["MCD dB"] < 1.0
    assert world.compare(world.analyse(demo_wav("rms", "demo_003", HP), HP), sentence)["MCD dB"] > 5.0


def test_pitch_measures_compare_the_pitch_of_two_recordings():
    low, high = (world.analyse(words(3, pitch=pitch), HP) for pitch in (120.0, 180.0))
    measures = world.compare(high, low)
    assert measures["median F0 ratio"] == pytest.approx(1.5, rel=0.02)
    assert measures["F0 RMSE Hz"] == pytest.approx(60.0, abs=8.0)


def test_unvoiced_speech_has_no_pitch_measures(sentence):
    noise = world.analyse(0.1 * np.random.default_rng(0).normal(size=16000), HP)
    whisper = noise._replace(f0=np.zeros_like(noise.f0))
    measures = world.compare(whisper, sentence)
    assert np.isnan(measures["F0 RMSE Hz"]) and np.isnan(measures["median F0 ratio"])
    assert np.isfinite(measures["MCD dB"]) and measures["voicing error"] > 0.3


def test_distortion_is_in_decibel(sentence, monkeypatch):
    """A ripple of known depth on the envelope, which is one mel-cepstrum, gives the distortion of the usual formula."""
    cheaptrick, depth = world.pyworld.cheaptrick, 0.3

    def rippled(*args):
        envelope = cheaptrick(*args)
        omega = np.linspace(0.0, np.pi, envelope.shape[1])
        warped = omega + 2.0 * np.arctan(0.41 * np.sin(omega) / (1.0 - 0.41 * np.cos(omega)))
        return envelope * np.exp(2.0 * depth * np.cos(3.0 * warped))
    monkeypatch.setattr(world.pyworld, "cheaptrick", rippled)
    changed = world.analyse(demo_wav("slt", "demo_003", HP), HP)
    distances = np.linalg.norm(changed.cepstra[:20] - sentence.cepstra[:20], axis=1)
    assert np.median(distances) == pytest.approx(10.0 * np.sqrt(2.0) / np.log(10.0) * depth, rel=0.05)
