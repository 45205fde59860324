"""How natural speech sounds: opinion scores from 1 to 5, as a network estimates them that learnt from listeners.

DNSMOS (Reddy et al. 2021 and 2022) by speechmos, which brings the weights: `pip install -r requirements-asr.txt`.
Without it evaluation leaves the scores out. It learnt from noisy and enhanced speech, not from conversions: read it
beside the natural recordings and the copies, not by itself.
"""
import importlib.util

import numpy as np

from compiled import librosa
from hyperparams import HyperParams

SAMPLE_RATE = 16000  # Hz
WINDOW = 144160      # samples, 9.01 s, that the network judges at a time
SCORES = {"DNSMOS OVRL": "ovrl_mos", "DNSMOS P.808": "p808_mos"}


def available() -> bool:
    """Whether the libraries are installed."""
    return all(importlib.util.find_spec(name) for name in ("speechmos", "onnxruntime"))


def estimate(wav: np.ndarray, hp: HyperParams) -> dict[str, float]:
    """Scores of a recording (samples,): overall quality (ITU-T P.835) and quality (P.808); NaN if it is empty.

    One shorter than a window is repeated to its end. speechmos would double it and judge it again every second: the
    same means within 0.02 in four times the time.
    """
    from speechmos import dnsmos
    wav = librosa.resample(np.asarray(wav, np.float32), orig_sr=hp.sample_rate, target_sr=SAMPLE_RATE)
    if not len(wav):
        return dict.fromkeys(SCORES, np.nan)
    found = dnsmos.run(np.resize(wav / max(1.0, np.abs(wav).max()), max(len(wav), WINDOW)), SAMPLE_RATE)
    return {name: float(found[key]) for name, key in SCORES.items()}
