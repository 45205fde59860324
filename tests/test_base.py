"""The base: what is taken out of a recording, one linear map of all sources by ridge regression, the pitch."""
import inspect
import types

import data_load
import networks
from conftest import DEMO_IDS
from conversion import base, inference
from corpus import analysis, linear_map
from corpus.analysis import Features
from corpus.linear_map import CONTEXT, interpolate
from hyperparams import HyperParams

import numpy as np
import pytest

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
    linear = np.linspace(0.5, level, HP.n_linear) + 0.12 * smooth_noise(rng, n, HP.n_linear)
    return Features(linear.astype(np.float16), mel.astype(np.float16), hertz.astype(np.float32))


class Known:
    """A corpus of two sources whose target is the same linear function of three frames of each plus noise."""

    def __init__(self, hp: HyperParams = HP, sources=tuple(VOICES), n_pairs: int = 5, shift: float = 0.0):
        rng = np.random.default_rng(0)
        mixing = rng.normal(0.0, 0.4, (3, hp.n_mels, hp.n_mels)) / hp.n_mels ** 0.5
        self.hp, self.train, self.kept = hp, [], {}
        for source in sources:
            for number in range(n_pairs):
                features, n = record(rng, 55 + 5 * number, VOICES[source], hp.n_mels), 55 + 5 * number
                path = np.linspace(0.0, n - 1.0, 45 + 6 * number).astype(np.float32)
                centred = features.mel - base.speech_means(features, hp)[0]
                around = np.pad(centred, ((1, 1), (0, 0)), mode="edge")
                mel = sum(around[i:i + n] @ mixing[i] for i in range(3))
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


def centred(features: Features) -> np.ndarray:
    """The mel (S, M) less its mean over the frames that are less than 20 dB below the 80th percentile of the levels."""
    mel = features.mel.astype(np.float64)
    level = mel.mean(axis=1)
    return mel - mel[level >= np.percentile(level, 80) - 20.0 / HP.range_db].mean(axis=0)


def octave_of(features: Features) -> float:
    return np.log2(features.hertz[features.hertz > 0.0].astype(np.float64) / HP.pitch_middle).mean()


def ridge(corpus: Known, floor: np.ndarray, penalty: float = linear_map.PENALTY) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias by least squares over all frames, with additional rows for the penalty: the windows, the same
    times the octaves above the middle of the sources' pitches, and these octaves."""
    rows, targets, octaves = [], [], [octave_of(corpus.recording(pair)) for pair in corpus.train]
    low, high = np.percentile(octaves, (5.0, 95.0))
    for pair, octave in zip(corpus.train, octaves):
        mel, path = np.maximum(centred(corpus.recording(pair)), floor), corpus.path(pair).astype(np.float64)
        x = np.stack([np.interp(path, np.arange(len(mel)), column) for column in neighbours(mel).T], axis=1)
        height = min(max(octave, low), high) - (low + high) / 2.0
        rows.append(np.concatenate([x, height * x, np.full((len(x), 1), height)], axis=1))
        targets.append(corpus.target_features(pair, "mel").astype(np.float64))
    x, y = np.concatenate(rows), np.concatenate(targets)
    x = np.concatenate([np.append(x, np.ones((len(x), 1)), axis=1), np.sqrt(penalty) * np.eye(x.shape[1] + 1)[:-1]])
    found = np.linalg.lstsq(x, np.concatenate([y, np.zeros((len(x) - len(y), y.shape[1]))]), rcond=None)[0]
    return found[:-1], found[-1]


def test_map_is_the_ridge_regression_of_all_sources_together(corpus, solved):
    floor = np.mean([centred(corpus.recording(pair)).min(axis=0) for pair in corpus.train], axis=0)
    np.testing.assert_allclose(solved.mel_floor, floor, atol=1e-3)
    kernel, bias = ridge(corpus, solved.mel_floor)
    assert np.abs(kernel).max() > 0.01
    np.testing.assert_allclose(np.concatenate(solved.kernel), kernel[:-1], atol=2e-3)
    np.testing.assert_allclose(solved.bias, [bias, kernel[-1]], atol=2e-3)


