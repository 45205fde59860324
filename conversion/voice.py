"""Learn a voice from recordings of it alone: the output of a pretrained model is mapped to the new voice.

A pretrained model comes with some speech that it converted itself. The sounds of this speech are matched with those of
the new voice, as between any two speakers who said different sentences (unpaired.py). This gives a map from the
pretrained voice to the new one. Each pretrained map followed by it becomes one map from a source to the new voice, and
all later steps are the same as with pairs.
"""
import math
import pathlib
import random

import numpy as np

from common import storage
from common.cli import UserError
from conversion import base
from corpus import analysis, linear_map, unpaired
from conversion.base import Base

FILE = "speech.npz"  # in a folder of pretrained weights
SENTENCES = 80       # in that file, from all sources together: four or five minutes
ENOUGH_SECONDS = 60.0  # least speech of a new voice; less hardly contains all of its sounds


def save_speech(corpus, folder: pathlib.Path) -> None:
    """Map some sentences of each source by the base of a corpus, and write the mel spectrograms in 8 bits."""
    rng, made = random.Random(corpus.hp.seed), []
    for source in corpus.base.speakers.tolist():
        pairs = [pair for pair in corpus.train if pair.source == source]
        for pair in rng.sample(pairs, min(len(pairs), math.ceil(SENTENCES / len(corpus.base.speakers)))):
            recording = corpus.recording(pair)
            known = base.find_voice(corpus.base, recording, corpus.hp, source)
            made.append(base.map_source(corpus.base, recording, known, corpus.hp).mel)
    mel = np.round(255.0 * np.clip(np.concatenate(made), 0.0, 1.0)).astype(np.uint8)
    with storage.replacing(folder / FILE) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, mel=mel, lengths=[len(each) for each in made])


def load_speech(folder: pathlib.Path) -> list[np.ndarray]:
    """Mel spectrograms (S, M) of a pretrained model's own speech; raises UserError that says what to do."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return np.split(arrays["mel"].astype(np.float32) / 255.0, np.cumsum(arrays["lengths"])[:-1])
    except storage.BAD_ARRAYS as error:
        raise UserError(f"{folder / FILE} is missing or damaged ({error}): get it again from its source; the file "
                        "of this repository comes back with git checkout") from None


def compose(kernel: np.ndarray, bias: np.ndarray, then: np.ndarray, then_bias: np.ndarray) -> tuple:
    """Kernel (W'', M) and bias (M,) of a map (W, M) followed by another (W', M); its window spans both windows."""
    n_mels = kernel.shape[1]
    first, second = kernel.reshape(-1, n_mels, n_mels), then.reshape(-1, n_mels, n_mels)
    together = np.zeros((len(first) + len(second) - 1, n_mels, n_mels))
    for i, own in enumerate(second):
        together[i:i + len(first)] += first @ own
    return together.reshape(-1, n_mels).astype(np.float32), (then_bias + (bias @ second).sum(axis=0)).astype(np.float32)


def fit(pretrained: Base, speech: list[np.ndarray], corpus) -> Base:
    """A base from the sources of a `pretrained` base, and from strangers, to the target of a `data_load.Corpus`, which
    holds the target alone. `speech` is the output of the pretrained base for its sources. Raises UserError if the
    corpus has too little speech."""
    hp = corpus.hp
    seconds = sum(pair.target_seconds for pair in corpus.train)
    if seconds < ENOUGH_SECONDS:
        raise UserError(f"{corpus.data}: {seconds:.0f} s of speech are too little to learn a voice; record a minute "
                        "at least, better ten")
    spoken = [corpus.target_features(pair, "mel") for pair in corpus.train]
    chosen = [spoken[i] for i in unpaired.random_recordings(spoken, unpaired.FRAMES, hp.seed)]
    onward = unpaired.find_map(speech, chosen, hp)
    kernels, biases = map(np.array, zip(*(compose(kernel, bias, onward.kernel, onward.bias) for kernel, bias in zip(
        pretrained.kernels, pretrained.biases))))
    warp = np.median([linear_map.find_warp(mel, onward(mel), hp) for mel in speech[::4]])
    # The sources' detail adds as much modulation to the output of the new maps as to that of the pretrained maps
    before = base.modulation_power([base.smooth(mel) for mel in speech])
    after = base.modulation_power([base.smooth(linear_map.splice(mel) @ onward.kernel + onward.bias) for mel in speech])
    modulation = after + np.maximum(pretrained.modulation - before, 0.0)
    octaves = linear_map.moments([analysis.pitch_contour(hertz, hp)[hertz > 0.0]
                            for hertz in map(corpus.hertz, corpus.train)])
    return pretrained._replace(kernels=kernels, biases=biases, warps=pretrained.warps * warp,
                               modulation=modulation, target_modulation=base.modulation_power(spoken),
                               pitch=np.vstack([pretrained.pitch[:-1], octaves]))
