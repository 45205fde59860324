"""Steady tones in a recording: the hum of the mains with its overtones, fans. They are found and subtracted."""
import functools

import numpy as np
import scipy.fft
import scipy.ndimage

LOWEST, HIGHEST = 45.0, 2000.0  # Hz
MAINS = 50.0, 60.0  # Hz; if it hums, so do its multiples
OFF = 0.002         # share by which the mains, or the clock of a recorder, are wrong at most
PIECE = 60          # seconds that are judged at a time; the mains drift, and a fan may be switched on
SEGMENT = 8.0       # seconds in which a tone stays at its frequency
AROUND = 10.0       # Hz to both sides of a frequency, with whose median it is compared
CLEAR = 10.0        # dB above that; speech, whose pitch moves, reaches 15
STEADY = 6.0        # dB from the median of a tone's level down to its 10th percentile; at least 9 in speech
FAINTEST = 38.0     # dB below the level of the recording; a fainter tone harms nothing
MOST = 30.0         # dB of all tones above what is left; if that is less, they are the sound itself
BLOCKS = 20         # a second, in which the level and the phase of a tone are measured
LASTS = 61          # blocks, over which they hardly change
SURE = 0.7          # share of the power at a multiple of the mains that does not change


def subtract(wav: np.ndarray, sample_rate: int) -> tuple[np.ndarray, str]:
    """Subtract steady tones from (samples,); returns the rest and what is to be said of them, "" if there are none."""
    n_pieces = max(1, len(wav) // (PIECE * sample_rate))
    pieces = np.array_split(wav, n_pieces)
    found = [find(piece, sample_rate) for piece in pieces]
    if not any(found):
        return wav, ""
    rest = np.concatenate([without(*each, sample_rate) if each[1] else each[0] for each in zip(pieces, found)])
    below = 10.0 * np.log10((np.mean(rest ** 2) + 1e-20) / (np.mean((wav - rest) ** 2) + 1e-20))
    if not -MOST < below < FAINTEST:
        return wav, ""
    named = sorted({round(each) for hertz in found for mains in [mains_of(hertz)]
                    for each in [mains, *hertz] if each and (each == mains or not is_multiple(each, mains))})
    where = f"{abs(below):.0f} dB {'below' if below > 0.0 else 'above'} the rest"
    return rest, (f"a hum of {', '.join(map(str, named))} Hz, {where}, is removed; record farther from mains, "
                  "transformers and fans, if that is heard")


def without(wav: np.ndarray, found: list[float], sample_rate: int) -> np.ndarray:
    """Subtract tones of some frequencies in Hz, and all multiples of the mains if one is among them, from (samples,).
    What is quiet tells most of their amplitude and phase, so speech, which passes, stays as it is."""
    mains = mains_of(found)
    hertz = np.array([each for each in found if not is_multiple(each, mains)] + (
        list(np.arange(1, HIGHEST // mains) * mains) if mains else []))
    values, hop = amplitudes(wav, sample_rate, hertz), sample_rate // BLOCKS                                # (T, L)
    smooth = functools.partial(scipy.ndimage.uniform_filter1d, size=LASTS, axis=0, mode="nearest")
    turns, rising = 2j * np.pi * hertz / sample_rate, np.arange(hop) / hop
    wave, rest = np.exp(np.outer(turns, np.arange(hop))), wav                                             # (L, hop)
    for _ in range(2):  # in a loud hum, only what is left tells what is quiet
        power = np.square(rest[:len(wav) // hop * hop], dtype=np.float64).reshape(-1, hop).mean(axis=1)
        weights = (np.convolve(power, np.hanning(6)[1:-1], "valid")[:, None] + 1e-12) ** -2.0
        steady = (smooth(values.real * weights) + 1j * smooth(values.imag * weights)) / smooth(weights)
        steady *= (weights * np.abs(steady) ** 2).sum(axis=0) > SURE * (weights * np.abs(values) ** 2).sum(axis=0)
        steady = np.pad(steady, ((2, 3), (0, 0)), mode="edge")  # at the bounds of all blocks, and of one more
        steady *= np.exp(turns * hop * np.arange(len(steady))[:, None])
        tones = steady[:-1] @ (wave * (1.0 - rising)) + steady[1:] @ (wave * rising * np.exp(-turns * hop)[:, None])
        rest = wav - tones.real.reshape(-1)[:len(wav)].astype(np.float32)
    return rest


def find(wav: np.ndarray, sample_rate: int) -> list[float]:
    """The frequencies in Hz of the steady tones in (samples,): they stand out of the spectrum, and their level does
    not move."""
    n = min(len(wav), round(SEGMENT * sample_rate))
    if n < sample_rate:
        return []
    power = scipy.ndimage.uniform_filter1d(np.square(wav, dtype=np.float64), sample_rate // 10)
    even = wav / np.sqrt(power + 1e-7 * power.max() + 1e-20)  # pauses, where a tone is heard, count as much as speech
    size, window = scipy.fft.next_fast_len(2 * n), np.hanning(n)
    spectrum = sum(np.abs(scipy.fft.rfft(even[start:start + n] * window, size)) ** 2
                   for start in range(0, len(wav) - n + 1, n // 2))
    step = sample_rate / size
    around = round(AROUND / step)
    spectrum = spectrum[:round(HIGHEST / step) + 2 * around]
    usual = scipy.ndimage.median_filter(spectrum, 2 * around + 1)
    decibels = 10.0 * np.log10((spectrum + 1e-30) / (usual + 1e-30))
    peaks = np.flatnonzero((decibels > CLEAR) & (decibels == scipy.ndimage.maximum_filter1d(decibels, around)))
    peaks = peaks[(peaks > LOWEST / step) & (peaks < HIGHEST / step)]
    if not len(peaks):
        return []
    before, at, after = np.log(spectrum[peaks[:, None] + [-1, 0, 1]]).T
    hertz = (peaks + 0.5 * (before - after) / (before - 2.0 * at + after)) * step  # the top of a parabola
    levels = 20.0 * np.log10(np.abs(amplitudes(wav, sample_rate, hertz)) + 1e-10)
    low, usual = np.percentile(levels, (10, 50), axis=0)
    heard = usual > 10.0 * np.log10(2.0 * np.mean(wav ** 2)) - FAINTEST
    return hertz[heard & (usual - low < STEADY)].tolist()


def mains_of(found: list[float]) -> float:
    """The frequency in Hz of the mains of which most of the tones are multiples, or 0."""
    own = max(([hertz / round(hertz / mains) for hertz in found if is_multiple(hertz, mains)] for mains in MAINS),
              key=len)
    return float(np.median(own)) if own else 0.0


def is_multiple(hertz: float, mains: float) -> bool:
    """Whether a frequency is a multiple of that of the mains, if that is not 0."""
    return mains > 0.0 and abs(hertz - max(1, round(hertz / mains)) * mains) < OFF * hertz


def amplitudes(wav: np.ndarray, sample_rate: int, hertz: np.ndarray) -> np.ndarray:
    """The complex amplitudes (T, L) of tones of (L,) Hz in (samples,), each over four blocks, where tones of 10 Hz
    apart are told from each other. A steady tone has the same in all."""
    hop = sample_rate // BLOCKS
    parts = wav[:len(wav) // hop * hop].reshape(-1, hop)
    window = np.hanning(4 * hop + 1)[:-1, None]
    kernel = (window / window.sum() * 2.0 * np.exp(-2j * np.pi / sample_rate * np.arange(4 * hop)[:, None] * hertz))
    values, n = 0.0, len(parts) - 3
    for i, part in enumerate(kernel.reshape(4, hop, -1).astype(np.complex64)):
        values = values + parts[i:i + n] @ part.real + 1j * (parts[i:i + n] @ part.imag)
    return values * np.exp(-2j * np.pi / sample_rate * np.arange(n)[:, None] * hop * hertz)
