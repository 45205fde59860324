"""Features that the networks read: linear spectrogram, pitch, and a mel spectrogram without harmonics. Also the
alignment of two recordings of one sentence: dynamic time warping, cuts, slices for training.

Below 1 kHz mel bands are narrower than the distance of harmonics, and every voice has its harmonics at other
frequencies. What two speakers share is the spectral envelope, so all mel spectrograms of source and target here are
envelopes. The post-net draws the harmonics from the pitch.
"""
import functools
import math
import random
from typing import NamedTuple

import numpy as np
import scipy.ndimage
import scipy.spatial.distance

import utils
from compiled import librosa
from hyperparams import HyperParams

COARSE = 8            # frames averaged to align recordings that are too long for a full alignment
PAUSE_SECONDS = 0.15  # shortest silence at which a long recording may be cut


class Features(NamedTuple):
    """Features of a recording: float16, as they are stored, except for the pitch."""
    linear: np.ndarray  # (T, F) normalised linear spectrogram
    mel: np.ndarray     # (T, M) normalised mel spectrogram of the envelope
    hertz: np.ndarray   # (T,) fundamental frequency, 0 where unvoiced


def extract(wav: np.ndarray, hp: HyperParams) -> Features:
    """The features of a recording (samples,) of any length."""
    hertz = np.concatenate([pitch(part, hp)[own] for part, own in utils.blocks(wav, hp, utils.PITCH_FRAMES)])
    contour, linear, mel, start = pitch_contour(hertz, hp), [], [], 0
    for part, own in utils.blocks(wav, hp):
        linear.append(utils.spectrograms(part, hp)[1][own].astype(np.float16))
        mel.append(mel_envelope(linear[-1], contour[start:start + len(linear[-1])], hp).astype(np.float16))
        start += len(linear[-1])
    return Features(np.concatenate(linear), np.concatenate(mel), hertz)


