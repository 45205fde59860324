"""Which channel of a recording holds the speech. The mean is best if all hold the same sound, but nothing is left if
one is inverted, and two microphones or two people sound hollow or mixed."""
import numpy as np
import soundfile

SPEECH_BAND = 200, 4000  # Hz; rumble, hum and a constant offset lie below it, and channels may share them
FRAME_SECONDS = 0.04
SILENT = 1e-4       # share of the loudest channel's power below which a channel holds no sound
ALIKE = 0.45        # correlation from which channels hold the same sound; that of channels 0.2 ms apart is lower
STEADY_DB = 4.0     # how much the levels of such channels may change against each other
PITCH = 400, 80     # Hz
VOICED = 0.7        # correlation of a frame with itself one period later from which it is voiced
BLOCK = 2 ** 20     # samples of all channels that are read at a time


def choose(file: soundfile.SoundFile) -> tuple[np.ndarray, str]:
    """Weights (C,) of the channels of an open file, and what is to be said about them ("" if they agree): channels in
    phase whose levels rise and fall together are averaged, otherwise the one is used that is most like speech."""
    power, products, levels, voiced = measure(file)
    heard = power > SILENT * power.max()
    if not heard.any():
        return np.full(file.channels, 1.0 / file.channels), ""
    products, level = products[:, heard][:, :, heard], levels[:, heard] / levels[:, heard].mean(axis=0)
    squares = np.einsum("fcc->fc", products)
    even = np.sqrt(np.sqrt(squares[:, :, None] * squares[:, None]))  # or the loudest frequencies alone would decide
    least = ((products / (even + 1e-30)).sum(axis=0) / even.sum(axis=0)).min()
    decibel, loud = 10.0 * np.log10(level + 1e-3), np.sqrt(level.max(axis=1))
    apart = decibel - decibel[:, :1]
    change = np.sqrt(np.average((apart - np.average(apart, axis=0, weights=loud)) ** 2, axis=0, weights=loud)).max()
    if least >= ALIKE and change <= STEADY_DB:
        return heard / heard.sum(), ""
    above = np.maximum(decibel - np.percentile(decibel, 10, axis=0), 0.0)
    pitched = above * voiced[:, heard]
    # Tones are all voiced, clicks and noise are not at all; the last part finds singing and whispering
    score = np.minimum(pitched.mean(axis=0), 3.0 * (above - pitched).mean(axis=0)) + 0.03 * above.mean(axis=0)
    best = np.flatnonzero(heard)[score.argmax()]
    what = ("cancel each other, one is inverted" if least <= -ALIKE else
            "hold different sounds, as of two microphones, two people or noise")
    return np.eye(file.channels)[best], (f"its channels {what}: only channel {best + 1} of {file.channels} is used; "
                                         "--channel chooses another")


def measure(file: soundfile.SoundFile) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Power (C,) of the channels of an open file within SPEECH_BAND; and with a rise of 6 dB an octave, as much as
    speech falls: products (F, C, C) of their spectra, power (frames, C), and which frames are voiced (frames, C)."""
    frame = max(1, round(FRAME_SECONDS * file.samplerate))
    low, high = (round(hertz * FRAME_SECONDS) for hertz in SPEECH_BAND)
    rise = np.arange(high) * (np.arange(high) >= low)
    products = np.zeros((high, file.channels, file.channels))
    levels, voiced = [np.zeros((0, file.channels))], [np.zeros((0, file.channels), bool)]
    hann = np.hanning(2 * high)
    fading = np.correlate(hann, hann, "full")[2 * high - 1:, None] / (hann @ hann)  # of a correlation with its lag
    periods = slice(*(2 * SPEECH_BAND[1] // hertz for hertz in PITCH))  # lags, at twice the highest frequency
    while len(block := file.read(BLOCK // file.channels, dtype="float32", always_2d=True)):
        frames = block[:len(block) // frame * frame].reshape(-1, frame, file.channels)
        spectra = np.fft.rfft(frames * np.hanning(frame)[:, None], axis=1)[:, :high]               # (frames, F, C)
        spectra *= rise[:spectra.shape[1], None]
        products[:spectra.shape[1]] += np.einsum("tfc,tfd->fcd", spectra, spectra.conj()).real
        correlation = np.fft.irfft(np.abs(spectra) ** 2, 2 * high, axis=1)                         # (frames, lags, C)
        levels.append(correlation[:, 0].copy())  # a view would keep all of it
        voiced.append((correlation[:, periods] / fading[periods]).max(axis=1) > VOICED * correlation[:, 0])
    power = np.einsum("fcc,f->c", products, 1.0 / np.maximum(rise, 1.0) ** 2)
    return power, products, np.concatenate(levels), np.concatenate(voiced)
