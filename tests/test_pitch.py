"""Pitch and voicing: right for voices of any height, on the telephone and above noise; no voice in noise and hum."""
from corpus import analysis
from hyperparams import HyperParams

import numpy as np
import pytest
import scipy.signal

HP = HyperParams()
TIME = np.arange(HP.sample_rate) / HP.sample_rate


INNER = slice(4, -4)  # frames whose windows hold nothing but the sound


def voice(hertz: float) -> np.ndarray:
    """(samples,) a vowel: harmonics up to 4 kHz that become softer, through two formants."""
    harmonics = hertz * np.arange(1, int(4000 / hertz) + 1)
    level = sum(np.exp(-0.5 * ((harmonics - formant) / 400.0) ** 2) for formant in (600.0, 1700.0)) + 0.1
    phases = np.random.default_rng(0).uniform(0.0, 2 * np.pi, len(harmonics))
    wav = (level / harmonics) @ np.sin(2 * np.pi * harmonics[:, None] * TIME + phases[:, None])
    return (0.1 * wav / wav.std()).astype(np.float32)


def noise(level: float) -> np.ndarray:
    return (level * np.random.default_rng(0).normal(size=len(TIME))).astype(np.float32)


def telephone(wav: np.ndarray) -> np.ndarray:
    return scipy.signal.sosfilt(scipy.signal.butter(6, (300, 3400), "band", fs=HP.sample_rate, output="sos"), wav)


def hum(hertz: float) -> np.ndarray:
    return sum(0.02 / n * np.sin(2 * np.pi * n * hertz * TIME) for n in (1, 2, 3)).astype(np.float32)


def assert_pitch(wav: np.ndarray, hertz: float) -> None:
    """Check that all frames are voiced and have this pitch."""
    found = analysis.pitch(wav.astype(np.float32), HP)
    assert len(found) == 1 + len(wav) // HP.hop_length and found.dtype == np.float32
    np.testing.assert_allclose(found[INNER], hertz, rtol=0.01)


@pytest.mark.parametrize("hertz", [70.0, 90.0, 150.0, 220.0, 330.0, 440.0, 620.0, 950.0])
def test_pitch_of_a_voice(hertz):
    assert_pitch(voice(hertz), hertz)


@pytest.mark.parametrize("hertz", [90.0, 140.0, 220.0])
def test_pitch_without_its_fundamental_in_a_telephones_band(hertz):
    assert_pitch(telephone(voice(hertz)), hertz)


@pytest.mark.parametrize("hertz", [90.0, 220.0])
@pytest.mark.parametrize("disturbance", [hum(50.0), hum(60.0), noise(0.02)], ids=["50 Hz", "60 Hz", "noise"])
def test_pitch_of_a_disturbed_voice(hertz, disturbance):
    wav = voice(hertz)
    assert_pitch(wav + disturbance, hertz)


def test_low_voice_with_irregular_pulses_is_voiced():
    rng, wav = np.random.default_rng(0), np.zeros(len(TIME))
    places = np.cumsum(rng.normal(1.0, 0.03, 100) * HP.sample_rate / 72.0).astype(int)
    wav[places[places < len(wav)]] = 1.0
    for formant in (500.0, 1500.0, 2500.0):
        wav = scipy.signal.lfilter([1.0], [1.0, -1.9 * np.cos(2 * np.pi * formant / HP.sample_rate), 0.9025], wav)
    found = analysis.pitch((0.1 * wav / wav.std()).astype(np.float32), HP)[INNER]
    assert (found > 0.0).mean() > 0.9 and np.median(found) == pytest.approx(72.0, rel=0.03)


@pytest.mark.parametrize("wav", [noise(0.1), noise(0.001), telephone(noise(0.1)), hum(50.0), hum(60.0), 0.0 * TIME],
                         ids=["noise", "soft noise", "telephone", "50 Hz", "60 Hz", "silence"])
def test_what_is_no_voice_has_no_pitch(wav):
    assert not analysis.pitch(wav.astype(np.float32), HP).any()


@pytest.mark.parametrize("n_samples", [1, 100, 255, 256, 300, 511, 1000])
def test_recording_shorter_than_the_trackers_window(n_samples):
    found = analysis.pitch(voice(120.0)[4000:4000 + n_samples], HP)
    assert found.shape == (1 + n_samples // HP.hop_length,) and np.isfinite(found).all()


def test_voiced_frames_begin_and_end_with_the_sound():
    found = analysis.pitch(np.concatenate([noise(0.001), voice(120.0), noise(0.001)]), HP)
    voiced = np.flatnonzero(found) / HP.frames_per_second
    assert voiced[0] == pytest.approx(1.0, abs=0.03) and voiced[-1] == pytest.approx(2.0, abs=0.03)


def test_pitch_of_a_long_recording_is_that_of_its_parts():
    """The tracker reads 30 s at a time; every 0.4 s its frames are also frames of the spectrograms."""
    wav = np.tile(np.concatenate([voice(110.0), noise(0.001), voice(210.0), noise(0.02)]), 16)
    start, end = round(27.2 * HP.frames_per_second), round(34.0 * HP.frames_per_second)
    part = analysis.pitch(wav[start * HP.hop_length:end * HP.hop_length], HP)
    np.testing.assert_allclose(part[40:-40], analysis.pitch(wav, HP)[start + 40:end - 39], rtol=1e-3)
    assert 0.3 < (part > 0.0).mean() < 0.7


def test_an_octave_between_two_voiced_frames_is_interpolated(monkeypatch):
    class Found:
        timestamps, pitch_hz = np.array([0.0, 0.016, 0.032, 0.048]), np.array([100.0, 400.0, 777.0, 300.0])
        confidence = np.array([0.9, 0.9, 0.0, 0.2])
        detect = staticmethod(lambda *_: Found)
    monkeypatch.setattr(analysis, "pitch_tracker", lambda: Found)
    found = analysis.pitch(np.zeros(4 * HP.hop_length), HP)  # at 0, 12.5, 25, 37.5 and 50 ms
    np.testing.assert_allclose(found, [100.0, 100.0 * 4.0 ** (12.5 / 16), 0.0, 0.0, 0.0], rtol=1e-6)
