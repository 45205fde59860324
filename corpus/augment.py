"""Random changes of spectrograms in training, so that the networks learn more from ten minutes of speech."""
import utils
from hyperparams import HyperParams

import numpy as np

BLUR_COPIES = 6
CURVE_POINTS = 4  # of the random curve that is added to a source's spectrum


def warp_bins(spectrogram: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate (T, bins) linearly at the fractional bins `places` (bins',): (T, bins')."""
    lower = np.clip(places.astype(int), 0, spectrogram.shape[1] - 2)
    share = np.clip(places - lower, 0.0, 1.0).astype(np.float32)
    return spectrogram[:, lower] * (1.0 - share) + spectrogram[:, lower + 1] * share


def blur(mel: np.ndarray, rng: np.random.Generator, hp: HyperParams) -> np.ndarray:
    """Average (T, M) over copies warped in frequency and shifted in time, by random amounts that may be zero: such
    averages an unsure decoder writes, and a post-net trained on natural mel alone would take them for noise."""
    warp, shift = rng.uniform(0.0, hp.mel_blur_freq), rng.uniform(0.0, hp.mel_blur_time)
    centres = utils.mel_centres(hp.sample_rate, hp.n_mels)
    total = np.zeros_like(mel)
    for _ in range(BLUR_COPIES):
        factor = np.exp(warp * np.clip(rng.normal(), -2.5, 2.5))
        frames = np.clip(np.arange(len(mel)) + round(shift * rng.normal()), 0, len(mel) - 1)
        total += warp_bins(mel[frames], np.interp(centres * factor, centres, np.arange(hp.n_mels)))
    return total / BLUR_COPIES


def vary(linear: np.ndarray, mel: np.ndarray, rng: np.random.Generator,
         hp: HyperParams) -> tuple[np.ndarray, np.ndarray]:
    """Vary the vocal tract and the colour of a source, linear (S, F) and mel (S, M), at random and both alike."""
    factor = np.exp(hp.augment_vtl * rng.uniform(-1.0, 1.0))
    colour = hp.augment_eq / hp.range_db * rng.uniform(-1.0, 1.0, CURVE_POINTS)
    bins, centres = np.arange(hp.n_linear), utils.mel_centres(hp.sample_rate, hp.n_mels)

    def varied(spectrogram, places, hertz):
        curve = np.interp(hertz, np.linspace(0.0, hp.sample_rate / 2, CURVE_POINTS), colour)
        return warp_bins(spectrogram, places) + curve.astype(np.float32)
    return (varied(linear, bins * factor, bins * hp.sample_rate / hp.n_fft),
            varied(mel, np.interp(centres * factor, centres, np.arange(hp.n_mels)), centres))
