"""Measures of a conversion. Each works on what came out in free running; none needs more than the fixed packages.

Mel-cepstra here are the cosine transform of the log-mel spectrum (utils.cepstra, order 24, 12.5 ms, loudness
normalised, zeroth coefficient and silent frames dropped), not WORLD's: figures compare within this project only.
"""
import numpy as np

import alignment
import utils
from hyperparams import HyperParams

SPEECH_LEVEL = 0.5  # of the level that speech reaches; frames below it are silent


def speech_cepstra(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Cepstra (T', 24) of the frames of a mel spectrogram (T, M) that are not silent; of all if all are."""
    level = mel.mean(axis=1)
    speech = mel[level > SPEECH_LEVEL * np.percentile(level, 80)]
    return utils.cepstra(speech if len(speech) else mel, hp)


def wav_cepstra(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Cepstra (T', 24) of a recording (samples,)."""
    return speech_cepstra(utils.spectrograms(utils.normalise_loudness(wav, hp), hp)[0], hp)


def mel_cepstral_distortion(cepstra: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance in dB along the DTW path of two sequences of cepstra (T, 24).

    It favours an output that stalls (more frames to choose from): read it beside duration and retrieval only.
    """
    return float(alignment.dtw(cepstra, reference)[1].mean())


def retrieve(cepstra: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    """Distances in dB of one conversion to many target sentences; content passes if the right one is the nearest.

    Babble in the target's voice has a good distortion and cannot pass this.
    """
    return np.array([mel_cepstral_distortion(cepstra, candidate) for candidate in candidates])


def path_distance(positions: np.ndarray, path: np.ndarray) -> float:
    """Mean distance in frames between the positions read in free running (T,) and the DTW path (T').

    Both go on at their last value where the other is longer, so that neither stopping early nor late is rewarded.
    """
    length = max(len(positions), len(path))
    return float(np.abs(hold(positions, length) - hold(path, length)).mean())


def hold(values: np.ndarray, length: int) -> np.ndarray:
    """Lengthen (T,) to (length,) with its last value."""
    return np.pad(values, (0, length - len(values)), mode="edge")


def duration_error(n_frames: int, n_reference: int) -> float:
    """Difference of durations as a share of the reference's."""
    return abs(n_frames - n_reference) / n_reference


def global_variance_ratio(cepstra: np.ndarray, reference: np.ndarray) -> float:
    """Geometric mean over the coefficients of var(converted) / var(target); below 1 the output is over-smooth."""
    return float(np.exp(np.mean(np.log(cepstra.var(axis=0) / reference.var(axis=0)))))
