"""Linear maps from the frames of one voice to those of another: least squares, frames in context, vocal tracts."""
import utils
from corpus import augment
from hyperparams import HyperParams

import numpy as np
import scipy.fft
import scipy.ndimage

CONTEXT = 4                  # source frames before and after each frame that a map also reads
PENALTY = 30.0               # weight of a map's squared coefficients; mel spectrograms lie in [0, 1]
FORMANTS = 4.0               # bands, deviation of the Gaussian; the spectrum less its smoothed copy shows the formants
# Lengths of vocal tracts, as factors of frequency, the nearest to 1 first
WARPS = np.array(sorted(np.arange(0.75, 1.351, 0.05), key=lambda factor: abs(np.log(factor))))


def in_context(mel: np.ndarray, context: int = CONTEXT) -> np.ndarray:
    """(S, M) to (S, W): each frame with its neighbours on both sides; the end frames are repeated."""
    padded = np.pad(mel, ((context, context), (0, 0)), mode="edge")
    return np.concatenate([padded[i:i + len(mel)] for i in range(2 * context + 1)], axis=1)


def interpolate(frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate (S, C) linearly at the fractional frames `positions` (T,): (T, C)."""
    return augment.warp_bins(frames.T, np.clip(positions, 0.0, len(frames) - 1.0)).T if len(frames) > 1 else (
        np.repeat(frames, len(positions), axis=0))


def mel_cepstra(mel: np.ndarray) -> np.ndarray:
    return scipy.fft.dct(mel, axis=1, norm="ortho")


def warp_formants(mel: np.ndarray, factor: float, hp: HyperParams) -> np.ndarray:
    """Shift the formants of (S, M) to `factor` times their frequency."""
    centres = utils.mel_centres(hp.sample_rate, hp.n_mels)
    return augment.warp_bins(mel, np.interp(centres / factor, centres, np.arange(hp.n_mels)))


def find_warp(source: np.ndarray, mapped: np.ndarray, hp: HyperParams) -> float:
    """The factor of frequency that brings the formants of a source (S, M) nearest to those of the mapped mel (S, M)."""
    def formants(mel):
        mel = mel - mel.mean(axis=0)
        mel = mel - scipy.ndimage.gaussian_filter1d(mel, FORMANTS, axis=1, mode="nearest")
        return mel / max(np.linalg.norm(mel), 1e-8)
    there = formants(mapped)
    return float(max(WARPS, key=lambda factor: (formants(warp_formants(source, factor, hp)) * there).sum()))


class Sums:
    """The sums over input frames (n, W) and output frames (n, M) that least squares needs."""

    def __init__(self, n_inputs: int, n_outputs: int):
        self.count, self.x, self.y = 0, np.zeros(n_inputs), np.zeros(n_outputs)
        self.xx, self.xy = np.zeros((n_inputs, n_inputs)), np.zeros((n_inputs, n_outputs))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        self.count += len(x)
        self.x, self.y = self.x + x.sum(axis=0, dtype=np.float64), self.y + y.sum(axis=0, dtype=np.float64)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def solve(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (W, M) and bias (M,) of ridge regression; the bias is not penalised."""
        x, y = self.x / self.count, self.y / self.count
        covariance = self.xx - self.count * np.outer(x, x) + penalty * np.eye(len(x))
        kernel = np.linalg.solve(covariance, self.xy - self.count * np.outer(x, y))
        return kernel.astype(np.float32), (y - x @ kernel).astype(np.float32)


def moments(octaves: list[np.ndarray]) -> tuple[float, float]:
    """Mean and deviation of the pitch of several recordings; 0 and 1 if no frame is voiced."""
    found = np.concatenate(octaves)
    return (float(found.mean()), max(float(found.std()), 0.01)) if len(found) else (0.0, 1.0)
