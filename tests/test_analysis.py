"""The spectral envelope: a voice has the same mel spectrogram at any pitch, and every recording has valid features."""
import utils
from conftest import words
from corpus import analysis
from hyperparams import HyperParams

import numpy as np
import pytest

HP = HyperParams()
INNER = slice(10, -10)  # frames whose windows hold nothing but sound
HEARD = slice(6, 60)    # bands from 230 to 4100 Hz, where the complex tones below have harmonics


def complex_tone(hertz: float, seconds: float = 0.6) -> np.ndarray:
    """(samples,) harmonics of a pitch under a smooth envelope, whose level does not depend on their spacing."""
    time = np.arange(round(seconds * HP.sample_rate)) / HP.sample_rate
    harmonics = hertz * np.arange(1, int(6000 / hertz))
    level = sum(np.exp(-0.5 * ((harmonics - formant) / 500.0) ** 2) for formant in (700.0, 2400.0)) + 0.05
    phases = np.random.default_rng(0).uniform(0.0, 2 * np.pi, len(harmonics))
    wav = hertz * level @ np.sin(2 * np.pi * harmonics[:, None] * time + phases[:, None])
    return (2e-4 * wav).astype(np.float32)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=n)).astype(np.float32)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The root mean square difference over the bands `HEARD`, in dB."""
    return HP.range_db * float(np.sqrt(np.mean((one - other)[INNER, HEARD] ** 2)))


def test_one_envelope_at_two_pitches_gives_nearly_the_same_mel_spectrogram():
    low, high = (analysis.extract(complex_tone(hertz), HP) for hertz in (100.0, 220.0))
    for features, hertz in ((low, 100.0), (high, 220.0)):
        np.testing.assert_allclose(features.hertz[INNER], hertz, rtol=0.01)
    with_harmonics = [utils.mel_of_linear(features.linear.astype(np.float32), HP) for features in (low, high)]
    assert difference(low.mel.astype(np.float32), high.mel.astype(np.float32)) < 1.5
    assert difference(*with_harmonics) > 4.0


def ripple(mel: np.ndarray) -> float:
    """How far a band lies from the mean of its neighbours, in dB, where harmonics are farther apart than bands."""
    return HP.range_db * float(np.abs(mel[INNER, 7:20] - 0.5 * (mel[INNER, 6:19] + mel[INNER, 8:21])).mean())


@pytest.mark.parametrize("hertz", [90.0, 150.0, 300.0])
def test_envelope_has_no_harmonics_and_keeps_the_level_of_the_sound(hertz):
    found = analysis.extract(complex_tone(hertz), HP)
    mel, plain = found.mel.astype(np.float32), utils.mel_of_linear(found.linear.astype(np.float32), HP)
    assert ripple(mel) < 0.15 < 0.1 * ripple(plain)  # a single average would leave twice as much
    power = [np.mean(utils.denormalise(x, HP)[INNER, HEARD]) for x in (mel, plain)]
    assert power[0] == pytest.approx(power[1], rel=0.1)


def test_pitch_contour_is_interpolated_through_unvoiced_frames():
    hertz = HP.pitch_middle * np.array([0, 0, 1, 2, 0, 0, 0, 0.5, 0], np.float32)
    np.testing.assert_allclose(analysis.pitch_contour(hertz, HP), [0, 0, 0, 1, 0.5, 0, -0.5, -1, -1], atol=1e-6)
    np.testing.assert_array_equal(analysis.pitch_contour(np.zeros(3, np.float32), HP), [0, 0, 0])
    assert analysis.pitch_contour(hertz, HP).dtype == np.float32


@pytest.mark.parametrize("width", [1, 3, 7, 33])
def test_the_average_over_an_odd_number_of_bins_is_their_mean(width):
    magnitude = np.random.default_rng(width).uniform(0.0, 1e3, (4, 60))
    mirrored = np.pad(magnitude, ((0, 0), (width // 2, width // 2)), mode="reflect")
    expected = np.stack([mirrored[:, i:i + width].mean(axis=1) for i in range(60)], axis=1)
    np.testing.assert_allclose(analysis.average(magnitude, float(width)), expected, rtol=1e-9)


def test_average_weights_fractions_of_bins():
    row = np.random.default_rng(0).uniform(0.0, 1.0, 50)
    found = analysis.average(row[None], 4.0)[0]  # the two outermost bins have half weight
    assert found[10] == pytest.approx((0.5 * row[8] + row[9] + row[10] + row[11] + 0.5 * row[12]) / 4.0)
    np.testing.assert_allclose(analysis.average(np.full((3, 50), 7.0), 5.5), 7.0, rtol=1e-9)


def test_each_frame_is_averaged_over_its_pitch_rounded_to_a_semitone():
    linear = np.random.default_rng(0).uniform(0.0, 1.0, (4, HP.n_linear)).astype(np.float32)
    hertz = HP.pitch_middle * 2.0 ** (np.array([-9, 0, 5, 5]) / 12.0)
    contour = np.log2(hertz / HP.pitch_middle) + np.array([0.0, 0.0, 0.04, -0.04])
    found = analysis.mel_envelope(linear, contour, HP)
    for frame, pitch, mel in zip(linear, hertz, found):
        width = pitch * HP.n_fft / HP.sample_rate
        envelope = analysis.average(analysis.average(utils.denormalise(frame[None], HP), width), width)
        expected = utils.normalise(envelope @ utils.mel_filterbank(HP.sample_rate, HP.n_fft, HP.n_mels).T, HP)[0]
        np.testing.assert_allclose(mel, expected, atol=1e-5)


def test_features_computed_in_blocks_equal_those_of_the_whole_recording(monkeypatch):
    wav = np.concatenate([words(1, pitch=110.0), noise(8000), words(2, pitch=210.0)])
    whole = analysis.extract(wav, HP)
    monkeypatch.setattr(utils, "BLOCK_FRAMES", 37)
    blocks = analysis.extract(wav, HP)
    np.testing.assert_array_equal(blocks.hertz, whole.hertz)
    for found, expected in zip(blocks[:2], whole[:2]):
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=1e-3)
    assert whole.mel.max() > 0.6 and 0.2 < (whole.hertz > 0).mean() < 0.95


@pytest.mark.parametrize("n_samples", [1, 50, 199, 200, 799, 1023, 1025, 3000])
@pytest.mark.parametrize("make", [noise, np.zeros, lambda n: words(3)[4000:4000 + n]])
def test_short_silent_and_unvoiced_recordings_have_valid_features(make, n_samples):
    found = analysis.extract(make(n_samples).astype(np.float32), HP)
    n_frames = 1 + n_samples // HP.hop_length
    assert [x.shape for x in found] == [(n_frames, HP.n_linear), (n_frames, HP.n_mels), (n_frames,)]
    assert [x.dtype for x in found] == [np.float16, np.float16, np.float32]
    for x in found[:2]:
        assert np.isfinite(x).all() and x.min() >= 0.0 and x.max() <= 1.0
        assert x.any() == (make is not np.zeros)
    assert ((found.hertz == 0.0) | ((found.hertz >= HP.pitch_min - 1) & (found.hertz <= HP.pitch_max + 1))).all()


def test_trailing_silence_stays_silent_and_changes_no_frame_before_it():
    wav = complex_tone(140.0)
    alone = analysis.extract(wav, HP)
    padded = analysis.extract(np.append(wav, np.zeros(HP.sample_rate // 2, np.float32)), HP)
    n = len(alone.mel) - 4
    np.testing.assert_allclose(padded.mel[:n].astype(np.float32), alone.mel[:n].astype(np.float32), atol=5e-3)
    assert not padded.mel[n + 10:].any() and not padded.hertz[n + 10:].any()