def test_map_follows_the_pitch_of_who_speaks(monkeypatch):
    """If a low and a high voice need other maps, a recording gets that of its own pitch, and the middle one between."""
    monkeypatch.setattr(linear_map, "PENALTY", 0.1)  # two minutes of speech are little against the usual one
    corpus, mixing = Known(n_pairs=30), np.random.default_rng(1).normal(0.0, 0.3, (HP.n_mels, HP.n_mels))
    for (source, name), (features, path, _, pitch) in corpus.kept.items():
        mel = interpolate(features.mel - base.speech_means(features, HP)[0], path)
        target = 0.5 + mel @ (mixing.T if source == "bert" else mixing)
        corpus.kept[source, name] = features, path, target.astype(np.float32), pitch
    found, mel = base.solve(corpus), corpus.recording(corpus.train[0]).mel.astype(np.float32) - 0.5
    high, low, middle = (base.map_mel(found, mel, octave) - 0.5 for octave in (0.4, -0.6, -0.1))
    for mapped, right in ((high, mixing), (low, mixing.T), (middle, (mixing + mixing.T) / 2.0)):
        wanted = np.maximum(mel, found.mel_floor) @ right
        assert np.abs(mapped - wanted).mean() < 0.15 * np.abs(wanted).mean()
    assert np.abs(high - low).mean() > np.abs(middle).mean()
    for source, right in (("anna", mixing), ("bert", mixing.T)):  # and so do the networks
        features = corpus.recording(corpus.of(source)[0])
        wanted = np.maximum(centred(features), found.mel_floor) @ right
        _, mapped = network_input(found, features)
        assert np.abs(mapped[:, :HP.n_mels] - 0.5 - wanted).mean() < 0.15 * np.abs(wanted).mean()
    np.testing.assert_array_equal(base.map_mel(found, mel, 3.0), base.map_mel(found, mel, found.registers[1]))
    np.testing.assert_array_equal(base.map_mel(found, mel, -3.0), base.map_mel(found, mel, found.registers[0]))


def test_solving_a_base_twice_gives_the_same_bytes(corpus, solved):
    for found, expected in zip(base.solve(corpus), solved):
        assert found.tobytes() == expected.tobytes()


def test_penalty_shrinks_the_weights_and_not_the_bias(corpus, solved):
    shifted = base.solve(Known(shift=0.07))
    np.testing.assert_allclose(shifted.kernel, solved.kernel, atol=1e-4)
    np.testing.assert_allclose(shifted.bias - solved.bias, [[0.07] * HP.n_mels, [0.0] * HP.n_mels], atol=1e-4)
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
    np.testing.assert_array_equal(linear_map.in_context(mel), neighbours(mel))
    np.testing.assert_array_equal(linear_map.in_context(mel[:1]), np.tile(mel[:1], 2 * CONTEXT + 1))


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


def network_input(solved: base.Base, features: Features, hp: HyperParams = HP) -> tuple[np.ndarray, np.ndarray]:
    return base.network_input(solved, features, base.find_voice(solved, features, hp), hp)


def test_input_has_no_mean_and_unit_deviation_over_the_training_speech(corpus, solved):
    linear = np.concatenate([network_input(solved, corpus.recording(pair))[0] for pair in corpus.train])
    np.testing.assert_allclose(np.sqrt(np.square(linear).mean(axis=0)), 1.0, atol=0.08)
    assert np.abs(linear.mean(axis=0)).max() < 0.3  # quiet frames do not count in the mean


