"""Which channel of a recording holds the speech. The mean of all channels is best if they hold the same sound, but
nothing is left of channels of which one is inverted, and two microphones or two people sound hollow or mixed."""
import numpy as np
import soundfile

ALIKE = 0.5         # correlation from which channels hold the same sound
SILENT = 1e-4       # share of the loudest channel's power below which a channel holds no sound
FRAME_SECONDS = 0.025
BLOCK = 2 ** 20     # samples of all channels that are read at a time


def choose(file: soundfile.SoundFile) -> tuple[np.ndarray, str]:
    """Weights (C,) of the channels of an open file, and what is to be said about them ("" if they agree).

    The channels are averaged if they hold the same sound. Otherwise the one whose speech stands highest above its
    pauses is used. The file is read from where it stands, block by block.
    """
    products, levels = np.zeros((file.channels, file.channels)), []
    frame = max(1, round(FRAME_SECONDS * file.samplerate))
    while len(block := file.read(BLOCK // file.channels, dtype="float32", always_2d=True)):
        products += block.T.astype(np.float64) @ block
        whole = block[:len(block) // frame * frame].reshape(-1, frame, file.channels)
        levels.append(np.square(whole).mean(axis=1))                                                  # (frames, C)
    power = np.diagonal(products)
    heard = np.flatnonzero(power > SILENT * power.max(initial=0.0))
    weights = np.zeros(file.channels)
    if len(heard) < 2:
        weights[heard] = 1.0
        return (weights if len(heard) else np.full(file.channels, 1.0 / file.channels)), ""
    correlations = (products / np.sqrt(np.outer(power, power) + 1e-30))[np.ix_(heard, heard)]
    if correlations.min() >= ALIKE:
        return np.full(file.channels, 1.0 / file.channels), ""
    decibel = 10.0 * np.log10(np.concatenate(levels)[:, heard] + 1e-12)
    contrast = np.percentile(decibel, 90, axis=0) - np.percentile(decibel, 10, axis=0)
    best = int(heard[contrast.argmax()])
    weights[best] = 1.0
    what = ("cancel each other, one is inverted" if correlations.min() <= -ALIKE else
            "hold different sounds, as of two microphones or two people")
    return weights, (f"its channels {what}: only channel {best + 1} of {file.channels} is used; --channel chooses "
                     "another")
