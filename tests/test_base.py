"""The base: a linear map of each source by ridge regression, the map of the pitch, and known and unknown voices."""
import types

import numpy as np
import pytest
import scipy.fft

import data_load
import networks
from conversion import base
from corpus import analysis, linear_map
from conftest import DEMO_IDS, plain_base
from corpus.analysis import Features
from corpus.linear_map import CONTEXT, interpolate
from hyperparams import HyperParams

HP = HyperParams(n_mels=12)
VOICES = {"anna": (0.45, 0.4, 0.1), "bert": (0.55, -0.6, 0.2)}  # level of upper bands, pitch in octaves, its deviation
TARGET_OCTAVE, TARGET_DEVIATION = 0.15, 0.12


def smooth_noise(rng: np.random.Generator, n: int, bands: int) -> np.ndarray:
    """(n, bands) of slowly changing noise in [-1, 1]."""
    knots = rng.uniform(-1.0, 1.0, (n // 4 + 2, bands))
    return np.stack([np.interp(np.arange(n) / 4, np.arange(len(knots)), row) for row in knots.T], axis=1)


def record(rng: np.random.Generator, n: int, voice: tuple, n_mels: int = HP.n_mels) -> Features:
    """The features of a recording of a voice; a fifth of it is unvoiced."""
    level, octave, deviation = voice
    tilt = np.linspace(0.5, level, n_mels)
    mel = tilt + 0.12 * smooth_noise(rng, n, n_mels)
    hertz = HP.pitch_middle * 2.0 ** (octave + deviation * smooth_noise(rng, n, 1)[:, 0])
    hertz[n // 3:n // 3 + n // 5] = 0.0
    return Features(np.zeros((n, HP.n_linear), np.float16), mel.astype(np.float16), hertz.astype(np.float32))


class Known:
    """A corpus of two sources whose target is a linear function of three frames of the source plus noise."""

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
                target = interpolate(mel, path) + 0.5 + 0.04 * rng.normal(size=(len(path), hp.n_mels)) + shift
                octaves = TARGET_OCTAVE + TARGET_DEVIATION * smooth_noise(rng, len(path), 1)[:, 0]
                pair = types.SimpleNamespace(source=source, name=str(number))
                self.train.append(pair)
                self.kept[source, str(number)] = (features, path, target.astype(np.float32), np.stack(
                    [octaves, np.arange(len(path)) % 4 > 0], axis=1).astype(np.float32))
        self.target_pairs = self.train

    def recording(self, pair):
        return self.kept[pair.source, pair.name][0]

    def path(self, pair):
        return self.kept[pair.source, pair.name][1]

    def target_features(self, pair, kind):
        assert kind == "mel"
        return self.kept[pair.source, pair.name][2]

    def pitch(self, pair):
        return self.kept[pair.source, pair.name][3]

    def of(self, source: str) -> list:
        return [pair for pair in self.train if pair.source == source]


@pytest.fixture(scope="module", name="corpus")  # under other names than the arguments, so that they can be imported
def known_corpus() -> Known:
    return Known()


@pytest.fixture(scope="module", name="solved")
def known_base(corpus) -> base.Base:
    return base.solve(corpus)


def neighbours(mel: np.ndarray) -> np.ndarray:
    """Each frame joined with its neighbours in order of time."""
    return np.stack([np.concatenate([mel[min(max(frame + away, 0), len(mel) - 1)]
                                     for away in range(-CONTEXT, CONTEXT + 1)]) for frame in range(len(mel))])


def ridge(corpus: Known, pairs: list, penalty: float = linear_map.PENALTY) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias by least squares over all frames, with additional rows for the penalty."""
    rows, targets = [], []
    for pair in pairs:
        mel, path = corpus.recording(pair).mel.astype(np.float64), corpus.path(pair).astype(np.float64)
        around = neighbours(mel)
        rows.append(np.stack([np.interp(path, np.arange(len(mel)), column) for column in around.T], axis=1))
        targets.append(corpus.target_features(pair, "mel").astype(np.float64))
    x, y = np.concatenate(rows), np.concatenate(targets)
    x = np.concatenate([np.append(x, np.ones((len(x), 1)), axis=1), np.sqrt(penalty) * np.eye(x.shape[1] + 1)[:-1]])
    found = np.linalg.lstsq(x, np.concatenate([y, np.zeros((len(x) - len(y), y.shape[1]))]), rcond=None)[0]
    return found[:-1], found[-1]


def test_maps_equal_the_ridge_regression_of_each_source(corpus, solved):
    assert solved.speakers.tolist() == ["anna", "bert"]
    for number, pairs in enumerate([corpus.of("anna"), corpus.of("bert")]):
        kernel, bias = ridge(corpus, pairs)
        assert np.abs(kernel).max() > 0.01
        np.testing.assert_allclose(solved.kernels[number], kernel, atol=2e-5)
        np.testing.assert_allclose(solved.biases[number], bias, atol=2e-4)
    assert np.abs(solved.kernels[0] - solved.kernels[1]).max() > 0.01


def test_solving_a_base_twice_gives_the_same_bytes(corpus, solved):
    for found, expected in zip(base.solve(corpus), solved):
        assert found.tobytes() == expected.tobytes()


def test_penalty_shrinks_the_weights_and_not_the_bias(corpus, solved):
    shifted = base.solve(Known(shift=0.07))
    np.testing.assert_allclose(shifted.kernels, solved.kernels, atol=1e-4)
    np.testing.assert_allclose(shifted.biases - solved.biases, 0.07, atol=1e-4)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.0, 1.0, (200, 6)), rng.uniform(0.3, 0.8, (200, 2))
    sums = linear_map.Sums(6, 2)
    for part in range(0, 200, 50):
        sums.add(x[part:part + 50], y[part:part + 50])
    norms = [np.linalg.norm(sums.solve(penalty)[0]) for penalty in (0.0, 1.0, 30.0, 1e9)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 1e-6
    np.testing.assert_allclose(sums.solve(1e9)[1], y.mean(axis=0), rtol=1e-5)
    exact = np.linalg.lstsq(np.append(x, np.ones((200, 1)), axis=1), y, rcond=None)[0]
    np.testing.assert_allclose(np.vstack(sums.solve(0.0)), exact, atol=1e-5)


def test_map_repeats_the_outermost_frames_beyond_the_ends():
    mel = np.random.default_rng(0).uniform(0.0, 1.0, (7, 3)).astype(np.float32)
    np.testing.assert_array_equal(linear_map.splice(mel), neighbours(mel))
    np.testing.assert_array_equal(linear_map.splice(mel[:1]), np.tile(mel[:1], 2 * CONTEXT + 1))


@pytest.mark.parametrize("n_frames", [1, 2, 9])
def test_base_and_decoder_interpolate_frames_the_same_way(n_frames):
    rng = np.random.default_rng(n_frames)
    frames = rng.normal(size=(n_frames, 5)).astype(np.float32)
    positions = np.append(rng.uniform(0.0, n_frames - 1.0, 8), [0.0, n_frames - 1.0, (n_frames - 1.0) / 2])
    expected = np.stack([np.interp(positions, np.arange(n_frames), column) for column in frames.T], axis=1)
    np.testing.assert_allclose(interpolate(frames, positions), expected, atol=1e-5)
    found = networks.read_at(frames[None], positions[None].astype(np.float32))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    beyond = np.array([-3.0, n_frames + 2.0], np.float32)
    np.testing.assert_array_equal(interpolate(frames, beyond), frames[[0, -1]])
    np.testing.assert_array_equal(networks.read_at(frames[None], beyond[None])[0], frames[[0, -1]])


def map_source(solved: base.Base, features: Features, hp: HyperParams, speaker: str | None = None) -> base.MappedSource:
    return base.map_source(solved, features, base.find_voice(solved, features, hp, speaker), hp)


def known_voice(solved: base.Base, number: int) -> base.Voice:
    return base.Voice(np.eye(2)[number], float(solved.warps[number]), float(solved.pitch[number, 0]))


def orders(mel: np.ndarray) -> np.ndarray:
    return scipy.fft.dct(np.asarray(mel, np.float64), axis=1, norm="ortho")


def test_plain_base_leaves_the_source_unchanged():
    hp = HP.replace(n_mels=80)
    features = record(np.random.default_rng(0), 50, VOICES["anna"], 80)
    mapped = map_source(plain_base(hp), features, hp)
    np.testing.assert_allclose(mapped.mel, features.mel.astype(np.float32), atol=1e-6)
    np.testing.assert_allclose(mapped.texture, 0.0, atol=1e-5)
    np.testing.assert_allclose(mapped.pitch[:, 0], analysis.pitch_contour(features.hertz, hp), atol=1e-6)
    np.testing.assert_array_equal(mapped.pitch[:, 1], features.hertz > 0.0)


def test_pitch_is_mapped_by_mean_and_deviation(corpus, solved):
    target = np.concatenate([pitch[pitch[:, 1] > 0, 0] for pitch in map(corpus.pitch, corpus.target_pairs)])
    np.testing.assert_allclose(solved.pitch[-1], [target.mean(), target.std()], rtol=1e-5)
    for number, source in enumerate(VOICES):
        voiced, mapped = [], []
        for pair in corpus.of(source):
            hertz = corpus.recording(pair).hertz
            found = base.map_pitch(solved, corpus.recording(pair), known_voice(solved, number), HP)
            np.testing.assert_array_equal(found[:, 1], hertz > 0.0)
            voiced.append(np.log2(hertz[hertz > 0.0] / HP.pitch_middle))
            mapped.append(found[hertz > 0.0, 0])
            assert np.ptp(np.diff(found[hertz == 0.0, 0])) < 1e-4  # a straight line between voiced frames
        np.testing.assert_allclose(solved.pitch[number], [np.concatenate(voiced).mean(), np.concatenate(voiced).std()],
                                   rtol=1e-4)
        mapped = np.concatenate(mapped)
        np.testing.assert_allclose([mapped.mean(), mapped.std()], [target.mean(), target.std()], rtol=1e-3)


def test_mean_pitch_of_an_unknown_voice_is_mapped_to_that_of_the_target(solved):
    for octave in (-1.0, 0.9):
        features = record(np.random.default_rng(0), 60, (0.2, octave, 0.1))
        voice = base.find_voice(solved, features, HP)
        pitch = base.map_pitch(solved, features, voice, HP)
        assert voice.weights.max() < 1.0 and voice.weights.sum() == pytest.approx(1.0)
        assert pitch[features.hertz > 0.0, 0].mean() == pytest.approx(solved.pitch[-1, 0], abs=1e-4)


@pytest.mark.parametrize("number", [0, None])
def test_unvoiced_recording_gets_the_mean_pitch_of_the_target(solved, monkeypatch, number):
    features = record(np.random.default_rng(0), 60, VOICES["anna"])._replace(hertz=np.zeros(60, np.float32))
    monkeypatch.setattr(base, "recognise", lambda *_: number)
    pitch = base.map_pitch(solved, features, base.find_voice(solved, features, HP), HP)
    np.testing.assert_allclose(pitch, [[solved.pitch[-1, 0], 0.0]] * 60, atol=1e-6)


def test_known_voice_uses_its_own_map_and_unknown_voice_a_mixture():
    solved, rng = base.solve(Known(n_pairs=30)), np.random.default_rng(11)

    def share(voice, number):
        """The share of new recordings of a voice that are recognised as source `number`, or, if None, as unknown."""
        found = [base.find_voice(solved, record(rng, 60 + 4 * i, voice), HP).weights for i in range(30)]
        return np.mean([weights.max() < 1.0 if number is None else weights[number] == 1.0 for weights in found])
    assert share(VOICES["anna"], 0) > 0.7 and share(VOICES["bert"], 1) > 0.7
    assert share(VOICES["anna"], 1) == share(VOICES["bert"], 0) == 0.0
    assert share((0.2, 1.2, 0.1), None) == 1.0
    centre = (np.array(VOICES["anna"]) + np.array(VOICES["bert"])) / 2
    assert share(tuple(centre), None) == 1.0  # a voice between the two is neither


def test_unknown_voice_is_a_mixture_with_larger_weights_for_nearer_sources(solved):
    near_anna = record(np.random.default_rng(5), 80, (0.46, 0.62, 0.1))
    voice = base.find_voice(solved, near_anna, HP)
    distances = np.linalg.norm(solved.centres - base.voiceprint(near_anna, HP), axis=1)
    assert voice.weights[0] > voice.weights[1] > 0.0 and voice.weights.sum() == pytest.approx(1.0)
    assert np.log(voice.weights[0] / voice.weights[1]) == pytest.approx(
        (distances[1] - distances[0]) / base.TEMPERATURE)
    halves = np.array([0.5, 0.5])
    mel = near_anna.mel.astype(np.float32)
    np.testing.assert_allclose(base.apply(solved, mel, halves), 0.5 * base.apply(solved, mel, np.eye(2)[0])
                               + 0.5 * base.apply(solved, mel, np.eye(2)[1]), atol=1e-5)


@pytest.mark.parametrize("n_known", [3, 5, 40])
def test_most_new_recordings_lie_within_the_radius_of_their_voice(n_known):
    rng, inside = np.random.default_rng(12), []
    for _ in range(200):
        own = rng.normal(size=(n_known, 20))
        inside.append(np.linalg.norm(rng.normal(size=20) - own.mean(axis=0)) <= base.radius(own))
    assert 0.6 < np.mean(inside) < 0.99  # it would be 0.3 for three if the radius were measured from the mean of all
    assert base.radius(own[:1]) == 0.0


@pytest.mark.parametrize("speaker, number", [("anna", 0), ("bert", 1), ("carl", 0), (None, 0)])
def test_named_source_uses_its_map_without_recognition(corpus, solved, monkeypatch, speaker, number):
    monkeypatch.setattr(base, "recognise", lambda *_: 0)
    features = corpus.recording(corpus.train[0])
    mapped = map_source(solved, features, HP, speaker)
    mel = neighbours(features.mel.astype(np.float32)) @ solved.kernels[number] + solved.biases[number]
    np.testing.assert_allclose(mapped.mel, mel, atol=1e-2)  # except for frames below the floor
    np.testing.assert_array_equal(mapped.pitch, base.map_pitch(solved, features, known_voice(solved, number), HP))


def test_frames_below_the_level_of_training_pauses_are_raised_to_it(corpus, solved):
    quiet = [corpus.recording(pair).mel.astype(np.float32).min(axis=0) for pair in corpus.of("bert")]
    np.testing.assert_allclose(solved.floors[1], np.mean(quiet, axis=0), rtol=1e-4)
    features = corpus.recording(corpus.of("bert")[0])
    silent, floor = (map_source(solved, features._replace(mel=mel), HP, "bert") for mel in (
        np.zeros_like(features.mel), np.repeat(solved.floors[1:2], len(features.mel), axis=0)))
    np.testing.assert_allclose(silent.mel, floor.mel, atol=1e-6)
    np.testing.assert_allclose(silent.texture, floor.texture, atol=1e-6)


@pytest.mark.parametrize("speaker", ["anna", None])
@pytest.mark.parametrize("n_frames", [1, 2, 30])
@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("hertz", [0.0, 150.0])
def test_unusual_recordings_are_mapped_without_nan(solved, speaker, n_frames, level, hertz):
    features = Features(np.zeros((n_frames, HP.n_linear), np.float16),
                        np.full((n_frames, HP.n_mels), level, np.float16), np.full(n_frames, hertz, np.float32))
    mapped = map_source(solved, features, HP, speaker)
    assert [x.shape for x in mapped] == [(n_frames, HP.n_mels), (n_frames, 2), (n_frames, HP.n_mels)]
    for x in mapped:
        assert np.isfinite(x).all() and x.dtype == np.float32
    vivid = mapped.mel + mapped.texture
    assert vivid.min() >= -1e-6 and vivid.max() <= 1.0 + 1e-6


def test_base_of_an_unvoiced_corpus_of_one_source_is_finite():
    corpus = Known(sources=("bert",), n_pairs=2)
    for key, (features, path, target, pitch) in corpus.kept.items():
        corpus.kept[key] = (features._replace(hertz=0 * features.hertz), path, target, pitch * [1.0, 0.0])
    solved = base.solve(corpus)
    assert all(np.isfinite(x).all() for x in solved[1:]) and solved.speakers.tolist() == ["bert"]
    np.testing.assert_array_equal(solved.pitch, [[0.0, 1.0]] * 2)


def test_map_reduces_the_distance_to_the_target_in_training_and_held_out_sentences(demo_data, demo_base, tiny_hp):
    corpus = data_load.Corpus(demo_data, tiny_hp)
    for pairs in (corpus.train, corpus.split("test") + corpus.split("val")):
        before, after = [], []
        for pair in pairs:
            features, target = corpus.recording(pair), corpus.target_features(pair, "mel")
            mapped = map_source(demo_base, features, tiny_hp, "rms")
            before.append(np.abs(interpolate(features.mel.astype(np.float32), corpus.path(pair)) - target).mean())
            after.append(np.abs(interpolate(mapped.mel, corpus.path(pair)) - target).mean())
        assert np.mean(after) < 0.8 * np.mean(before)
    assert len(corpus.train) < len(DEMO_IDS) and demo_base.speakers.tolist() == ["rms"]
    # slt speaks higher than rms, and her vocal tract is shorter
    assert demo_base.pitch[-1, 0] > demo_base.pitch[0, 0] + 0.5 and demo_base.warps[0] > 1.0
