"""Measures of a conversion. Each works on what came out in free running; none needs more than the fixed packages.

Mel-cepstra here are the cosine transform of the log-mel spectrum (utils.cepstra, order 24, 12.5 ms, loudness
normalised, zeroth coefficient and silent frames dropped), not WORLD's: figures compare within this project only.
"""
from typing import NamedTuple

import numpy as np
import scipy.signal

import analysis
import utils
from hyperparams import HyperParams

MODULATION_FRAMES = 64  # of a window of the modulation spectrum
SPEECH_LEVEL = 0.5  # of the level that speech reaches; frames below it are silent


def speech_cepstra(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Cepstra (T', 24) of the frames of a mel spectrogram (T, M) that are not silent; of all if all are."""
    level = mel.mean(axis=1)
    speech = mel[level > SPEECH_LEVEL * np.percentile(level, 80)]
    return utils.cepstra(speech if len(speech) else mel, hp)


class Speech(NamedTuple):
    """What is measured of a recording."""
    cepstra: np.ndarray  # (T', 24)


def analyse(wav: np.ndarray, hp: HyperParams) -> Speech:
    """Cepstra of a recording (samples,)."""
    return Speech(speech_cepstra(utils.spectrograms(utils.normalise_loudness(wav, hp), hp)[0], hp))


def compare(speech: Speech, reference: Speech) -> dict[str, float]:
    """Measures of converted speech against the target's."""
    return {"MCD dB": mel_cepstral_distortion(speech.cepstra, reference.cepstra),
            "global variance ratio": global_variance_ratio(speech.cepstra, reference.cepstra)}


def mel_cepstral_distortion(cepstra: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance in dB along the DTW path of two sequences of cepstra (T, 24).

    It favours an output that stalls (more frames to choose from): read it beside duration and retrieval only.
    """
    return float(analysis.dtw(cepstra, reference)[1].mean())


def retrieve(speech: NamedTuple, candidates: dict) -> dict:
    """Distance in dB of one conversion to each target sentence; content passes if the right one is the nearest.

    Babble in the target's voice has a good distortion and cannot pass this. `speech` and the values of `candidates`
    have `cepstra`, of any one analysis.
    """
    return {key: mel_cepstral_distortion(speech.cepstra, candidate.cepstra) for key, candidate in candidates.items()}


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


def modulation_spectrum(cepstra: np.ndarray) -> np.ndarray:
    """Mean power in dB (24, MODULATION_FRAMES / 2) of the movements of each cepstrum of (T, 24), up to half the frame
    rate and without the constant part (Takamichi et al. 2014, section 3, on windows of 0.8 s)."""
    padded = np.pad(cepstra, ((0, max(0, MODULATION_FRAMES - len(cepstra))), (0, 0)), mode="edge")
    power = scipy.signal.welch(padded, window=np.hanning(MODULATION_FRAMES), axis=0)[1][1:]
    return 10.0 * np.log10(power.T + 1e-8)


def modulation_distance(cepstra: list[np.ndarray], references: list[np.ndarray]) -> float:
    """Root mean square difference in dB of the modulation spectra of all conversions and of all references, each
    averaged over its sentences; over-smooth speech lacks fast movements."""
    mean = [np.mean([modulation_spectrum(x) for x in group], axis=0) for group in (cepstra, references)]
    return float(np.sqrt(np.mean(np.square(mean[0] - mean[1]))))


def global_variance_ratio(cepstra: np.ndarray, reference: np.ndarray) -> float:
    """Geometric mean over the coefficients of var(converted) / var(target); below 1 the output is over-smooth."""
    return float(np.exp(np.mean(np.log(cepstra.var(axis=0) / reference.var(axis=0)))))
