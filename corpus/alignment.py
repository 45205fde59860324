"""The alignment of two recordings of one sentence: dynamic time warping, cuts at pauses, slices for training."""
import math
import os
import random
import tempfile

import utils
from hyperparams import HyperParams

import numpy as np
import scipy.ndimage
import scipy.spatial.distance

COARSE = 8            # frames averaged to align recordings that are too long for a full alignment
PAUSE_SECONDS = 0.15  # shortest silence at which a long recording may be cut
SLOW_SECONDS, SLOW = 0.15, 0.25  # in which a path is not to be slower than this share of the usual
UNLIKE_SECONDS, HEARD = 1.5, 0.6  # over which distances are averaged, and the least share of it that counts as speech


def dtw(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic time warping of (S, C) and (T, C) by Euclidean distance; returns the path (L, 2) of frame pairs from the
    first to the last, and the distances (L,) along it."""
    cost = scipy.spatial.distance.cdist(source, target).astype(np.float32)
    # Imported here: librosa compiles for a quarter of a minute when it is used first, and conversion does not need it
    if not os.environ.get("NUMBA_CACHE_DIR") and not os.access(os.path.expanduser("~"), os.W_OK):
        # If neither home nor packages can be written, numba finds no place for what it compiles
        os.environ["NUMBA_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"numba-{os.getuid()}")
    import librosa
    _, path = librosa.sequence.dtw(C=cost)
    return path[::-1], cost[path[::-1, 0], path[::-1, 1]]


def alignment_features(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Features (T, 13) in dB for aligning recordings: the level at half its weight and mel-cepstra of order 12.
    Subtract only the speaker's mean: divided by their deviations, the high ones, mostly noise, would weigh too much."""
    level = hp.range_db * mel.mean(axis=1, keepdims=True)
    return np.concatenate([0.5 * level, utils.cepstra(mel, hp, 12)], axis=1)


def word_features(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Features (T // 4, 13) in dB that tell whether two recordings say the same words: means of four frames, without
    what is more than 30 dB below the loud parts, because there noise covers speech."""
    features = alignment_features(np.maximum(mel, np.percentile(mel, 95) - 30.0 / hp.range_db), hp)
    return features[:len(mel) // 4 * 4].reshape(-1, 4, features.shape[1]).mean(axis=1)


def warp(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Align two sequences of features, (S, C) and (T, C), from which their speakers' means were subtracted: the source
    position (T,) of each target frame, rising from 0 to S - 1, smoothed over 75 ms because the raw path is a staircase,
    and the mean distance along this path."""
    path, distances = dtw(source, target)
    counts = np.bincount(path[:, 1], minlength=len(target))
    positions = np.bincount(path[:, 1], weights=path[:, 0], minlength=len(target)) / counts
    positions = scipy.ndimage.gaussian_filter1d(positions, 3.0, mode="nearest")
    positions[0], positions[-1] = 0.0, len(source) - 1.0
    return np.maximum.accumulate(positions).astype(np.float32), float(distances.mean())


def unlike(positions: np.ndarray, features: list[np.ndarray], spoken: list[np.ndarray], pace: float,
           hp: HyperParams) -> tuple[float, float]:
    """What in two recordings of one sentence is not in the other, by the source `positions` (T,) of `warp`, their
    `features` and where they are `spoken`, (S,) and (T,): for how many seconds one of them speaks while the other
    hardly moves on, slower than a quarter of its usual `pace`, source frames for one of the target; and the largest
    mean distance within UNLIKE_SECONDS of speech."""
    n_source, here = len(features[0]), np.arange(len(positions))
    back = np.interp(np.arange(n_source), positions + 1e-6 * here, here)
    frames = round(SLOW_SECONDS * hp.frames_per_second)
    window = min(round(UNLIKE_SECONDS * hp.frames_per_second), *map(len, features))
    slow, worst = 0, 0.0
    for places, own, other, speaks, usual in ((back, *features, spoken[0], 1.0 / pace),
                                              (positions, *features[::-1], spoken[1], pace)):
        if len(own) > frames:
            moved = np.pad(places[frames:] - places[:-frames], (frames // 2, frames - frames // 2), mode="edge")
            slow += (speaks & (moved < SLOW * min(usual, 1.0) * frames)).sum()
        distance = np.linalg.norm(own - other[places.round().astype(int)], axis=1)
        heard, spent = (np.convolve(x, np.ones(window), "valid") for x in (speaks, distance * speaks))
        worst = max(worst, (spent / np.maximum(heard, HEARD * window)).max())
    return float(slow / hp.frames_per_second), float(worst)


def speaking(mel: np.ndarray) -> np.ndarray:
    """Which frames (T,) of a mel spectrogram are louder than its pauses."""
    level = scipy.ndimage.uniform_filter1d(mel.mean(axis=1), 3)
    return level >= utils.SPEECH_LEVEL * np.percentile(level, 80)


def pauses(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """First and last frames (P, 2) of the silences of at least PAUSE_SECONDS."""
    runs, n_runs = scipy.ndimage.label(~speaking(mel))
    found = [(run[0].start, run[0].stop - 1) for run in scipy.ndimage.find_objects(runs, n_runs)
             if run[0].stop - run[0].start >= PAUSE_SECONDS * hp.frames_per_second]
    return np.array(found, int).reshape(-1, 2)


def cut_long(source: np.ndarray, target: np.ndarray, hp: HyperParams) -> list[tuple[int, int, int, int]]:
    """Cut a pair of mel spectrograms at pauses that match in both into segments (source start, source end, target
    start, target end) of at most `hp.max_seconds`; one without a matching pause stays longer, and is dropped."""
    longest = hp.max_seconds * hp.frames_per_second
    if max(len(source), len(target)) <= longest:
        return [(0, len(source), 0, len(target))]
    step = max(COARSE, math.ceil(max(len(source), len(target)) / 4000))  # limits the memory for aligning an hour
    # The mean of each `step` frames; behind the last frame there is silence, which is 0
    coarse = [alignment_features(np.add.reduceat(x, np.arange(0, len(x), step)) / step, hp) for x in (source, target)]
    path, _ = warp(*[x - x.mean(axis=0) for x in coarse])
    source_pauses = pauses(source, hp)
    cuts = []
    for frame in pauses(target, hp).mean(axis=1).astype(int).tolist() if len(source_pauses) else ():
        expected = np.interp(frame, np.arange(len(path)) * step, path * step)
        # Distance outside each pause: if the path passes through a long pause, the place inside it does not matter
        outside = np.maximum(source_pauses[:, 0] - expected, expected - source_pauses[:, 1])
        middle = int(source_pauses[outside.argmin()].mean())
        if outside.min() <= 3 * step and (not cuts or middle > cuts[-1][0]):
            cuts.append((middle, frame))
    segments, start = [], (0, 0)
    for cut, following in zip(cuts, cuts[1:] + [(len(source), len(target))]):
        if max(following[0] - start[0], following[1] - start[1]) > longest:
            segments.append((start[0], cut[0], start[1], cut[1]))
            start = cut
    return segments + [(start[0], len(source), start[1], len(target))]


def make_slices(n_frames: int, seed: str, hp: HyperParams) -> list[tuple[int, int]]:
    """Slices (start, end) of an utterance of `n_frames`, of random lengths between the shortest and the
    longest of `hp`, each overlapping the next by half."""
    rng = random.Random(seed)
    rows, start = [], 0
    while not rows or start + hp.slice_min_seconds * hp.frames_per_second / 2 < n_frames:
        length = max(2, round(rng.uniform(hp.slice_min_seconds, hp.slice_max_seconds) * hp.frames_per_second))
        end = min(start + length, n_frames)
        start = max(0, min(start, end - round(hp.slice_min_seconds * hp.frames_per_second)))
        rows.append((start, end))
        start += length // 2
    return rows
