"""The base restores what averaging removes: the source's detail, with warped formants, and the target's modulation."""
import utils
from conversion import base
from corpus import linear_map
from hyperparams import HyperParams

import numpy as np
import pytest
import scipy.fft
from test_base import HP, known_base, known_corpus, smooth_noise  # noqa: F401  fixtures


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
    for power, gain in ((4.0, 2.0), (1.0, 1.0), (1e4, base.MOST_GAIN), (1e-4, 1.0 / base.MOST_GAIN)):
        np.testing.assert_allclose(np.exp(base.gains(mapped, power * mapped)), gain, rtol=1e-5)
    assert np.isfinite(base.gains(np.zeros((33, 12)), np.ones((33, 12)))).all()


@pytest.fixture(scope="module")
def written(corpus, solved) -> list[tuple]:
    """Mapped mel, positions, features and voice of each recording of the corpus."""
    found = []
    for features in map(corpus.recording, corpus.train):
        voice = base.find_voice(solved, features, HP)
        mel = base.network_input(solved, features, voice, HP)[1][:, :HP.n_mels]
        found.append((mel, np.arange(len(mel)), features, voice))
    return found


def test_restored_speech_has_the_modulation_that_is_wanted(solved, written):
    plain = base.modulation_power([base.with_detail(solved, *each, HP) for each in written])
    wanted = plain * np.linspace(3.0, 0.5, 33)[:, None] * np.linspace(0.5, 1.5, HP.n_mels)
    gains = base.gains(plain, wanted)
    apart = [np.abs(np.exp(base.gains(base.modulation_power(mels), wanted)) - 1.0).mean() for mels in (
        [mel for mel, *_ in written], [base.restore_mel(solved, gains, *each, HP) for each in written])]
    assert apart[0] > 0.3 and apart[1] < 0.2, apart


