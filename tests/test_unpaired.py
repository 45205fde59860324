"""Sentences of the target spliced from a source's sounds: matching of sounds, the path, and the features written."""
import itertools
import os
import shutil
import weakref

import utils
from common import storage
from corpus import analysis, linear_map, unpaired
from hyperparams import HyperParams

import numpy as np
import pytest

HP = HyperParams()
SOUNDS = 10


def spectra() -> np.ndarray:
    """(SOUNDS, M) spectra of three formants each."""
    rng, hertz = np.random.default_rng(0), utils.mel_centres(HP.sample_rate, HP.n_mels)
    places = [rng.uniform(*span, (SOUNDS, 1)) for span in ((250, 900), (1000, 2200), (2400, 3600))]
    return 0.3 + 0.4 * sum(np.exp(-0.5 * (np.log(hertz / place) / 0.1) ** 2) for place in places)


def speak(seed: int, n_sentences: int = 8) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return sentences of a voice: the sound of each frame of all sentences, and mel spectrograms (T, M)."""
    rng, sounds, mels = np.random.default_rng(seed), [], []
    for _ in range(n_sentences):
        sounds.append(np.repeat(rng.integers(SOUNDS, size=12), rng.integers(6, 12, 12)))
        mel = np.pad(spectra()[sounds[-1]], ((2, 2), (0, 0)), mode="edge")
        mel = np.mean([mel[i:i + len(sounds[-1])] for i in range(5)], axis=0)
        mels.append((mel + 0.01 * rng.normal(size=mel.shape)).astype(np.float32))
    return np.concatenate(sounds), mels


def other_voice(mel: np.ndarray) -> np.ndarray:
    """Return the speech of a speaker with a shorter vocal tract, another tilt and another level."""
    return (0.9 * linear_map.warp_formants(mel, 1.2, HP) + np.linspace(0.1, -0.05, HP.n_mels)).astype(np.float32)


def test_voice_is_matched_to_itself_frame_by_frame():
    _, mels = speak(1)
    path = np.concatenate(unpaired.match(mels, mels, HP))
    assert (path == np.arange(len(path))).mean() > 0.97


def test_sounds_are_matched_across_voices_and_sentences():
    sounds, mels = speak(1)
    said, others = speak(2)
    paths = unpaired.match(mels, [other_voice(mel) for mel in others], HP)
    assert list(map(len, paths)) == list(map(len, others))
    path = np.concatenate(paths)
    assert (sounds[path] == said).mean() > 0.85  # a tenth by chance
    assert (np.diff(path) == 1).mean() > 0.7
    # Descriptions that are not adapted between the voices hardly match
    described = [unpaired.describe_all(group) for group in (mels, [other_voice(mel) for mel in others])]
    source, wanted = (found - found.mean(axis=0) for found in described)
    assert (sounds[unpaired.nearest(wanted, source)[0]] == said).mean() < 0.3


def cost(path, target: np.ndarray, source: np.ndarray, ends: np.ndarray) -> float:
    jumps = sum(after != before + 1 or ends[before] for before, after in zip(path, path[1:]))
    return unpaired.JUMP * jumps + sum(np.linalg.norm(target[t] - source[row]) for t, row in enumerate(path))


@pytest.mark.parametrize("seed", range(4))
def test_path_has_the_lowest_cost_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    source, target, ends = 0.6 * rng.normal(size=(5, 3)), 0.6 * rng.normal(size=(5, 3)), np.arange(5) % 3 == 2
    best = min(itertools.product(range(5), repeat=5), key=lambda path: cost(path, target, source, ends))
    assert unpaired.path_through(target, source, ends).tolist() == list(best)


@pytest.mark.parametrize("nearer, ends_after, expected", [(0.4, 7, 2), (0.4, 1, 6), (1.4, 7, 6)])
def test_path_stays_in_a_recording_until_it_ends_or_a_jump_is_cheaper(nearer, ends_after, expected):
    source = np.arange(8.0)[:, None] * [0.0, 10.0]
    source[6] = source[2] + [nearer * unpaired.JUMP, 0.0]
    found = unpaired.path_through(source[[0, 1, 6]], source, np.arange(8) == ends_after)
    assert found.tolist() == [0, 1, expected]


def test_candidates_come_from_all_parts_of_a_long_source(monkeypatch):
    monkeypatch.setattr(unpaired, "BLOCK", 7)
    source = np.random.default_rng(0).normal(size=(9 * unpaired.CANDIDATES, 4)) * 20.0
    rows = np.concatenate([np.arange(11, 30), np.arange(300, 320), [5]])
    found = unpaired.path_through(source[rows], source, np.zeros(len(source), bool))
    assert found.tolist() == rows.tolist()


POOL = [("f", 3, 80), ("g", 0, 90), ("f", 95, 120)]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features of a source and a target, whose linear spectrogram is a number that is unique to each frame, and the
    features spliced from them."""
    folder = tmp_path_factory.mktemp("features")
    numbers, hertz = itertools.count(), {"anna": (200.0, 1.3), "bert": (100.0, 1.1)}
    for speaker, name, mel in zip(["anna"] * 2 + ["bert"] * 2, "fgab", speak(1, 2)[1] + speak(2, 2)[1]):
        mel = np.concatenate([mel, mel])[:120]
        pitch = hertz[speaker][0] * hertz[speaker][1] ** np.sin(np.arange(len(mel)))
        pitch[20:30] = 0.0
        for kind, array in (("mel", mel.astype(np.float16)), ("pitch", pitch.astype(np.float32)),
                            ("linear", np.array([[next(numbers)] for _ in mel], np.float16))):
            storage.save_array(folder / speaker / f"{name}.{kind}.npy", array)
    splice(folder)
    return folder


