"""Alignments of recordings whose true alignment is known because the test made them."""
import utils
from conftest import demo_wav
from corpus import alignment
from hyperparams import HyperParams

import numpy as np
import pytest

HP = HyperParams()
# Sentences without a pause inside, so that the only pauses are those between them
SENTENCES = ["demo_001", "demo_003", "demo_004", "demo_006", "demo_007", "demo_008"]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """(T, C) features of a demo sentence minus their mean, as prepro.py computes them."""
    return features("rms", "demo_005")


def features(speaker: str, utterance: str) -> np.ndarray:
    x = alignment.alignment_features(utils.spectrograms(demo_wav(speaker, utterance, HP), HP)[0], HP)
    return x - x.mean(axis=0)


def test_same_sentence_of_another_speaker_has_the_lowest_dtw_cost():
    """Otherwise the path would be no better than a straight line."""
    source, target = ([features(speaker, utterance) for utterance in SENTENCES] for speaker in ("rms", "slt"))
    costs = np.array([[alignment.warp(said, heard)[1] for heard in target] for said in source])
    np.testing.assert_array_equal(costs.argmin(axis=1), np.arange(len(SENTENCES)))
    assert np.diag(costs).mean() < 0.85 * costs[~np.eye(len(costs), dtype=bool)].mean()


def stretch(sequence: np.ndarray, slopes: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Play parts of equal length at different speeds; returns the result and the source position of each frame."""
    length = len(sequence) - 1
    ends = np.linspace(0, length, len(slopes) + 1)
    true = np.concatenate([np.arange(start, end, slope) for start, end, slope in zip(ends, ends[1:], slopes)]
                          + [[length]])
    frames = np.arange(len(sequence))
    return np.stack([np.interp(true, frames, column) for column in sequence.T], axis=1), true


@pytest.mark.parametrize("slopes", [[0.5, 1.6, 0.8], [2.0, 0.6], [1.0, 0.5, 2.0, 1.0]])
def test_warp_recovers_a_known_stretch(speech, slopes):
    target, true = stretch(speech, slopes)
    positions, _ = alignment.warp(speech, target)
    assert positions.shape == true.shape
    assert np.abs(positions - true).mean() < 1.0 and np.abs(positions - true).max() < 5.0
    walk = np.linspace(0, len(speech) - 1, len(true))
    assert np.abs(walk - true).mean() > 5.0  # a straight line would not have passed


def test_warp_of_a_recording_with_itself_is_the_identity(speech):
    positions, cost = alignment.warp(speech, speech)
    np.testing.assert_allclose(positions, np.arange(len(speech)), atol=1.5)
    assert cost == 0.0


@pytest.mark.parametrize("n_source, n_target", [(40, 90), (90, 40), (60, 60), (1, 5), (5, 1), (2, 2)])
def test_warp_is_monotonic_from_the_first_frame_to_the_last(n_source, n_target):
    rng = np.random.default_rng(0)
    positions, _ = alignment.warp(rng.normal(size=(n_source, 4)), rng.normal(size=(n_target, 4)))
    assert len(positions) == n_target
    assert (np.diff(positions) >= 0).all() and positions.min() >= 0 and positions[-1] == n_source - 1
    assert n_target == 1 or positions[0] == 0


def long_recording(speaker: str, seconds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Mel of SENTENCES with pauses between them, and the frames in the middle of each sentence."""
    parts, middles, length = [], [], 0
    for utterance, pause in zip(SENTENCES, seconds):
        wav = demo_wav(speaker, utterance, HP)
        middles.append((length + len(wav) / 2) / HP.hop_length)
        parts += [wav, np.zeros(round(pause * HP.sample_rate), np.float32)]
        length += len(wav) + len(parts[-1])
    return utils.spectrograms(np.concatenate(parts), HP)[0], np.array(middles)


def test_cut_long_cuts_at_matching_pauses():
    # Some pauses exist in one recording only, and their lengths differ: 2 s in one is 0.3 s in the other
    source, source_middles = long_recording("rms", [2.0, 0.3, 0.0, 2.0, 0.4, 0.2])
    target, target_middles = long_recording("slt", [0.3, 0.9, 0.6, 0.3, 0.8, 0.0])
    hp = HP.replace(max_seconds=6.0)
    stretches = alignment.cut_long(source, target, hp)
    assert len(stretches) >= 4
    assert [row[0] for row in stretches] == [0] + [row[1] for row in stretches[:-1]]  # no frame is lost between them
    assert [row[2] for row in stretches] == [0] + [row[3] for row in stretches[:-1]]
    assert (stretches[-1][1], stretches[-1][3]) == (len(source), len(target))
    held = []
    for s0, s1, t0, t1 in stretches:
        assert max(s1 - s0, t1 - t0) <= hp.max_seconds * hp.frames_per_second
        here = [i for i, middle in enumerate(source_middles) if s0 <= middle < s1]
        assert here == [i for i, middle in enumerate(target_middles) if t0 <= middle < t1]
        held += here
    assert held == list(range(len(SENTENCES)))


def test_short_recordings_stay_whole():
    mel = utils.spectrograms(demo_wav("rms", "demo_001", HP), HP)[0]
    assert alignment.cut_long(mel, mel[:-20], HP) == [(0, len(mel), 0, len(mel) - 20)]


def test_recordings_without_a_pause_are_not_cut():
    mel = np.full((1200, HP.n_mels), 0.6, np.float32) + np.random.default_rng(0).normal(0, 0.05, (1200, HP.n_mels))
    paused = mel.copy()
    paused[600:640] = 0.0
    for source, target in ((mel, mel), (mel, paused), (paused, mel)):
        assert alignment.cut_long(source, target, HP) == [(0, 1200, 0, 1200)]


def test_pauses_are_found_at_the_right_frames():
    mel = np.full((200, HP.n_mels), 0.6, np.float32)
    mel[50:80] = mel[120:124] = 0.0  # 0.375 s, and 0.05 s: too short
    np.testing.assert_allclose(alignment.pauses(mel, HP), [[50, 79]], atol=1)


@pytest.mark.parametrize("n_frames", [30, 80, 81, 119, 121, 200, 533, 960])
@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_slices_cover_the_utterance(n_frames, seed):
    rows = alignment.make_slices(n_frames, seed, HP)
    shortest, longest = (seconds * HP.frames_per_second for seconds in (HP.slice_min_seconds, HP.slice_max_seconds))
    covered = np.zeros(n_frames, int)
    for start, end in rows:
        assert min(n_frames, shortest) <= end - start <= longest and 0 <= start < end <= n_frames
        covered[start:end] += 1
    assert covered.min() >= 1 and covered.mean() < 3
    assert len(set(rows)) == len(rows)
    assert rows == alignment.make_slices(n_frames, seed, HP)
    assert n_frames < 200 or rows != alignment.make_slices(n_frames, seed + "x", HP)
