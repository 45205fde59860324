"""Features that the networks read: linear spectrogram, pitch, and a mel spectrogram without harmonics.

Below 1 kHz mel bands are narrower than the distance of harmonics, and every voice has its harmonics at other
frequencies. What two speakers share is the spectral envelope, so all mel spectrograms of source and target here are
envelopes. The post-net draws the harmonics from the pitch.
"""
import functools
import os
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.ndimage

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports its use otherwise
import utils
from common import storage
from hyperparams import HyperParams

import swift_f0

KINDS = ("linear", "mel", "pitch")  # the files that hold the `Features` of a recording, in their order
VOICED = 0.5  # confidence of the pitch tracker from which a frame counts as voiced
# Seconds in which the pitch of a tone moves by less than so many octaves, and that such parts last together at least:
# there are none in 1,086 sentences of nine people, and up to .45 s in one of a synthetic voice
TONE_SECONDS, TONE_MOVES, TONE_LASTS = 0.2, 0.01, 0.5
SPOKEN_FRAMES = 40  # voiced frames beside a tone, from which a voice is known by them alone


class Features(NamedTuple):
    """Features of a recording: float16, as they are stored, except for the pitch."""
    linear: np.ndarray  # (T, F) normalised linear spectrogram
    mel: np.ndarray     # (T, M) normalised mel spectrogram of the envelope
    hertz: np.ndarray   # (T,) fundamental frequency, 0 where unvoiced


def files(stem: pathlib.Path) -> list[pathlib.Path]:
    """The files of a recording's features; `stem` is features/SPEAKER/UTTERANCE."""
    return [stem.with_name(f"{stem.name}.{kind}.npy") for kind in KINDS]


def save(stem: pathlib.Path, features: Features) -> None:
    for path, array in zip(files(stem), features):
        storage.save_array(path, array)


def load(stem: pathlib.Path) -> Features:
    """The features that `save` wrote, memory-mapped."""
    return Features(*(np.load(path, mmap_mode="r", allow_pickle=False) for path in files(stem)))


def extract(wav: np.ndarray, hp: HyperParams) -> Features:
    """The features of a recording (samples,) of any length."""
    hertz = pitch(wav, hp)
    contour, linear, mel, start = pitch_contour(hertz, hp), [], [], 0
    for part, own in utils.blocks(wav, hp):
        linear.append(utils.spectrograms(part, hp)[1][own].astype(np.float16))
        mel.append(mel_envelope(linear[-1], contour[start:start + len(linear[-1])], hp).astype(np.float16))
        start += len(linear[-1])
    return Features(np.concatenate(linear), np.concatenate(mel), hertz)


def pitch(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Fundamental frequency (T,) in Hz of (samples,), 0 where unvoiced, for each frame of `utils.spectrograms`, by
    SwiftF0 (Nieradzik 2025, arXiv:2508.18440). Between its frames, 16 ms apart, confidence and octaves are
    interpolated. It reads 30 s at a time, so that a recording may have any length."""
    found = pitch_tracker().detect(wav, hp.sample_rate, hp.pitch_min, hp.pitch_max)
    seconds, voiced = np.arange(1 + len(wav) // hp.hop_length) / hp.frames_per_second, found.confidence >= VOICED
    if not voiced.any():
        return np.zeros(len(seconds), np.float32)
    octaves = np.interp(seconds, found.timestamps[voiced], np.log2(found.pitch_hz[voiced]))
    confidence = np.interp(seconds, found.timestamps, found.confidence)
    return np.where(confidence >= VOICED, 2.0 ** octaves, 0.0).astype(np.float32)


@functools.cache
def pitch_tracker() -> swift_f0.SwiftF0:
    """The model of `pitch`, read once in each process. It gets one thread, because each core has a process."""
    return swift_f0.SwiftF0(threads=1)


def pitch_contour(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Octaves (T,) above `hp.pitch_middle` of a pitch (T,) in Hz, interpolated through unvoiced frames (0)."""
    voiced = hertz > 0.0
    if not voiced.any():
        return np.zeros(len(hertz), np.float32)
    frames = np.arange(len(hertz))
    return np.interp(frames, frames[voiced], np.log2(hertz[voiced] / hp.pitch_middle)).astype(np.float32)


def spoken_octaves(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Octaves (n,) above `hp.pitch_middle` of the voiced frames alone of a pitch (T,) in Hz."""
    return pitch_contour(hertz, hp)[hertz > 0.0]


def tone_frames(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """In which frames (T,) a pitch (T,) in Hz, 0 where unvoiced, is that of a tone: it moves less than any voice does.
    None if they have several pitches, as synthetic notes."""
    frames, octaves = round(TONE_SECONDS * hp.frames_per_second), np.log2(np.maximum(hertz, 1.0))
    lowest, highest = scipy.ndimage.minimum_filter1d(octaves, frames), scipy.ndimage.maximum_filter1d(octaves, frames)
    still = scipy.ndimage.maximum_filter1d((lowest > 0.0) & (highest - lowest < TONE_MOVES), frames,
                                           origin=frames % 2 - 1)
    one = still & (np.abs(octaves - np.median(octaves[still] if still.any() else octaves)) < 2.0 * TONE_MOVES)
    is_tone = one.sum() > max(still.sum() / 2, TONE_LASTS * hp.frames_per_second)
    return one if is_tone else np.zeros(len(hertz), bool)


def spoken(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The pitch (T,) in Hz without the frames of a tone, unless the rest is too little to know a voice by."""
    rest = np.where(tone_frames(hertz, hp), 0.0, hertz)
    return rest if np.count_nonzero(rest) > SPOKEN_FRAMES else hertz


def mel_envelope(linear: np.ndarray, contour: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Mel spectrogram (T, M) of the spectral envelope of (T, F), whose pitch is `contour` (T,) octaves: averaging twice
    over a window as wide as the pitch removes the harmonics (CheapTrick, Morise 2015, section 3, smooths the power once
    in this way). Pitch is rounded to semitones, for each of which averages and mel filters are one matrix."""
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
    reach = int(width / 2) + 1
    shares = np.clip(width / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0.0, 1.0)  # of bins that lie in the window
    return scipy.ndimage.convolve1d(magnitude, shares / width, axis=1, mode="mirror")
