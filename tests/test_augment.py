"""Random augmentation in training: nothing changes at strength zero, and each kind changes what its name says."""
import utils
from conftest import demo_wav, tone
from corpus import augment
from hyperparams import HyperParams

import numpy as np
import pytest

STILL = HyperParams(augment_vtl=0.0, augment_eq=0.0, mel_blur_freq=0.0, mel_blur_time=0.0)


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, np.ndarray]:
    """Mel (T, M) and linear (T, F) spectrogram of a sentence."""
    return utils.spectrograms(demo_wav("rms", "demo_001", STILL), STILL)


def test_nothing_changes_at_strength_zero(speech):
    mel, linear = speech
    for varied, plain in zip(augment.vary(linear, mel, np.random.default_rng(0), STILL), (linear, mel)):
        np.testing.assert_allclose(varied, plain, atol=1e-6)
    np.testing.assert_allclose(augment.blur(mel, np.random.default_rng(0), STILL), mel, atol=1e-6)


def test_formants_of_both_spectrograms_move_together():
    mel, linear = utils.spectrograms(tone(1000.0), STILL)
    hp, found = STILL.replace(augment_vtl=0.2), []
    for seed in range(20):
        varied, own = augment.vary(linear, mel, np.random.default_rng(seed), hp)
        found.append((varied[40].argmax() * hp.sample_rate / hp.n_fft,
                      utils.mel_centres(hp.sample_rate, hp.n_mels)[own[40].argmax()]))
        assert len(varied) == len(own) == len(linear)
    hertz, of_mel = np.transpose(found)
    assert 800 < min(hertz) < 900 and 1100 < max(hertz) < 1240  # 1000 Hz times exp(-0.2) to exp(0.2)
    np.testing.assert_allclose(of_mel, hertz, rtol=0.06)


def test_equaliser_strength_is_in_decibel_and_the_same_for_both_spectrograms(speech):
    mel, linear = speech
    hp = STILL.replace(augment_eq=8.0)
    changes = [(varied - plain) * hp.range_db for varied, plain in zip(
        augment.vary(linear, mel, np.random.default_rng(1), hp), (linear, mel))]
    assert 2.0 < np.abs(changes[0]).max() <= 8.001 and np.ptp(changes[0], axis=0).max() < 1e-4  # the same in each frame
    centres = utils.mel_centres(hp.sample_rate, hp.n_mels)
    bins = np.arange(hp.n_linear) * hp.sample_rate / hp.n_fft
    np.testing.assert_allclose(changes[1][0], np.interp(centres, bins, changes[0][0]), atol=1e-3)


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
        varied = augment.vary(linear[:1], mel[:1], np.random.default_rng(seed), hp)
        assert [each.shape for each in varied] == [(1, hp.n_linear), (1, hp.n_mels)]
        assert augment.blur(mel[:1], np.random.default_rng(seed), hp).shape == (1, hp.n_mels)