def test_postfilter_is_an_exponent_of_the_gains_and_0_disables_it(solved, written):
    gains = base.gains(np.ones((33, HP.n_mels)), np.full((33, HP.n_mels), 1.5))
    plain, gained, doubled = (base.restore_mel(solved, gains, *written[0], HP.replace(postfilter=exponent))
                              for exponent in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(plain, np.clip(base.with_detail(solved, *written[0], HP), 0.0, 1.0), atol=1e-5)
    np.testing.assert_allclose(doubled, base.restore_mel(solved, 2.0 * gains, *written[0], HP), atol=1e-5)
    assert np.abs(gained - plain).max() > 0.01


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_finest_detail_comes_from_the_source(solved, written, share):
    mel, positions, features, voice = written[0]
    flat, voice = np.full_like(mel, 0.5), voice._replace(warp=1.0)
    fine = (0.02 * np.random.default_rng(3).choice([-1.0, 1.0], mel.shape)).astype(np.float32)
    loud = voice.mel + np.abs(solved.mel_floor) + 0.0 * mel
    plain, detailed = (base.with_detail(solved, flat, positions, features._replace(mel=loud + extra), voice,
                                        HP.replace(detail=share)) for extra in (0.0, fine))
    added = detailed - plain
    np.testing.assert_allclose(added, share * (fine - base.smooth(fine)), atol=1e-4)


def test_voice_of_a_new_target_follows_the_networks(solved, written):
    """The map onwards comes before detail and movement."""
    onward = solved._replace(onward_kernel=0.5 * solved.onward_kernel, onward_bias=solved.onward_bias + 0.1)
    mel, *rest = written[0]
    np.testing.assert_allclose(base.with_detail(onward, mel, *rest, HP),
                               base.with_detail(solved, 0.5 * mel + 0.1, *rest, HP), atol=1e-5)


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


def contour(deviation: float, n: int = 400, jitter: float = 0.0) -> np.ndarray:
    """A pitch (n, 2) that is voiced but for one pause, and moves slowly around 0.3 octaves, with jitter."""
    octaves = 0.3 + deviation * np.sqrt(2.0) * np.sin(np.arange(n) / 12.0)
    voiced = np.abs(np.arange(n) - n / 2) > 20
    return np.stack([octaves + jitter * (-1.0) ** np.arange(n), voiced], axis=1).astype(np.float32)


@pytest.mark.parametrize("deviation", [0.7, 0.9, 1.3])
def test_restored_pitch_deviates_as_the_targets_around_its_own_mean(solved, deviation):
    pitch, wanted = contour(deviation * solved.octaves[2]), solved.octaves[2]
    found = base.restore_pitch(solved, pitch, HP)
    voiced = pitch[:, 1] > 0.5
    assert found[:, 1].tolist() == pitch[:, 1].tolist() and found.dtype == np.float32
    assert found[voiced, 0].mean() == pytest.approx(pitch[voiced, 0].mean(), abs=0.005)
    assert abs(found[voiced, 0].std() / wanted - 1.0) < 0.35 * abs(deviation - 1.0)
    unchanged = base.restore_pitch(solved, pitch, HP.replace(postfilter=0.0))
    np.testing.assert_allclose(unchanged[3:-3], pitch[3:-3], atol=0.01 * wanted)  # ends are smoothed more


def test_restored_pitch_has_less_jitter_and_a_short_or_monotonous_one_is_hardly_changed(solved):
    wanted = solved.octaves[2]
    jitter = [np.abs(np.diff(base.restore_pitch(solved, contour(wanted, jitter=x), HP)[:, 0], 2)).mean()
              for x in (0.0, 0.1)]
    assert jitter[1] - jitter[0] < 0.15 * 0.4  # of 0.4 octaves that the jitter's second difference had
    for pitch, most in ((contour(0.1 * wanted, 45), 1.05), (contour(0.01 * wanted), base.MOST_PITCH_GAIN)):
        found = base.restore_pitch(solved, pitch, HP)
        voiced = pitch[:, 1] > 0.5
        assert found[voiced, 0].std() <= 1.01 * most * pitch[voiced, 0].std()
    unvoiced = np.zeros((30, 2), np.float32)
    assert base.restore_pitch(solved, unvoiced, HP) is unvoiced
    assert base.restore_pitch(solved, pitch, HP.replace(base=0)) is pitch


def test_high_voiced_sound_gets_the_texture_of_noise_and_nothing_else_does():
    hertz = np.arange(HP.n_linear) * HP.sample_rate / HP.n_fft
    pitch = np.zeros((300, 2), np.float32)
    pitch[:200, 1] = 1.0
    drawn = np.full((300, HP.n_linear), 0.8, np.float32)
    drawn[150:160] = 0.0
    found = base.with_texture(drawn, pitch, HP)
    assert found.dtype == np.float32 and found.shape == drawn.shape
    low, high = hertz < base.TEXTURE_HERTZ[0], hertz > base.TEXTURE_HERTZ[1]
    np.testing.assert_array_equal(found[:, low], drawn[:, low])
    np.testing.assert_array_equal(found[200:], drawn[200:])
    assert not found[150:160].any()  # silence stays silent
    changed = (found - drawn)[:150][:, high] * HP.range_db
    # The logarithm of a Rayleigh distribution, in dB: this is its deviation, whatever the level
    assert changed.std() == pytest.approx(20.0 / np.log(10.0) * np.pi / np.sqrt(24.0), rel=0.05)
    assert np.median(changed) == pytest.approx(0.0, abs=0.2)
    assert np.median(changed[0]) == pytest.approx(0.0, abs=1.5)  # half a window of silence would take 3 dB away
    half = (base.with_texture(drawn, pitch, HP.replace(texture=0.5)) - drawn)[:150][:, high] * HP.range_db
    np.testing.assert_allclose(half, changed / 2, atol=1e-3)
    for without in (HP.replace(texture=0.0), HP.replace(harmonics=0)):
        np.testing.assert_array_equal(base.with_texture(drawn, pitch, without), drawn)
    np.testing.assert_array_equal(base.with_texture(drawn, pitch, HP), found)  # nothing is random
