"""Measures of a conversion in free running.

Mel-cepstra here are the cosine transform of the log-mel spectrum (utils.cepstra, order 24, 12.5 ms), not those of a
vocoder as WORLD, so decibels can be compared only within this project.
"""
import math
from typing import NamedTuple

import utils
from corpus import alignment, analysis
from hyperparams import HyperParams

import numpy as np


def speech_cepstra(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Cepstra (T', 24) of the frames of a mel spectrogram (T, M) that are heard."""
    return utils.cepstra(mel[is_heard(mel)], hp)


def is_heard(mel: np.ndarray) -> np.ndarray:
    """Which frames (T,) of a mel spectrogram (T, M) are not silent; all frames if all are."""
    level = mel.mean(axis=1)
    heard = level > utils.SPEECH_LEVEL * np.percentile(level, 80)
    return heard if heard.any() else ~heard


class Speech(NamedTuple):
    """The analysis of a recording that the measures use, of the frames that are not silent."""
    cepstra: np.ndarray  # (T', 24)
    hertz: np.ndarray    # (T',) fundamental frequency, 0 where unvoiced


def analyse(wav: np.ndarray, hp: HyperParams) -> Speech:
    """Cepstra and pitch of a recording (samples,)."""
    wav = utils.normalise_loudness(wav, hp)
    mel = utils.spectrograms(wav, hp)[0]
    return Speech(speech_cepstra(mel, hp), analysis.pitch(wav, hp)[is_heard(mel)])


def compare(speech: Speech, reference: Speech) -> dict[str, float]:
    """Measures of converted speech, compared with the target's. The pitch is compared along the DTW path of the
    cepstra, at frames where both are voiced; a measure of it is NaN if there are none."""
    path, distances = alignment.dtw(speech.cepstra, reference.cepstra)
    pairs = np.stack([speech.hertz[path[:, 0]], reference.hertz[path[:, 1]]])                          # (2, L)
    both = pairs[:, (pairs > 0.0).all(axis=0)]
    medians = [np.median(each[each > 0.0]) if each.any() else math.nan for each in (speech.hertz, reference.hertz)]
    return {"MCD dB": float(distances.mean()),
            "global variance ratio": global_variance_ratio(speech.cepstra, reference.cepstra),
            "F0 RMSE Hz": float(np.sqrt(np.mean(np.square(both[0] - both[1])))) if both.size else math.nan,
            "F0 correlation": float(np.corrcoef(both)[0, 1]) if both.shape[1] > 2 else math.nan,
            "median F0 ratio": float(medians[0] / medians[1]),
            "voicing error": float(np.mean((pairs[0] > 0.0) != (pairs[1] > 0.0)))}


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
