"""The base: a map that is least squares and nothing else, with what averages lack put back, for whoever speaks."""
import types

import numpy as np
import pytest
import scipy.fft

import analysis
import base
import data_load
import networks
import utils
from analysis import Features
from conftest import DEMO_IDS, plain_base
from hyperparams import HyperParams

HP = HyperParams(n_mels=12)
VOICES = {"anna": (0.45, 0.4, 0.1), "bert": (0.55, -0.6, 0.2)}  # level of the upper bands, octave, its deviation
TARGET_OCTAVE, TARGET_DEVIATION = 0.15, 0.12


def smooth_noise(rng: np.random.Generator, n: int, bands: int) -> np.ndarray:
    """(n, bands) in [-1, 1] or hardly beyond, that changes slowly."""
    knots = rng.uniform(-1.0, 1.0, (n // 4 + 2, bands))
    return np.stack([np.interp(np.arange(n) / 4, np.arange(len(knots)), row) for row in knots.T], axis=1)


def record(rng: np.random.Generator, n: int, voice: tuple, n_mels: int = HP.n_mels) -> Features:
    """A recording of a voice, a fifth of it unvoiced."""
    level, octave, deviation = voice
    tilt = np.linspace(0.5, level, n_mels)
    mel = tilt + 0.12 * smooth_noise(rng, n, n_mels)
    hertz = HP.pitch_middle * 2.0 ** (octave + deviation * smooth_noise(rng, n, 1)[:, 0])
    hertz[n // 3:n // 3 + n // 5] = 0.0
    return Features(np.zeros((n, HP.n_linear), np.float16), mel.astype(np.float16), hertz.astype(np.float32))


class Known:
    """A corpus of two sources whose target is, but for noise, a function of three frames of theirs."""

    def __init__(self, hp: HyperParams = HP, sources=tuple(VOICES), n_pairs: int = 5, shift: float = 0.0):
        rng = np.random.default_rng(0)
        mixing = {source: rng.normal(0.0, 0.4, (3, hp.n_mels, hp.n_mels)) / hp.n_mels ** 0.5 for source in VOICES}
        self.hp, self.train, self.kept = hp, [], {}
        for source in sources:
            for number in range(n_pairs):
                features, n = record(rng, 55 + 5 * number, VOICES[source], hp.n_mels), 55 + 5 * number
                path = np.linspace(0.0, n - 1.0, 45 + 6 * number).astype(np.float32)
                centred = features.mel.astype(np.float64) - 0.5
                around = np.pad(centred, ((1, 1), (0, 0)), mode="edge")
                mel = sum(around[i:i + n] @ mixing[source][i] for i in range(3))
                target = base.read_at(mel, path) + 0.5 + 0.04 * rng.normal(size=(len(path), hp.n_mels)) + shift
                octaves = TARGET_OCTAVE + TARGET_DEVIATION * smooth_noise(rng, len(path), 1)[:, 0]
                pair = types.SimpleNamespace(source=source, name=str(number))
                self.train.append(pair)
                self.kept[source, str(number)] = (features, path, target.astype(np.float32), np.stack(
                    [octaves, np.arange(len(path)) % 4 > 0], axis=1).astype(np.float32))
        self.spoken = self.train

    def recording(self, pair):
        return self.kept[pair.source, pair.name][0]

    def path(self, pair):
        return self.kept[pair.source, pair.name][1]

    def spoken_target(self, pair, kind):
        assert kind == "mel"
        return self.kept[pair.source, pair.name][2]

    def pitch(self, pair):
        return self.kept[pair.source, pair.name][3]

    def of(self, source: str) -> list:
        return [pair for pair in self.train if pair.source == source]


@pytest.fixture(scope="module")
def corpus() -> Known:
    return Known()


@pytest.fixture(scope="module")
def solved(corpus) -> base.Base:
    return base.solve(corpus)


def neighbours(mel: np.ndarray) -> np.ndarray:
    """Each frame beside its neighbours, one frame after the other."""
    return np.stack([np.concatenate([mel[min(max(frame + away, 0), len(mel) - 1)]
                                     for away in range(-base.CONTEXT, base.CONTEXT + 1)]) for frame in range(len(mel))])


def ridge(corpus: Known, pairs: list, penalty: float = base.PENALTY) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias by least squares of rows, those of the penalty among them."""
    rows, targets = [], []
    for pair in pairs:
        mel, path = corpus.recording(pair).mel.astype(np.float64), corpus.path(pair).astype(np.float64)
        around = neighbours(mel)
        rows.append(np.stack([np.interp(path, np.arange(len(mel)), column) for column in around.T], axis=1))
        targets.append(corpus.spoken_target(pair, "mel").astype(np.float64))
    x, y = np.concatenate(rows), np.concatenate(targets)
    x = np.concatenate([np.append(x, np.ones((len(x), 1)), axis=1), np.sqrt(penalty) * np.eye(x.shape[1] + 1)[:-1]])
    found = np.linalg.lstsq(x, np.concatenate([y, np.zeros((len(x) - len(y), y.shape[1]))]), rcond=None)[0]
    return found[:-1], found[-1]


def test_the_maps_are_ridge_regression_of_each_source(corpus, solved):
    assert solved.speakers.tolist() == ["anna", "bert"]
    for number, pairs in enumerate([corpus.of("anna"), corpus.of("bert")]):
        kernel, bias = ridge(corpus, pairs)
        assert np.abs(kernel).max() > 0.01
        np.testing.assert_allclose(solved.kernels[number], kernel, atol=2e-5)
        np.testing.assert_allclose(solved.biases[number], bias, atol=2e-4)
    assert np.abs(solved.kernels[0] - solved.kernels[1]).max() > 0.01


def test_a_base_is_the_same_every_time(corpus, solved):
    for found, expected in zip(base.solve(corpus), solved):
        assert found.tobytes() == expected.tobytes()


def test_the_penalty_shrinks_the_weights_and_leaves_the_bias(corpus, solved):
    shifted = base.solve(Known(shift=0.07))
    np.testing.assert_allclose(shifted.kernels, solved.kernels, atol=1e-4)
    np.testing.assert_allclose(shifted.biases - solved.biases, 0.07, atol=1e-4)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.0, 1.0, (200, 6)), rng.uniform(0.3, 0.8, (200, 2))
    sums = base.Sums(6, 2)
    for part in range(0, 200, 50):
        sums.add(x[part:part + 50], y[part:part + 50])
    norms = [np.linalg.norm(sums.solve(penalty)[0]) for penalty in (0.0, 1.0, 30.0, 1e9)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 1e-6
    np.testing.assert_allclose(sums.solve(1e9)[1], y.mean(axis=0), rtol=1e-5)
    exact = np.linalg.lstsq(np.append(x, np.ones((200, 1)), axis=1), y, rcond=None)[0]
    np.testing.assert_allclose(np.vstack(sums.solve(0.0)), exact, atol=1e-5)


def test_a_map_reads_the_nearest_frame_beyond_the_ends():
    mel = np.random.default_rng(0).uniform(0.0, 1.0, (7, 3)).astype(np.float32)
    np.testing.assert_array_equal(base.windows(mel), neighbours(mel))
    np.testing.assert_array_equal(base.windows(mel[:1]), np.tile(mel[:1], 2 * base.CONTEXT + 1))


@pytest.mark.parametrize("n_frames", [1, 2, 9])
def test_what_is_read_in_training_and_by_the_decoder_is_the_same(n_frames):
    rng = np.random.default_rng(n_frames)
    frames = rng.normal(size=(n_frames, 5)).astype(np.float32)
    positions = np.append(rng.uniform(0.0, n_frames - 1.0, 8), [0.0, n_frames - 1.0, (n_frames - 1.0) / 2])
    expected = np.stack([np.interp(positions, np.arange(n_frames), column) for column in frames.T], axis=1)
    np.testing.assert_allclose(base.read_at(frames, positions), expected, atol=1e-5)
    found = networks.read_at(frames[None], positions[None].astype(np.float32))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    beyond = np.array([-3.0, n_frames + 2.0], np.float32)
    np.testing.assert_array_equal(base.read_at(frames, beyond), frames[[0, -1]])
    np.testing.assert_array_equal(networks.read_at(frames[None], beyond[None])[0], frames[[0, -1]])


def carry(solved: base.Base, features: Features, hp: HyperParams, speaker: str | None = None) -> base.Carried:
    return base.carry(solved, features, base.find_voice(solved, features, hp, speaker), hp)


def known_voice(solved: base.Base, number: int) -> base.Voice:
    return base.Voice(np.eye(2)[number], float(solved.warps[number]), float(solved.pitch[number, 0]))


def orders(mel: np.ndarray) -> np.ndarray:
    return scipy.fft.dct(np.asarray(mel, np.float64), axis=1, norm="ortho")


def test_a_modulation_spectrum_is_the_power_of_each_order_at_each_frequency():
    time, orders = np.arange(200), np.zeros((200, HP.n_mels))
    orders[:, 2] = 0.3 * np.sin(2.0 * np.pi * 4 / 64 * time)
    orders[:, 5] = 0.7 + 0.1 * np.sin(2.0 * np.pi * 20 / 64 * time)
    found = base.modulation_spectrum([scipy.fft.idct(orders, axis=1, norm="ortho")] * 3)
    assert found.shape == (33, HP.n_mels)
    assert found[:, 2].argmax() == 4 and found[:, 5].argmax() == 20
    assert found[4, 2] / found[20, 5] == pytest.approx(9.0, rel=0.05)
    others = np.delete(np.arange(HP.n_mels), [2, 5])
    assert found[:, others].max() < 1e-8 and found[0, 5] < 1e-3  # a mean is no movement
    short = base.modulation_spectrum([scipy.fft.idct(orders[:20], axis=1, norm="ortho")])
    assert short.shape == found.shape and np.isfinite(short).all()


def test_modulation_multiplies_movements_by_their_frequency_and_order_and_leaves_means():
    time, factors = np.arange(128), np.ones((33, HP.n_mels))
    factors[:9, 3], factors[24:, 3] = 2.0, 0.5
    orders = np.zeros((128, HP.n_mels))
    orders[:, 3] = 0.4 + 0.1 * np.sin(2.0 * np.pi * 4 / 64 * time) + 0.02 * np.sin(2.0 * np.pi * 28 / 64 * time)
    orders[:, 6] = 0.1 * np.sin(2.0 * np.pi * 4 / 64 * time)
    found = scipy.fft.dct(base.modulate(scipy.fft.idct(orders, axis=1, norm="ortho"), factors), axis=1, norm="ortho")
    expected = orders.copy()
    expected[:, 3] = 0.4 + 0.2 * np.sin(2.0 * np.pi * 4 / 64 * time) + 0.01 * np.sin(2.0 * np.pi * 28 / 64 * time)
    middle = slice(32, 96)  # at the ends it is mirrored
    np.testing.assert_allclose(found[middle], expected[middle], atol=5e-3)
    np.testing.assert_allclose(found[:, 6], orders[:, 6], atol=1e-6)
    assert np.abs(found[:, 3].mean() - 0.4) < 0.02


def test_gains_bring_one_modulation_spectrum_to_another_within_bounds():
    rng = np.random.default_rng(0)
    carried = 1.0 + rng.uniform(size=(33, 12))
    np.testing.assert_allclose(base.gains(carried, 4.0 * carried), 2.0)
    np.testing.assert_allclose(base.gains(carried, carried), 1.0)
    np.testing.assert_allclose(base.gains(carried, 1e4 * carried), base.MOST_GAIN)
    np.testing.assert_allclose(base.gains(carried, 1e-4 * carried), 1.0 / base.MOST_GAIN)
    assert np.isfinite(base.gains(np.zeros((33, 12)), np.ones((33, 12)))).all()


def test_conversions_of_the_training_move_as_the_target_does():
    hp = HP.replace(n_mels=40)
    corpus = Known(hp, n_pairs=12)
    solved = base.solve(corpus)
    np.testing.assert_allclose(solved.natural, base.modulation_spectrum(
        [corpus.spoken_target(pair, "mel") for pair in corpus.spoken]), rtol=1e-5)
    for number, source in enumerate(VOICES):  # their targets are noise, so another is put in its place
        wanted = solved.carried[number] * np.linspace(3.0, 0.5, 33)[:, None] * np.linspace(0.5, 1.5, 40)
        carried = [carry(solved._replace(natural=wanted), corpus.recording(pair), hp, source)
                   for pair in corpus.of(source)]
        apart = [np.abs(base.gains(base.modulation_spectrum(mels), wanted) - 1.0).mean()
                 for mels in ([one.mel for one in carried], [one.mel + one.texture for one in carried])]
        assert apart[0] > 1.0 and apart[1] < 0.2, apart


def test_the_post_filter_is_an_exponent_and_0_leaves_movements_as_they_are(corpus, solved):
    features, known = corpus.recording(corpus.train[0]), solved
    solved = known._replace(natural=1.5 * known.carried[0])
    plain, gained = (carry(solved, features, HP.replace(postfilter=exponent), "anna") for exponent in (0.0, 1.0))
    source = np.maximum(features.mel.astype(np.float32), solved.floors[0])
    detailed = base.detailed(plain.mel, source, float(solved.warps[0]), HP)
    np.testing.assert_allclose(plain.mel + plain.texture, detailed, atol=1e-5)
    half = solved._replace(natural=np.sqrt(solved.natural * solved.carried[0]))
    doubled = carry(half, features, HP.replace(postfilter=2.0), "anna")
    np.testing.assert_allclose(doubled.texture, gained.texture, atol=1e-4)
    assert np.abs(gained.texture - plain.texture).max() > 0.01


def test_a_plain_base_carries_everything_over_as_it_is():
    hp = HP.replace(n_mels=80)
    features = record(np.random.default_rng(0), 50, VOICES["anna"], 80)
    carried = carry(plain_base(hp), features, hp)
    np.testing.assert_allclose(carried.mel, features.mel.astype(np.float32), atol=1e-6)
    np.testing.assert_allclose(carried.texture, 0.0, atol=1e-5)
    np.testing.assert_allclose(carried.pitch[:, 0], analysis.pitch_contour(features.hertz, hp), atol=1e-6)
    np.testing.assert_array_equal(carried.pitch[:, 1], features.hertz > 0.0)


def test_the_finest_detail_is_that_of_the_source(corpus, solved):
    """Also where the map gives none of it."""
    rng = np.random.default_rng(3)
    flat = solved._replace(kernels=0.0 * solved.kernels, biases=0.0 * solved.biases + 0.5, warps=np.ones(2),
                           carried=np.repeat(solved.natural[None], 2, axis=0))
    features = corpus.recording(corpus.train[0])
    fine = (0.02 * rng.choice([-1.0, 1.0], features.mel.shape)).astype(np.float32)
    plain, detailed = (carry(flat, features._replace(mel=features.mel.astype(np.float32) + extra), HP, "anna")
                       for extra in (0.0, fine))
    added = detailed.texture - plain.texture
    assert np.corrcoef(added.ravel(), fine.ravel())[0, 1] > 0.9
    assert np.abs(base.smooth(added)).mean() < 0.1 * np.abs(added).mean()


def formants(factor: float, hp: HyperParams) -> np.ndarray:
    """(60, M) three formants that wander, `factor` times as high as they are."""
    rng, hertz = np.random.default_rng(4), utils.mel_centres(hp.sample_rate, hp.n_mels)
    found = np.zeros((60, hp.n_mels))
    for low, high in ((350, 800), (1000, 2000), (2300, 3300)):
        place = factor * (low + (high - low) * (0.5 + 0.5 * smooth_noise(rng, 60, 1)))
        found += np.exp(-0.5 * (np.log(hertz / place) / 0.08) ** 2)
    return (0.3 + 0.4 * found).astype(np.float32)


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.0, 1.15, 1.3])
def test_the_warp_is_the_factor_between_the_formants_of_two_voices(factor):
    hp = HyperParams()
    low, high = formants(1.0, hp), formants(factor, hp)
    assert base.find_warp(low, high, hp) == pytest.approx(factor, abs=0.051)
    assert base.find_warp(low, 0.5 * high + 0.1, hp) == base.find_warp(low, high, hp)  # whatever the level
    warped = base.warp_formants(low, factor, hp)
    assert np.abs(warped - high).mean() < 0.01 and warped.dtype == np.float32
    flat = np.full((5, hp.n_mels), 0.3, np.float32)
    for known in ((flat, flat), (low[:1], high[:1])):  # of nothing that moves nothing is known
        assert base.find_warp(*known, hp) == pytest.approx(1.0)


def test_pitch_is_mapped_by_mean_and_deviation(corpus, solved):
    target = np.concatenate([pitch[pitch[:, 1] > 0, 0] for pitch in map(corpus.pitch, corpus.spoken)])
    np.testing.assert_allclose(solved.pitch[-1], [target.mean(), target.std()], rtol=1e-5)
    for number, source in enumerate(VOICES):
        voiced, mapped = [], []
        for pair in corpus.of(source):
            hertz = corpus.recording(pair).hertz
            found = base.carry_pitch(solved, corpus.recording(pair), known_voice(solved, number), HP)
            np.testing.assert_array_equal(found[:, 1], hertz > 0.0)
            voiced.append(np.log2(hertz[hertz > 0.0] / HP.pitch_middle))
            mapped.append(found[hertz > 0.0, 0])
            assert np.ptp(np.diff(found[hertz == 0.0, 0])) < 1e-4  # a line between what is voiced
        np.testing.assert_allclose(solved.pitch[number], [np.concatenate(voiced).mean(), np.concatenate(voiced).std()],
                                   rtol=1e-4)
        mapped = np.concatenate(mapped)
        np.testing.assert_allclose([mapped.mean(), mapped.std()], [target.mean(), target.std()], rtol=1e-3)


def test_a_new_voice_speaks_around_the_mean_of_the_target(solved):
    for octave in (-1.0, 0.9):
        features = record(np.random.default_rng(0), 60, (0.2, octave, 0.1))
        voice = base.find_voice(solved, features, HP)
        pitch = base.carry_pitch(solved, features, voice, HP)
        assert voice.weights.max() < 1.0 and voice.weights.sum() == pytest.approx(1.0)
        assert pitch[features.hertz > 0.0, 0].mean() == pytest.approx(solved.pitch[-1, 0], abs=1e-4)


@pytest.mark.parametrize("number", [0, None])
def test_what_is_never_voiced_has_the_mean_of_the_target(solved, monkeypatch, number):
    features = record(np.random.default_rng(0), 60, VOICES["anna"])._replace(hertz=np.zeros(60, np.float32))
    monkeypatch.setattr(base, "recognise", lambda *_: number)
    pitch = base.carry_pitch(solved, features, base.find_voice(solved, features, HP), HP)
    np.testing.assert_allclose(pitch, [[solved.pitch[-1, 0], 0.0]] * 60, atol=1e-6)


def test_a_known_voice_goes_to_its_own_map_and_another_to_a_mixture():
    solved, rng = base.solve(Known(n_pairs=30)), np.random.default_rng(11)

    def share(voice, number):
        """In how many of new recordings a voice is known, or no one's."""
        found = [base.find_voice(solved, record(rng, 60 + 4 * i, voice), HP).weights for i in range(30)]
        return np.mean([weights.max() < 1.0 if number is None else weights[number] == 1.0 for weights in found])
    assert share(VOICES["anna"], 0) > 0.7 and share(VOICES["bert"], 1) > 0.7
    assert share(VOICES["anna"], 1) == share(VOICES["bert"], 0) == 0.0
    assert share((0.2, 1.2, 0.1), None) == 1.0
    centre = (np.array(VOICES["anna"]) + np.array(VOICES["bert"])) / 2
    assert share(tuple(centre), None) == 1.0  # between the two it is neither


def test_a_stranger_is_a_mixture_of_the_sources_of_those_most_that_are_near(solved):
    near_anna = record(np.random.default_rng(5), 80, (0.46, 0.62, 0.1))
    voice = base.find_voice(solved, near_anna, HP)
    distances = np.linalg.norm(solved.centres - base.voiceprint(near_anna, HP), axis=1)
    assert voice.weights[0] > voice.weights[1] > 0.0 and voice.weights.sum() == pytest.approx(1.0)
    assert np.log(voice.weights[0] / voice.weights[1]) == pytest.approx((distances[1] - distances[0]) / base.NEAR)
    halves = np.array([0.5, 0.5])
    mel = near_anna.mel.astype(np.float32)
    np.testing.assert_allclose(base.apply(solved, mel, halves), 0.5 * base.apply(solved, mel, np.eye(2)[0])
                               + 0.5 * base.apply(solved, mel, np.eye(2)[1]), atol=1e-5)


@pytest.mark.parametrize("n_known", [3, 5, 40])
def test_nearly_all_new_recordings_of_a_voice_are_within_its_radius_however_few_are_known(n_known):
    rng, inside = np.random.default_rng(12), []
    for _ in range(200):
        own = rng.normal(size=(n_known, 20))
        inside.append(np.linalg.norm(rng.normal(size=20) - own.mean(axis=0)) <= base.radius(own))
    assert 0.6 < np.mean(inside) < 0.99  # 0.3 of three, measured from the mean of all
    assert base.radius(own[:1]) == 0.0


@pytest.mark.parametrize("speaker, number", [("anna", 0), ("bert", 1), ("carl", 0), (None, 0)])
def test_a_speaker_that_is_named_needs_not_be_recognised(corpus, solved, monkeypatch, speaker, number):
    monkeypatch.setattr(base, "recognise", lambda *_: 0)
    features = corpus.recording(corpus.train[0])
    carried = carry(solved, features, HP, speaker)
    mel = neighbours(features.mel.astype(np.float32)) @ solved.kernels[number] + solved.biases[number]
    np.testing.assert_allclose(carried.mel, mel, atol=1e-2)  # but for what is below the floor
    np.testing.assert_array_equal(carried.pitch, base.carry_pitch(solved, features, known_voice(solved, number), HP))


def test_the_warp_of_a_new_voice_is_found_and_that_of_a_known_one_remembered(corpus, solved, monkeypatch):
    used = []
    monkeypatch.setattr(base, "find_warp", lambda *_: 1.25)
    monkeypatch.setattr(base, "warp_formants", lambda mel, factor, hp: used.append(factor) or mel)
    for number in (0, 1, None):
        monkeypatch.setattr(base, "recognise", lambda *_, number=number: number)
        carry(solved._replace(warps=np.array([0.8, 0.9])), corpus.recording(corpus.train[0]), HP)
    assert used == [0.8, 0.9, 1.25]


def test_nothing_is_read_as_quieter_than_the_pauses_of_the_training(corpus, solved):
    quiet = [corpus.recording(pair).mel.astype(np.float32).min(axis=0) for pair in corpus.of("bert")]
    np.testing.assert_allclose(solved.floors[1], np.mean(quiet, axis=0), rtol=1e-4)
    features = corpus.recording(corpus.of("bert")[0])
    silent, floor = (carry(solved, features._replace(mel=mel), HP, "bert") for mel in (
        np.zeros_like(features.mel), np.repeat(solved.floors[1:2], len(features.mel), axis=0)))
    np.testing.assert_allclose(silent.mel, floor.mel, atol=1e-6)
    np.testing.assert_allclose(silent.texture, floor.texture, atol=1e-6)


@pytest.mark.parametrize("speaker", ["anna", None])
@pytest.mark.parametrize("n_frames", [1, 2, 30])
@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("hertz", [0.0, 150.0])
def test_strange_recordings_are_carried_over_without_nan(solved, speaker, n_frames, level, hertz):
    features = Features(np.zeros((n_frames, HP.n_linear), np.float16),
                        np.full((n_frames, HP.n_mels), level, np.float16), np.full(n_frames, hertz, np.float32))
    carried = carry(solved, features, HP, speaker)
    assert [x.shape for x in carried] == [(n_frames, HP.n_mels), (n_frames, 2), (n_frames, HP.n_mels)]
    for x in carried:
        assert np.isfinite(x).all() and x.dtype == np.float32
    vivid = carried.mel + carried.texture
    assert vivid.min() >= -1e-6 and vivid.max() <= 1.0 + 1e-6


def test_a_corpus_that_is_never_voiced_or_of_one_source_is_solved():
    corpus = Known(sources=("bert",), n_pairs=2)
    for key, (features, path, target, pitch) in corpus.kept.items():
        corpus.kept[key] = (features._replace(hertz=0 * features.hertz), path, target, pitch * [1.0, 0.0])
    solved = base.solve(corpus)
    assert all(np.isfinite(x).all() for x in solved[1:]) and solved.speakers.tolist() == ["bert"]
    np.testing.assert_array_equal(solved.pitch, [[0.0, 1.0]] * 2)


def test_the_map_comes_nearer_to_a_real_voice_also_in_sentences_it_does_not_know(demo_data, demo_base, tiny_hp):
    corpus = data_load.Corpus(demo_data, tiny_hp)
    for pairs in (corpus.train, corpus.split("test") + corpus.split("val")):
        before, after = [], []
        for pair in pairs:
            features, target = corpus.recording(pair), corpus.spoken_target(pair, "mel")
            carried = carry(demo_base, features, tiny_hp, "rms")
            before.append(np.abs(base.read_at(features.mel.astype(np.float32), corpus.path(pair)) - target).mean())
            after.append(np.abs(base.read_at(carried.mel, corpus.path(pair)) - target).mean())
        assert np.mean(after) < 0.8 * np.mean(before)
    assert len(corpus.train) < len(DEMO_IDS) and demo_base.speakers.tolist() == ["rms"]
    # slt speaks higher than rms, and her vocal tract is shorter
    assert demo_base.pitch[-1, 0] > demo_base.pitch[0, 0] + 0.5 and demo_base.warps[0] > 1.0
