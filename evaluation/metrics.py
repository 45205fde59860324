"""Measures of a conversion in free running; they need no optional packages.

Mel-cepstra here are the cosine transform of the log-mel spectrum (utils.cepstra, order 24, 12.5 ms), not WORLD's, so
the figures can be compared only within this project.
"""
from typing import NamedTuple

import numpy as np

import utils
from corpus import alignment
from hyperparams import HyperParams


def speech_cepstra(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Cepstra (T', 24) of the frames of a mel spectrogram (T, M) that are not silent, or of all frames if all are."""
    level = mel.mean(axis=1)
    speech = mel[level > utils.SPEECH_LEVEL * np.percentile(level, 80)]
    return utils.cepstra(speech if len(speech) else mel, hp)


class Speech(NamedTuple):
    """The analysis of a recording that the measures use."""
    cepstra: np.ndarray  # (T', 24)


def analyse(wav: np.ndarray, hp: HyperParams) -> Speech:
    """Cepstra of a recording (samples,)."""
    return Speech(speech_cepstra(utils.spectrograms(utils.normalise_loudness(wav, hp), hp)[0], hp))


def compare(speech: Speech, reference: Speech) -> dict[str, float]:
    """Measures of converted speech, compared with the target's."""
    return {"MCD dB": mel_cepstral_distortion(speech.cepstra, reference.cepstra),
            "global variance ratio": global_variance_ratio(speech.cepstra, reference.cepstra)}


def mel_cepstral_distortion(cepstra: np.ndarray, reference: np.ndarray) -> float:
    """Mean distance in dB along the DTW path of two sequences of cepstra (T, 24). It favours an output that stalls, so
    read it only together with duration and retrieval."""
    return float(alignment.dtw(cepstra, reference)[1].mean())


def retrieve(speech: NamedTuple, candidates: dict) -> dict:
    """Distance in dB of one conversion to each target sentence, all with `cepstra` of one analysis; the content is
    right if the true sentence is nearest. Babble in the target's voice does not pass this test."""
    return {key: mel_cepstral_distortion(speech.cepstra, candidate.cepstra) for key, candidate in candidates.items()}


def path_distance(positions: np.ndarray, path: np.ndarray) -> float:
    """Mean distance in frames between the positions read in free running (T,) and the DTW path (T'). The shorter one is
    continued with its last value, so that stopping early or late is not rewarded."""
    length = max(len(positions), len(path))
    read, true = (np.pad(each, (0, length - len(each)), mode="edge") for each in (positions, path))
    return float(np.abs(read - true).mean())


def duration_error(n_frames: int, n_reference: int) -> float:
    """Difference of durations as a share of the reference's duration."""
    return abs(n_frames - n_reference) / n_reference


def modulation_spectrum(cepstra: np.ndarray) -> np.ndarray:
    """Mean power in dB (24, MODULATION_FRAMES / 2) of the changes over time of cepstra (T, 24), at modulation
    frequencies up to half the frame rate, without the constant part (Takamichi et al. 2014, section 3)."""
    import scipy.signal  # here, as in base.modulation_power
    padded = np.pad(cepstra, ((0, max(0, utils.MODULATION_FRAMES - len(cepstra))), (0, 0)), mode="edge")
    power = scipy.signal.welch(padded, window=np.hanning(utils.MODULATION_FRAMES), axis=0)[1][1:]
    return 10.0 * np.log10(power.T + 1e-8)


def modulation_distance(cepstra: list[np.ndarray], references: list[np.ndarray]) -> float:
    """Root mean square difference in dB between the mean modulation spectrum of all conversions and that of all
    references; over-smooth speech lacks fast movements."""
    mean = [np.mean([modulation_spectrum(x) for x in group], axis=0) for group in (cepstra, references)]
    return float(np.sqrt(np.mean(np.square(mean[0] - mean[1]))))


def global_variance_ratio(cepstra: np.ndarray, reference: np.ndarray) -> float:
    """Geometric mean over the coefficients of var(converted) / var(target); below 1 the output is over-smooth."""
    return float(np.exp(np.mean(np.log(cepstra.var(axis=0) / reference.var(axis=0)))))
