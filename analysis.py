"""A recording to what the networks read of it: linear spectrogram, pitch, and a mel spectrogram without harmonics.

Below 1 kHz mel bands are narrower than the distance of harmonics, which are at other places in every voice. What two
speakers share is the envelope above the harmonics, so all mel spectrograms of source and target are of that; the
harmonics are drawn by the post-net, from the pitch.
"""
from typing import NamedTuple

import librosa
import numpy as np

import utils
from hyperparams import HyperParams


class Features(NamedTuple):
    """What is known of a recording; float16 as it is stored, but for the pitch."""
    linear: np.ndarray  # (T, F) normalised linear spectrogram
    mel: np.ndarray     # (T, M) the same of its envelope
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

    A coarser grid than librosa's own, a quarter of a semitone and 20 thresholds: five times as fast and the same pitch,
    5 cents apart in the median, other voicing in 1 % of the frames.
    """
    hertz, voiced, _ = librosa.pyin(wav, fmin=hp.pitch_min, fmax=hp.pitch_max, sr=hp.sample_rate,
                                    frame_length=hp.n_fft, hop_length=hp.hop_length, resolution=0.25, n_thresholds=20)
    return np.where(voiced, hertz, 0.0).astype(np.float32)


def pitch_contour(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Octaves (T,) above `hp.pitch_middle` of a pitch (T,) in Hz, drawn on through what is unvoiced (0)."""
    voiced = hertz > 0.0
    if not voiced.any():
        return np.zeros(len(hertz), np.float32)
    frames = np.arange(len(hertz))
    return np.interp(frames, frames[voiced], np.log2(hertz[voiced] / hp.pitch_middle)).astype(np.float32)


def mel_envelope(linear: np.ndarray, contour: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Mel spectrogram (T, M) of the spectral envelope of (T, F), whose pitch is `contour` (T,) octaves.

    Averaged twice over a window as wide as the pitch, the magnitude has no harmonics left (CheapTrick, Morise 2015,
    section 3, smooths the power once so).
    """
    magnitude = utils.denormalise(linear.astype(np.float32), hp)
    width = hp.pitch_middle * 2.0 ** contour.astype(np.float64) * hp.n_fft / hp.sample_rate            # (T,) in bins
    envelope = average(average(magnitude, width), width)                                              # (T, F)
    mel = envelope @ utils.mel_filterbank(hp.sample_rate, hp.n_fft, hp.n_mels).T
    return utils.normalise(mel, hp)


def average(magnitude: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Mean of (T, F) over a window of `width` (T,) bins around each bin, the spectrum mirrored at both ends."""
    n_frames, n_bins = magnitude.shape
    beyond = int(width.max() / 2) + 2
    mirrored = np.pad(magnitude, ((0, 0), (beyond, beyond)), mode="reflect")
    sums = np.pad(np.cumsum(mirrored, axis=1, dtype=np.float64), ((0, 0), (1, 0)))                    # (T, F')

    def up_to(places: np.ndarray) -> np.ndarray:
        """The sum of each spectrum up to `places` (T, F), between bins in proportion."""
        whole = places.astype(int)
        share = places - whole
        return (np.take_along_axis(sums, whole, axis=1) * (1.0 - share)
                + np.take_along_axis(sums, whole + 1, axis=1) * share)
    middle, half = np.arange(n_bins) + beyond + 0.5, width[:, None] / 2
    return np.maximum(up_to(middle + half) - up_to(middle - half), 0.0) / width[:, None]