def pitch(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Fundamental frequency (T,) in Hz of (samples,), 0 where unvoiced, by pYIN (Mauch & Dixon 2014), a value for each
    frame of `utils.spectrograms`.

    The grid is coarser than librosa's default: a quarter of a semitone and 20 thresholds. This is five times as fast
    and finds the same pitch: the median difference is 5 cents, and voicing differs in 1 % of the frames.
    """
    hertz, voiced, _ = librosa.pyin(wav, fmin=hp.pitch_min, fmax=hp.pitch_max, sr=hp.sample_rate,
                                    frame_length=hp.n_fft, hop_length=hp.hop_length, resolution=0.25, n_thresholds=20)
    return np.where(voiced, hertz, 0.0).astype(np.float32)


def pitch_contour(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Octaves (T,) above `hp.pitch_middle` of a pitch (T,) in Hz, interpolated through unvoiced frames (0)."""
    voiced = hertz > 0.0
    if not voiced.any():
        return np.zeros(len(hertz), np.float32)
    frames = np.arange(len(hertz))
    return np.interp(frames, frames[voiced], np.log2(hertz[voiced] / hp.pitch_middle)).astype(np.float32)


def mel_envelope(linear: np.ndarray, contour: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Mel spectrogram (T, M) of the spectral envelope of (T, F), whose pitch is `contour` (T,) octaves.

    Averaging the magnitude twice over a window as wide as the pitch removes the harmonics (CheapTrick, Morise 2015,
    section 3, smooths the power once in this way). Pitch is rounded to semitones, so that both averages and the mel
    filters are one matrix. A window that is wrong by 3 % leaves a thousandth of the harmonics.
    """
    magnitude = utils.denormalise(linear.astype(np.float32), hp)
    semitones, mel = np.round(12.0 * contour).astype(int), np.empty((len(linear), hp.n_mels), np.float32)
    for semitone in np.unique(semitones).tolist():
        width = hp.pitch_middle * 2.0 ** (semitone / 12.0) * hp.n_fft / hp.sample_rate                # in bins
        chosen = semitones == semitone
        mel[chosen] = magnitude[chosen] @ envelope_filterbank(width, hp.sample_rate, hp.n_fft, hp.n_mels)
    return utils.normalise(mel, hp)


@functools.lru_cache(maxsize=256)
def envelope_filterbank(width: float, sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Matrix (F, M) from a magnitude spectrum with harmonics `width` bins apart to the mel spectrum of its envelope."""
    once = average(np.eye(n_fft // 2 + 1), width)
    return (once @ (once @ utils.mel_filterbank(sample_rate, n_fft, n_mels).T)).astype(np.float32)


def average(magnitude: np.ndarray, width: float) -> np.ndarray:
    """Mean of (T, F) over a window of `width` bins around each bin; the spectrum is mirrored at both ends."""
    n_bins, beyond = magnitude.shape[1], int(width / 2) + 2
    mirrored = np.pad(magnitude, ((0, 0), (beyond, beyond)), mode="reflect")
    sums = np.pad(np.cumsum(mirrored, axis=1, dtype=np.float64), ((0, 0), (1, 0)))                    # (T, F')

    def up_to(place: float) -> np.ndarray:
        """The sum of each spectrum up to `place` bins after the left end of each bin, with fractions of bins."""
        whole = math.floor(place)
        share, first = place - whole, whole + beyond
        return sums[:, first:first + n_bins] * (1.0 - share) + sums[:, first + 1:first + 1 + n_bins] * share
    return (up_to(0.5 + width / 2) - up_to(0.5 - width / 2)) / width


def dtw(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic time warping of (S, C) and (T, C) by Euclidean distance.

    Returns the path (L, 2) of frame pairs from the first to the last, and the distances (L,) along it.
    """
    cost = scipy.spatial.distance.cdist(source, target).astype(np.float32)
    _, path = librosa.sequence.dtw(C=cost)
    return path[::-1], cost[path[::-1, 0], path[::-1, 1]]


def alignment_features(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Features (T, 13) in dB for aligning recordings: the level at half its weight and mel-cepstra of order 12.

    Subtract only the speaker's mean from them. If they were divided by their deviations, the high coefficients, mostly
    noise, would weigh as much as the low ones, and the right sentence would be no nearer than any other.
    """
    level = hp.range_db * mel.mean(axis=1, keepdims=True)
    return np.concatenate([0.5 * level, utils.cepstra(mel, hp, 12)], axis=1)


def warp(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Align two sequences of features, (S, C) and (T, C), from which their speakers' means were subtracted.

    Returns the source position (T,) of each target frame, rising from 0 to S - 1, and the mean distance along the raw
    path. The positions are smoothed over 75 ms, because the raw path is a staircase.
    """
    path, distances = dtw(source, target)
    counts = np.bincount(path[:, 1], minlength=len(target))
    positions = np.bincount(path[:, 1], weights=path[:, 0], minlength=len(target)) / counts
    positions = scipy.ndimage.gaussian_filter1d(positions, 3.0, mode="nearest")
    positions[0], positions[-1] = 0.0, len(source) - 1.0
    return np.maximum.accumulate(positions).astype(np.float32), float(distances.mean())


def pauses(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """First and last frames (P, 2) of the silences of at least PAUSE_SECONDS."""
    level = scipy.ndimage.uniform_filter1d(mel.mean(axis=1), 3)
    quiet = level < 0.5 * np.percentile(level, 80)
    runs, n_runs = scipy.ndimage.label(quiet)
    found = [(run[0].start, run[0].stop - 1) for run in scipy.ndimage.find_objects(runs, n_runs)
             if run[0].stop - run[0].start >= PAUSE_SECONDS * hp.frames_per_second]
    return np.array(found, int).reshape(-1, 2)


def cut_long(source: np.ndarray, target: np.ndarray, hp: HyperParams) -> list[tuple[int, int, int, int]]:
    """Cut a pair of mel spectrograms into segments of at most `hp.max_seconds` at pauses that match in both.

    Returns (source start, source end, target start, target end) in frames; a segment with no matching pause stays
    longer than that, and the caller drops it.
    """
    longest = hp.max_seconds * hp.frames_per_second
    if max(len(source), len(target)) <= longest:
        return [(0, len(source), 0, len(target))]
    step = max(COARSE, math.ceil(max(len(source), len(target)) / 4000))  # limits the memory for aligning an hour
    coarse = [alignment_features(utils.reduce_frames(mel, step).reshape(-1, step, hp.n_mels).mean(axis=1), hp)
              for mel in (source, target)]
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


def make_slices(path: np.ndarray, seed: str, hp: HyperParams) -> list[tuple[int, int, int, int]]:
    """Slices of `slice_min_seconds` to `slice_max_seconds` of the target, each overlapping the next by half.

    Returns (target start, target end, source start, source end) in frames, the source's along the DTW `path`.
    """
    rng = random.Random(seed)
    rows, start = [], 0
    while not rows or start + hp.slice_min_seconds * hp.frames_per_second / 2 < len(path):
        length = round(rng.uniform(hp.slice_min_seconds, hp.slice_max_seconds) * hp.frames_per_second)
        end = min(start + length, len(path))
        start = max(0, min(start, end - round(hp.slice_min_seconds * hp.frames_per_second)))
        rows.append((start, end, int(path[start]), math.ceil(path[end - 1]) + 1))
        start += length // 2
    return rows
