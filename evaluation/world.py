"""Measures on WORLD's analysis of speech (Morise et al. 2016): the usual mel-cepstral distortion, and the pitch; only
if pyworld and pysptk are installed, which are built by a C compiler: `pip install -r requirements/world.txt`.

F0 by Harvest between 60 and 500 Hz, spectral envelope by CheapTrick every 5 ms, mel-cepstrum of order 24 with alpha
0.41; the zeroth coefficient and silent frames (more than 40 dB below the loudest) are dropped.
"""
import warnings
from typing import NamedTuple

import numpy as np

from corpus import alignment
from evaluation import metrics
from hyperparams import HyperParams

try:
    with warnings.catch_warnings():  # both libraries use a deprecated part of setuptools to find their own version
        warnings.simplefilter("ignore")
        import pysptk
        import pyworld
except ImportError:
    pysptk = pyworld = None

FRAME_MS = 5.0
ORDER, ALPHA = 24, 0.41
SILENCE_DB = 40.0
DECIBEL = 10.0 / np.log(10.0) * np.sqrt(2.0)  # factor from the Euclidean distance of two mel-cepstra to dB


class Speech(NamedTuple):
    """WORLD's analysis of a recording, without silent frames."""
    cepstra: np.ndarray  # (T, 24) mel-cepstrum, scaled so that Euclidean distances are in dB
    f0: np.ndarray       # (T,) Hz, 0 where unvoiced


def available() -> bool:
    """Whether the libraries are installed."""
    return pyworld is not None


def analyse(wav: np.ndarray, hp: HyperParams) -> Speech:
    """Analyse a recording (samples,)."""
    wav, sample_rate = np.asarray(wav, np.float64), hp.sample_rate
    f0, times = pyworld.harvest(wav, sample_rate, f0_floor=60.0, f0_ceil=500.0, frame_period=FRAME_MS)
    envelope = pyworld.cheaptrick(wav, f0, times, sample_rate)                           # (T, bins) power
    level = 10.0 * np.log10(envelope.mean(axis=1))
    speech = level > level.max() - SILENCE_DB
    return Speech(DECIBEL * pysptk.sp2mc(envelope[speech], ORDER, ALPHA)[:, 1:], f0[speech])


def compare(speech: Speech, reference: Speech) -> dict[str, float]:
    """Measures of converted speech, compared with the target's. F0 is compared along the DTW path of the cepstra, at
    frames where both are voiced; the result is NaN if there is no such frame."""
    path, distances = alignment.dtw(speech.cepstra, reference.cepstra)
    f0, true = speech.f0[path[:, 0]], reference.f0[path[:, 1]]
    both = (f0 > 0) & (true > 0)
    voiced = f0[both], true[both]
    own = [np.median(x.f0[x.f0 > 0]) if (x.f0 > 0).any() else np.nan for x in (speech, reference)]
    return {"MCD dB": float(distances.mean()),
            "global variance ratio": metrics.global_variance_ratio(speech.cepstra, reference.cepstra),
            "F0 RMSE Hz": float(np.sqrt(np.mean((voiced[0] - voiced[1]) ** 2))) if both.any() else np.nan,
            "F0 correlation": float(np.corrcoef(*voiced)[0, 1]) if both.sum() > 2 else np.nan,
            "median F0 ratio": float(own[0] / own[1]),
            "voicing error": float(np.mean((f0 > 0) != (true > 0)))}
