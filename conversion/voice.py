"""Learn a voice from recordings of it alone: the output of a pretrained model is mapped to the new voice.

The sounds of some speech that the model converted itself are matched with those of the new voice, as between any two
speakers who said different sentences (unpaired.py). The map that this gives follows the pretrained encoder and decoder,
and all later steps are the same as with pairs.
"""
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


def save_speech(corpus, converter, folder: pathlib.Path) -> None:
    """Convert some sentences of the sources of a corpus, and write the mel spectrograms in 8 bits."""
    pairs = random.Random(corpus.hp.seed).sample(corpus.train, min(SENTENCES, len(corpus.train)))
    made = [converter.write([corpus.recording(pair)], [corpus.voice(pair)])[0].mel for pair in pairs]
    mel = np.round(255.0 * np.clip(np.concatenate(made), 0.0, 1.0)).astype(np.uint8)
    storage.save_arrays(folder / FILE, {"mel": mel, "lengths": [len(each) for each in made]})


def load_speech(folder: pathlib.Path) -> list[np.ndarray]:
    """Mel spectrograms (S, M) of a pretrained model's own speech; raises UserError that says what to do."""
    arrays = storage.load_arrays(folder / FILE, "make it with python -m conversion.export; the file of this repository "
                                 "comes back with git checkout", "mel", "lengths")
    return np.split(arrays["mel"].astype(np.float32) / 255.0, np.cumsum(arrays["lengths"])[:-1])


def fit(pretrained: Base, speech: list[np.ndarray], corpus) -> Base:
    """A base that takes the output of a pretrained model, which wrote `speech` for its own sources, on to the target of
    a `data_load.Corpus` that holds the target alone. Raises UserError if this has too little speech."""
    hp = corpus.hp
    seconds = sum(pair.target_seconds for pair in corpus.train)
    if seconds < ENOUGH_SECONDS:
        raise UserError(f"{corpus.data}: {seconds:.0f} s of speech are too little to learn a voice; record a minute "
                        "at least, better ten")
    spoken = [corpus.target_features(pair, "mel") for pair in corpus.train]
    chosen = [spoken[i] for i in unpaired.random_recordings(spoken, unpaired.FRAMES, hp.seed)]
    onward = unpaired.find_map(speech, chosen, hp)
    octaves = [analysis.pitch_contour(hertz, hp)[hertz > 0.0] for hertz in map(corpus.hertz, corpus.train)]
    return pretrained._replace(onward_kernel=onward.kernel, onward_bias=onward.bias,
                               modulation=base.modulation_power(spoken), octaves=np.array([
                                   pretrained.octaves[0], linear_map.moments(octaves)[0], base.within(octaves)]))