def test_bins_that_never_change_in_training_stay_small_in_another_recording(solved):
    """For instance those above the band of all training recordings, which another microphone fills."""
    other = Known()
    for key, (features, *rest) in other.kept.items():
        linear = features.linear.copy()
        linear[:, -40:] = 0.25
        other.kept[key] = (features._replace(linear=linear), *rest)
    found = base.solve(other)
    np.testing.assert_array_equal(found.deviation[-40:], np.float32(base.LEAST_DEVIATION))
    np.testing.assert_array_equal(found.deviation[:-40], solved.deviation[:-40])
    loud = record(np.random.default_rng(3), 60, VOICES[min(VOICES)])
    for features in (loud, other.recording(other.train[0])):
        assert np.abs(network_input(found, features)[0]).max() < 0.3 / base.LEAST_DEVIATION


@pytest.mark.parametrize("gain", [-12.0, 6.0])
def test_gain_and_fixed_equalisation_do_not_change_the_input_of_the_networks(corpus, solved, gain):
    """Shifts in dB, as a microphone makes them, of a recording that touches neither end of the range."""
    features = corpus.recording(corpus.train[0])
    bend = [gain + 6.0 * np.sin(np.linspace(0.0, 5.0, n)) for n in (HP.n_linear, HP.n_mels)]
    other = features._replace(linear=features.linear + np.float32(bend[0] / HP.range_db),
                              mel=features.mel + np.float32(bend[1] / HP.range_db))
    assert np.abs(other.mel - features.mel).max() > 0.1
    for one, changed in zip(network_input(solved, features), network_input(solved, other)):
        np.testing.assert_allclose(changed, one, atol=0.01)  # the spectrograms are stored in half precision


def test_no_source_is_named_in_what_conversion_reads(solved):
    """A base holds numbers only, of one map, and no function that conversion calls takes a name."""
    assert all(np.asarray(array).dtype.kind == "f" for array in solved)
    assert solved.kernel.ndim == 3 and len(solved.kernel) == len(solved.bias) == 2 and solved.mel_floor.ndim == 1
    for function in (base.find_voice, base.network_input, base.restore_mel, inference.Converter.find_voice,
                     inference.Converter.__call__):
        assert not {"speaker", "source", "name"} & {*inspect.signature(function).parameters}, function


def test_pitch_is_mapped_by_mean_and_deviation(corpus, solved):
    spoken = [pitch[pitch[:, 1] > 0, 0] for pitch in map(corpus.pitch, corpus.target_pairs)]
    heard = [analysis.pitch_contour(corpus.recording(pair).hertz, HP)[corpus.recording(pair).hertz > 0]
             for pair in corpus.train]
    within = [np.concatenate([each - each.mean() for each in group]).std() for group in (heard, spoken)]
    np.testing.assert_allclose(solved.octaves, [within[0], np.concatenate(spoken).mean(), within[1]], rtol=1e-4)
    for octave in (-1.0, 0.9):
        features = record(np.random.default_rng(0), 3000, (0.2, octave, 0.1))
        mapped = base.map_pitch(solved, features.hertz, base.find_voice(solved, features, HP), HP)
        voiced = features.hertz > 0.0
        np.testing.assert_array_equal(mapped[:, 1], voiced)
        assert mapped[voiced, 0].mean() == pytest.approx(solved.octaves[1], abs=1e-4)
        assert mapped[voiced, 0].std() == pytest.approx(solved.octaves[2], rel=0.15)
        assert np.ptp(np.diff(mapped[~voiced, 0])) < 1e-4  # a straight line between voiced frames


def test_deviation_of_the_pitch_of_a_short_recording_is_near_that_of_all_sources(solved):
    lively = record(np.random.default_rng(0), 3000, (0.5, 0.0, 0.5))
    long, short = (base.find_voice(solved, Features(*(each[:n] for each in lively)), HP).deviation for n in (3000, 40))
    own = analysis.pitch_contour(lively.hertz, HP)[lively.hertz > 0.0].std()
    assert abs(long - own) < 0.1 * own and solved.octaves[0] < short < (solved.octaves[0] + own) / 2