def test_no_recording_stays_open(features, monkeypatch):
    """Of a speaker's hour not all recordings may be open at a time."""
    opened, load, match = [], analysis.load, unpaired.match

    def loaded(stem):
        found = load(stem)
        opened.append([weakref.ref(array) for array in found])
        return found

    def matched(*given):
        assert opened and not any(array() is not None for arrays in opened for array in arrays)
        return match(*given)
    monkeypatch.setattr(analysis, "load", loaded)
    monkeypatch.setattr(unpaired, "match", matched)
    (features / "anna.spliced" / "made_of.json").unlink()
    splice(features)


def splice(features) -> dict:
    unpaired.write(features, "anna", POOL, "bert", ["a", "b"], HP)
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (features / "anna.spliced").iterdir()}


def test_spliced_features_are_frames_of_the_pool_aligned_with_the_target(features):
    own = {name: analysis.load(features / "anna" / name) for name in "fg"}
    rows = {int(own[name].linear[i, 0]): own[name].mel[i] for name, start, end in POOL for i in range(start, end)}
    for name in "ab":
        made, spoken = analysis.load(features / "anna.spliced" / name), analysis.load(features / "bert" / name)
        assert made.linear.shape == (len(spoken.mel), 1) and made.linear.dtype == made.mel.dtype == np.float16
        np.testing.assert_array_equal(made.mel, [rows[int(number)] for number in made.linear[:, 0]])
        np.testing.assert_array_equal(made.hertz > 0.0, spoken.hertz > 0.0)
    hertz = [np.concatenate([each.hertz for each in group]) for group in (own.values(), [
        analysis.load(features / "anna.spliced" / name) for name in "ab"])]
    for measure in (np.mean, np.std):
        source, made = (measure(np.log2(values[values > 0.0])) for values in hertz)
        assert made == pytest.approx(source, abs=0.02)
    melodies = [np.log2(analysis.load(features / speaker / "a").hertz[30:]) for speaker in ("anna.spliced", "bert")]
    assert np.corrcoef(*melodies)[0, 1] > 0.999


def damaged_array(folder):
    path = folder / "anna.spliced" / "b.linear.npy"
    path.write_bytes(path.read_bytes()[:-20])


def changed_source(folder):
    os.utime(folder / "anna" / "g.mel.npy", (1.7e9, 1.7e9))


@pytest.mark.parametrize("change", [damaged_array, changed_source, lambda folder: (
    folder / "anna.spliced" / "made_of.json").unlink()])
def test_complete_spliced_features_are_kept_and_others_are_made_again(features, tmp_path, monkeypatch, change):
    shutil.copytree(features, tmp_path, dirs_exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(unpaired, "match", None)
        first = splice(tmp_path)
        assert first == splice(features) and len(first) == 7
    change(tmp_path)
    second = splice(tmp_path)
    assert all(second[name][0] != first[name][0] for name in first)
    assert all(second[name][1] == first[name][1] for name in first if name != "made_of.json")
