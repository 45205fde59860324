"""A voice from recordings of it alone: what a pretrained model makes of anybody's speech is turned into that voice.

A pretrained model keeps some speech that it made itself. Which of its sounds are which of the new voice is found as
between any two speakers who said other sentences (unpaired.py). The map from the one to the other, behind each of the
pretrained maps, makes a map of its own from everybody to the new voice, so that all that follows is as with pairs.
"""
import math
import pathlib
import random

import numpy as np

import analysis
import base
import unpaired
import utils
from base import Base

FILE = "speech.npz"  # in a folder of pretrained weights
SENTENCES = 80       # of that, from all sources together: four or five minutes
ENOUGH_SECONDS = 60.0  # of a new voice; with less the map hardly knows all of its sounds


def save_speech(corpus, folder: pathlib.Path) -> None:
    """Write what the base of a corpus makes of some sentences of each source, mel spectrograms in 8 bits."""
    rng, made = random.Random(corpus.hp.seed), []
    for source in corpus.base.speakers.tolist():
        pairs = [pair for pair in corpus.train if pair.source == source]
        for pair in rng.sample(pairs, min(len(pairs), math.ceil(SENTENCES / len(corpus.base.speakers)))):
            recording = corpus.recording(pair)
            known = base.find_voice(corpus.base, recording, corpus.hp, source)
            made.append(base.map_source(corpus.base, recording, known, corpus.hp).mel)
    mel = np.round(255.0 * np.clip(np.concatenate(made), 0.0, 1.0)).astype(np.uint8)
    with utils.replacing(folder / FILE) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, mel=mel, lengths=[len(each) for each in made])


def load_speech(folder: pathlib.Path) -> list[np.ndarray]:
    """Mel spectrograms (S, M) of what a pretrained model said; raises ValueError with the cure."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return np.split(arrays["mel"].astype(np.float32) / 255.0, np.cumsum(arrays["lengths"])[:-1])
    except utils.BAD_ARRAYS as error:
        raise ValueError(f"{folder / FILE} is missing or damaged ({error}): bring it back from where it came, that of "
                         "this repository by git checkout") from None


def compose(kernel: np.ndarray, bias: np.ndarray, then: np.ndarray, then_bias: np.ndarray) -> tuple:
    """Kernel (W'', M) and bias (M,) of a map (W, M) that is followed by another (W', M): it reads as far as both."""
    n_mels = kernel.shape[1]
    first, second = kernel.reshape(-1, n_mels, n_mels), then.reshape(-1, n_mels, n_mels)
    together = np.zeros((len(first) + len(second) - 1, n_mels, n_mels))
    for i, own in enumerate(second):
        together[i:i + len(first)] += first @ own
    return together.reshape(-1, n_mels).astype(np.float32), (then_bias + (bias @ second).sum(axis=0)).astype(np.float32)


def fit(pretrained: Base, speech: list[np.ndarray], corpus) -> Base:
    """A base from whomever a `pretrained` one knows, and from strangers, to the target of a `data_load.Corpus` that
    holds nobody else; `speech` is what the pretrained one makes of its sources. Raises ValueError if there is too
    little."""
    hp = corpus.hp
    seconds = sum(pair.target_seconds for pair in corpus.train)
    if seconds < ENOUGH_SECONDS:
        raise ValueError(f"{corpus.data}: {seconds:.0f} s of speech to learn a voice from; record a minute at least, "
                         "better ten")
    spoken = [corpus.target_features(pair, "mel") for pair in corpus.train]
    chosen = [spoken[i] for i in unpaired.some(spoken, unpaired.FRAMES, hp.seed)]
    onward = unpaired.find_map(speech, chosen, hp)
    kernels, biases = map(np.array, zip(*(compose(kernel, bias, onward.kernel, onward.bias) for kernel, bias in zip(
        pretrained.kernels, pretrained.biases))))
    warp = np.median([base.find_warp(mel, onward(mel), hp) for mel in speech[::4]])
    # What the sources' detail adds to what the pretrained maps give, it adds to what the new ones give, too
    before = base.modulation_spectrum([base.smooth(mel) for mel in speech])
    after = base.modulation_spectrum([base.smooth(base.windows(mel) @ onward.kernel + onward.bias) for mel in speech])
    modulation = after + np.maximum(pretrained.modulation - before, 0.0)
    octaves = base.moments([analysis.pitch_contour(hertz, hp)[hertz > 0.0]
                            for hertz in map(corpus.hertz, corpus.train)])
    return pretrained._replace(kernels=kernels, biases=biases, warps=pretrained.warps * warp,
                               modulation=modulation, target_modulation=base.modulation_spectrum(spoken),
                               pitch=np.vstack([pretrained.pitch[:-1], octaves]))