def test_unvoiced_recording_gets_the_mean_pitch_of_the_target(solved):
    features = record(np.random.default_rng(0), 60, VOICES["anna"])._replace(hertz=np.zeros(60, np.float32))
    pitch = network_input(solved, features)[1][:, -2:]
    np.testing.assert_allclose(pitch, [[solved.octaves[1], 0.0]] * 60, atol=1e-6)


def test_frames_below_the_level_of_training_pauses_are_raised_to_it(corpus, solved):
    features = corpus.recording(corpus.train[-1])
    voice, n = base.find_voice(solved, features, HP), len(features.mel)
    quiet = features._replace(mel=0 * features.mel, linear=0 * features.linear)
    floor = features._replace(mel=np.tile(voice.mel + solved.mel_floor, (n, 1)),
                              linear=np.tile(voice.linear + solved.linear_floor, (n, 1)))
    for one, other in zip(*(base.network_input(solved, each, voice, HP) for each in (quiet, floor))):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_without_a_base_the_networks_read_the_spectrogram_itself(corpus, solved):
    features, hp = corpus.recording(corpus.train[0]), HP.replace(base=0)
    linear, mapped = network_input(solved, features, hp)
    np.testing.assert_array_equal(linear, features.linear)
    assert mapped.shape == (len(linear), HP.n_mels + 2) and not mapped.any()


@pytest.mark.parametrize("n_frames", [1, 2, 30])
@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("hertz", [0.0, 150.0])
def test_unusual_recordings_are_mapped_without_nan(solved, n_frames, level, hertz):
    features = Features(*(np.full((n_frames, size), level, np.float16) for size in (HP.n_linear, HP.n_mels)),
                        np.full(n_frames, hertz, np.float32))
    voice = base.find_voice(solved, features, HP)
    linear, mapped = base.network_input(solved, features, voice, HP)
    assert linear.shape == (n_frames, HP.n_linear) and mapped.shape == (n_frames, HP.n_mels + 2)
    restored = base.restore_mel(solved, np.zeros((33, HP.n_mels)), mapped[:, :HP.n_mels], np.arange(n_frames), features,
                                voice, HP)
    for x in (linear, mapped, restored):
        assert np.isfinite(x).all() and x.dtype == np.float32
    assert restored.shape == (n_frames, HP.n_mels) and restored.min() >= 0.0 and restored.max() <= 1.0


def test_base_of_an_unvoiced_corpus_of_one_source_is_finite():
    corpus = Known(sources=("bert",), n_pairs=2)
    for key, (features, path, target, pitch) in corpus.kept.items():
        corpus.kept[key] = (features._replace(hertz=0 * features.hertz), path, target, pitch * [1.0, 0.0])
    solved = base.solve(corpus)
    assert all(np.isfinite(x).all() for x in solved)
    np.testing.assert_array_equal(solved.octaves, [1.0, 0.0, 1.0])


def test_map_reduces_the_distance_to_the_target_in_training_and_held_out_sentences(demo_data, demo_base, tiny_hp):
    corpus = data_load.Corpus(demo_data, tiny_hp)
    for pairs in (corpus.train, corpus.split("test") + corpus.split("val")):
        before, after = [], []
        for pair in pairs:
            features, target = corpus.recording(pair), corpus.target_features(pair, "mel")
            mapped = network_input(demo_base, features, tiny_hp)[1][:, :tiny_hp.n_mels]
            before.append(np.abs(interpolate(features.mel.astype(np.float32), corpus.path(pair)) - target).mean())
            after.append(np.abs(interpolate(mapped, corpus.path(pair)) - target).mean())
        assert np.mean(after) < 0.8 * np.mean(before)
    assert len(corpus.train) < len(DEMO_IDS)
    # slt speaks higher than rms, and her vocal tract is shorter
    voices = [base.find_voice(demo_base, corpus.recording(pair), tiny_hp) for pair in corpus.train]
    assert demo_base.octaves[1] > np.mean([voice.octave for voice in voices]) + 0.5
    assert np.median([voice.warp for voice in voices]) > 1.0
