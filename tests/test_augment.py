"""Random augmentation in training: nothing changes at strength zero, and each kind changes what its name says."""
import numpy as np
import pytest

import utils
from corpus import augment
from conftest import demo_wav, tone
from hyperparams import HyperParams

STILL = HyperParams(augment_vtl=0.0, augment_eq=0.0, freq_mask=0.0, mel_blur_freq=0.0, mel_blur_time=0.0)


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, np.ndarray]:
    """Mel (T, M) and linear (T, F) spectrogram of a sentence."""
    return utils.spectrograms(demo_wav("rms", "demo_001", STILL), STILL)


def test_nothing_changes_at_strength_zero(speech):
    mel, linear = speech
    varied = augment.vary(linear, np.random.default_rng(0), STILL)
    np.testing.assert_allclose(varied, linear, atol=1e-6)
    np.testing.assert_allclose(augment.blur(mel, np.random.default_rng(0), STILL), mel, atol=1e-6)


def test_pitch_and_formants_move_together():
    linear = utils.spectrograms(tone(1000.0), STILL)[1]
    hp = STILL.replace(augment_vtl=0.2)
    found = []
    for seed in range(20):
        varied = augment.vary(linear, np.random.default_rng(seed), hp)
        found.append(varied[40].argmax() * hp.sample_rate / hp.n_fft)
        assert len(varied) == len(linear)
    assert 800 < min(found) < 900 and 1100 < max(found) < 1240  # 1000 Hz times exp(-0.2) to exp(0.2)


def test_equaliser_strength_is_in_decibel_and_silence_stays_silent(speech):
    linear = speech[1]
    hp = STILL.replace(augment_eq=8.0)
    change = np.abs(augment.vary(linear, np.random.default_rng(1), hp) - linear) * hp.range_db
    assert 2.0 < change.max() <= 8.001
    assert not augment.vary(np.zeros_like(linear), np.random.default_rng(1), hp).any()


def test_frequency_mask_hides_a_band_in_half_of_the_cases(speech):
    linear = speech[1]
    hidden = []
    for seed in range(200):
        varied = augment.vary(linear, np.random.default_rng(seed), STILL.replace(freq_mask=0.2))
        flat = np.ptp(varied, axis=0) == 0.0
        hidden.append(flat.mean())
        assert not flat.any() or np.array_equal(varied[:, ~flat], linear[:, ~flat])
    assert 0.4 < np.mean(np.array(hidden) > 0.0) < 0.6 and 0.15 < max(hidden) <= 0.2


def test_blur_weakens_harmonics_and_keeps_the_level(speech):
    mel = speech[0]
    hp = STILL.replace(mel_blur_freq=0.2, mel_blur_time=2.5)
    blurred = np.mean([augment.blur(mel, np.random.default_rng(seed), hp) for seed in range(8)], axis=0)

    def ripple(x):
        return np.abs(np.diff(x[:, :30], n=2, axis=1)).mean()  # harmonics are resolved in the low bands
    assert ripple(blurred) < 0.6 * ripple(mel)
    assert blurred.mean() == pytest.approx(mel.mean(), abs=0.02)


def test_a_single_frame_can_be_augmented(speech):
    mel, linear = speech
    hp = HyperParams()
    for seed in range(5):
        assert augment.vary(linear[:1], np.random.default_rng(seed), hp).shape[1] == hp.n_linear
        assert augment.blur(mel[:1], np.random.default_rng(seed), hp).shape == (1, hp.n_mels)
