"""The base restores what averaging removes: the source's detail, with warped formants, and the target's modulation."""
import numpy as np
import pytest
import scipy.fft
from test_base import HP, VOICES, Known, known_base, known_corpus, map_source, smooth_noise  # noqa: F401  fixtures

import utils
from conversion import base
from corpus import linear_map
from hyperparams import HyperParams


def test_a_modulation_spectrum_is_the_power_of_each_order_at_each_frequency():
    time, orders = np.arange(200), np.zeros((200, HP.n_mels))
    orders[:, 2] = 0.3 * np.sin(2.0 * np.pi * 4 / 64 * time)
    orders[:, 5] = 0.7 + 0.1 * np.sin(2.0 * np.pi * 20 / 64 * time)
    found = base.modulation_power([scipy.fft.idct(orders, axis=1, norm="ortho")] * 3)
    assert found.shape == (33, HP.n_mels)
    assert found[:, 2].argmax() == 4 and found[:, 5].argmax() == 20
    assert found[4, 2] / found[20, 5] == pytest.approx(9.0, rel=0.05)
    others = np.delete(np.arange(HP.n_mels), [2, 5])
    assert found[:, others].max() < 1e-8 and found[0, 5] < 1e-3  # a mean is no modulation
    short = base.modulation_power([scipy.fft.idct(orders[:20], axis=1, norm="ortho")])
    assert short.shape == found.shape and np.isfinite(short).all()


def test_modulate_scales_each_frequency_and_order_and_keeps_means():
    time, factors = np.arange(128), np.ones((33, HP.n_mels))
    factors[:9, 3], factors[24:, 3] = 2.0, 0.5
    orders = np.zeros((128, HP.n_mels))
    orders[:, 3] = 0.4 + 0.1 * np.sin(2.0 * np.pi * 4 / 64 * time) + 0.02 * np.sin(2.0 * np.pi * 28 / 64 * time)
    orders[:, 6] = 0.1 * np.sin(2.0 * np.pi * 4 / 64 * time)
    found = scipy.fft.dct(base.modulate(scipy.fft.idct(orders, axis=1, norm="ortho"), factors), axis=1, norm="ortho")
    expected = orders.copy()
    expected[:, 3] = 0.4 + 0.2 * np.sin(2.0 * np.pi * 4 / 64 * time) + 0.01 * np.sin(2.0 * np.pi * 28 / 64 * time)
    middle = slice(32, 96)  # the signal is mirrored at its ends
    np.testing.assert_allclose(found[middle], expected[middle], atol=5e-3)
    np.testing.assert_allclose(found[:, 6], orders[:, 6], atol=1e-6)
    assert np.abs(found[:, 3].mean() - 0.4) < 0.02


def test_gains_bring_one_modulation_spectrum_to_another_within_bounds():
    rng = np.random.default_rng(0)
    mapped = 1.0 + rng.uniform(size=(33, 12))
    np.testing.assert_allclose(base.gains(mapped, 4.0 * mapped), 2.0)
    np.testing.assert_allclose(base.gains(mapped, mapped), 1.0)
    np.testing.assert_allclose(base.gains(mapped, 1e4 * mapped), base.MOST_GAIN)
    np.testing.assert_allclose(base.gains(mapped, 1e-4 * mapped), 1.0 / base.MOST_GAIN)
    assert np.isfinite(base.gains(np.zeros((33, 12)), np.ones((33, 12)))).all()


def test_converted_training_data_have_the_modulation_of_the_target():
    hp = HP.replace(n_mels=40)
    corpus = Known(hp, n_pairs=12)
    solved = base.solve(corpus)
    np.testing.assert_allclose(solved.target_modulation, base.modulation_power(
        [corpus.target_features(pair, "mel") for pair in corpus.target_pairs]), rtol=1e-5)
    for number, source in enumerate(VOICES):  # the targets are noise, so another modulation replaces theirs
        wanted = solved.modulation[number] * np.linspace(3.0, 0.5, 33)[:, None] * np.linspace(0.5, 1.5, 40)
        mapped = [map_source(solved._replace(target_modulation=wanted), corpus.recording(pair), hp, source)
                  for pair in corpus.of(source)]
        apart = [np.abs(base.gains(base.modulation_power(mels), wanted) - 1.0).mean()
                 for mels in ([one.mel for one in mapped], [one.mel + one.texture for one in mapped])]
        assert apart[0] > 1.0 and apart[1] < 0.2, apart


