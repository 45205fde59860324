"""Free-running conversion of spectrograms, the same for validation in training and for evaluation."""
from typing import NamedTuple

import base
import data_load
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from analysis import Features
from manifest import Pair
from networks import Generator

MAX_RATIO = 2.0  # frames at most, in frames of the source: where a conversion that does not end is cut


class Converted(NamedTuple):
    """One conversion, cut to its length."""
    mel: np.ndarray        # (T, M)
    pitch: np.ndarray      # (T, 2) octaves above the middle, voicing from 0 to 1
    linear: np.ndarray     # (T, F)
    positions: np.ndarray  # (T,) source frame read for each frame
    weights: np.ndarray    # (T, S) attention
    stopped: bool          # False if the limit of steps cut it


class Converter:
    """Converts recordings in batches with one compiled function."""

    def __init__(self, generator: Generator, carrier: base.Base):
        self.generator, self.base, self.hp = generator, carrier, generator.hp
        self._convert = tf.function(generator.convert, input_signature=[
            tf.TensorSpec((None, None, self.hp.n_linear)), tf.TensorSpec((None, None, 2 * self.hp.n_mels + 2)),
            tf.TensorSpec((None, None)), tf.TensorSpec((), tf.int32)])

    def find_voice(self, source: Features, speaker: str | None = None) -> base.Voice:
        """The voice of a `speaker` of the training, or of whoever a recording sounds like."""
        return base.find_voice(self.base, source, self.hp, speaker)

    def convert_pairs(self, corpus: data_load.Corpus, pairs: list[Pair]) -> list[Converted]:
        """Convert the sources of pairs, who are known by name."""
        recordings = [corpus.recording(pair) for pair in pairs]
        return self(recordings, [self.find_voice(recording, pair.source)
                                 for recording, pair in zip(recordings, pairs)])

    def __call__(self, sources: list[Features], voices: list[base.Voice], batch_size: int = 16) -> list[Converted]:
        """Convert recordings of `voices`; results in their order, each independent of what it is batched with."""
        carried = [np.concatenate(base.carry(self.base, source, voice, self.hp), axis=1)
                   for source, voice in zip(sources, voices, strict=True)]
        results: list[Converted | None] = [None] * len(sources)
        # Neighbours in length: little padding
        order = sorted(range(len(sources)), key=lambda i: len(sources[i].linear))
        for first in tqdm(range(0, len(order), batch_size), "converting", disable=None, leave=False, delay=2.0):
            chosen = order[first:first + batch_size]
            source, mask = data_load.pad([sources[i].linear for i in chosen], self.hp.encoder_stack)
            mapped, _ = data_load.pad([carried[i] for i in chosen], self.hp.encoder_stack)
            steps = int(MAX_RATIO * source.shape[1] / self.hp.r) + 2
            out = [np.asarray(x) for x in self._convert(source, mapped, mask, steps)]
            for i, mel, pitch, linear, length, stopped, positions, weights in zip(chosen, *out):
                limit = int(MAX_RATIO * len(sources[i].linear)) + self.hp.r
                stopped, length = bool(stopped) and length <= limit, min(length, limit)
                results[i] = Converted(mel[:length], pitch[:length], linear[:length], positions[:length],
                                       weights[:length, :len(sources[i].linear)], stopped)
        return results
