"""Learn a voice from few recordings: the output of a pretrained model is mapped to the new voice.

With pairs the map is solved along their paths, as that of the base is, from what the model writes for their sources.
With recordings of the voice alone, the sounds of some speech that the model converted itself are matched with those of
the new voice, as between any two speakers who said different sentences (unpaired.py). The map follows the pretrained
encoder and decoder, and the pace is the source's.
"""
import pathlib
import random
from collections.abc import Iterable

from common import storage
from common.cli import UserError
from conversion import base
from conversion.base import Base
from corpus import analysis, linear_map, unpaired
from hyperparams import HyperParams

import numpy as np

FILE = "speech.npz"  # in a folder of pretrained weights
SENTENCES = 80       # in that file, from all sources together: four or five minutes
ENOUGH_SECONDS = 60.0  # least speech of a new voice; less hardly contains all of its sounds
AT_ONCE = 32  # pairs whose sources are converted at a time: attention takes memory


def save_speech(corpus, converter, folder: pathlib.Path) -> None:
    """Convert some sentences of the sources of a corpus, and write the mel spectrograms in 8 bits."""
    pairs = random.Random(corpus.hp.seed).sample(corpus.train, min(SENTENCES, len(corpus.train)))
    made = [converter.predict([corpus.recording(pair)], [corpus.voice(pair)])[0].mel for pair in pairs]
    mel = np.round(255.0 * np.clip(np.concatenate(made), 0.0, 1.0)).astype(np.uint8)
    storage.save_arrays(folder / FILE, {"mel": mel, "lengths": [len(each) for each in made]})


def load_speech(folder: pathlib.Path) -> list[np.ndarray]:
    """Mel spectrograms (S, M) of a pretrained model's own speech; raises UserError that says what to do."""
    arrays = storage.load_arrays(folder / FILE, "python -m conversion.export makes it of a run that has sources; that "
                                 "of pretrained/ comes back with git checkout", "mel", "lengths")
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
    return followed(pretrained, onward.kernel, onward.bias, spoken, map(corpus.hertz, corpus.train), hp)


def fit_to_pairs(converter, corpus) -> Base:
    """A base that takes what a pretrained `converter` writes at its source's pace on to the target of a
    `data_load.Corpus` of pairs."""
    hp, pretrained = corpus.hp, converter.base
    sums = linear_map.Sums((2 * linear_map.CONTEXT + 1) * hp.n_mels, hp.n_mels)
    for first in range(0, len(corpus.train), AT_ONCE):
        pairs = corpus.train[first:first + AT_ONCE]
        sources = [corpus.recording(pair) for pair in pairs]
        voices = [base.find_voice(pretrained, source, hp) for source in sources]
        for pair, out in zip(pairs, converter.predict(sources, voices)):
            windows = linear_map.in_context(out.mel)
            sums.add(linear_map.interpolate(windows, corpus.path(pair)), corpus.target_features(pair, "mel"))
    spoken = [corpus.target_features(pair, "mel") for pair in base.some_of(corpus.target_pairs)]
    hertz = map(corpus.hertz, corpus.target_pairs)
    return followed(pretrained, *sums.solve(linear_map.PENALTY), spoken, hertz, hp)


def followed(pretrained: Base, kernel: np.ndarray, bias: np.ndarray, spoken: list[np.ndarray],
             hertz: Iterable[np.ndarray], hp: HyperParams) -> Base:
    """A base that is followed by a map to the voice that has `spoken` mel spectrograms (T, M) with the pitch (T,)."""
    octaves = [analysis.spoken_octaves(each, hp) for each in hertz]
    return pretrained._replace(onward_kernel=kernel, onward_bias=bias, modulation=base.modulation_power(spoken),
                               octaves=np.array([pretrained.octaves[0], linear_map.moments(octaves)[0],
                                                 base.within(octaves)]))