def test_postfilter_is_an_exponent_of_the_gains_and_0_disables_it(corpus, solved):
    features, known = corpus.recording(corpus.train[0]), solved
    solved = known._replace(target_modulation=1.5 * known.modulation[0])
    plain, gained = (map_source(solved, features, HP.replace(postfilter=exponent), "anna") for exponent in (0.0, 1.0))
    source = np.maximum(features.mel.astype(np.float32), solved.floors[0])
    detailed = base.detailed(plain.mel, source, float(solved.warps[0]), HP)
    np.testing.assert_allclose(plain.mel + plain.texture, detailed, atol=1e-5)
    half = solved._replace(target_modulation=np.sqrt(solved.target_modulation * solved.modulation[0]))
    doubled = map_source(half, features, HP.replace(postfilter=2.0), "anna")
    np.testing.assert_allclose(doubled.texture, gained.texture, atol=1e-4)
    assert np.abs(gained.texture - plain.texture).max() > 0.01


def test_finest_detail_comes_from_the_source(corpus, solved):
    """This also holds where the map gives no detail."""
    rng = np.random.default_rng(3)
    flat = solved._replace(kernels=0.0 * solved.kernels, biases=0.0 * solved.biases + 0.5, warps=np.ones(2),
                           modulation=np.repeat(solved.target_modulation[None], 2, axis=0))
    features = corpus.recording(corpus.train[0])
    fine = (0.02 * rng.choice([-1.0, 1.0], features.mel.shape)).astype(np.float32)
    plain, detailed = (map_source(flat, features._replace(mel=features.mel.astype(np.float32) + extra), HP, "anna")
                       for extra in (0.0, fine))
    added = detailed.texture - plain.texture
    assert np.corrcoef(added.ravel(), fine.ravel())[0, 1] > 0.9
    assert np.abs(base.smooth(added)).mean() < 0.1 * np.abs(added).mean()


def formants(factor: float, hp: HyperParams) -> np.ndarray:
    """Return (60, M) with three moving formants, whose frequencies are multiplied by `factor`."""
    rng, hertz = np.random.default_rng(4), utils.mel_centres(hp.sample_rate, hp.n_mels)
    found = np.zeros((60, hp.n_mels))
    for low, high in ((350, 800), (1000, 2000), (2300, 3300)):
        place = factor * (low + (high - low) * (0.5 + 0.5 * smooth_noise(rng, 60, 1)))
        found += np.exp(-0.5 * (np.log(hertz / place) / 0.08) ** 2)
    return (0.3 + 0.4 * found).astype(np.float32)


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.0, 1.15, 1.3])
def test_warp_is_the_ratio_between_the_formants_of_two_voices(factor):
    hp = HyperParams()
    low, high = formants(1.0, hp), formants(factor, hp)
    assert linear_map.find_warp(low, high, hp) == pytest.approx(factor, abs=0.051)
    assert linear_map.find_warp(low, 0.5 * high + 0.1, hp) == linear_map.find_warp(low, high, hp)  # at any level
    warped = linear_map.warp_formants(low, factor, hp)
    assert np.abs(warped - high).mean() < 0.01 and warped.dtype == np.float32
    flat = np.full((5, hp.n_mels), 0.3, np.float32)
    for known in ((flat, flat), (low[:1], high[:1])):  # nothing is known without movement over time
        assert linear_map.find_warp(*known, hp) == pytest.approx(1.0)


def test_warp_is_estimated_for_a_new_voice_and_stored_for_a_known_one(corpus, solved, monkeypatch):
    used = []
    monkeypatch.setattr(linear_map, "find_warp", lambda *_: 1.25)
    monkeypatch.setattr(linear_map, "warp_formants", lambda mel, factor, hp: used.append(factor) or mel)
    for number in (0, 1, None):
        monkeypatch.setattr(base, "recognise", lambda *_, number=number: number)
        map_source(solved._replace(warps=np.array([0.8, 0.9])), corpus.recording(corpus.train[0]), HP)
    assert used == [0.8, 0.9, 1.25]
