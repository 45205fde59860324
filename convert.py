"""Free-running conversion of spectrograms, the same for validation in training and for evaluation."""
from typing import NamedTuple

import data_load
import numpy as np
import tensorflow as tf
from tqdm import tqdm

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
    """Converts linear spectrograms in batches with one compiled function."""

    def __init__(self, generator: Generator):
        self.generator, self.hp = generator, generator.hp
        self._convert = tf.function(generator.convert, input_signature=[
            tf.TensorSpec((None, None, self.hp.n_linear)), tf.TensorSpec((None, None)), tf.TensorSpec((), tf.int32)])

    def __call__(self, sources: list[np.ndarray], batch_size: int = 16) -> list[Converted]:
        """Convert spectrograms (S_i, F); results in their order, each independent of what it is batched with."""
        results: list[Converted | None] = [None] * len(sources)
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))  # neighbours in length: little padding
        for first in tqdm(range(0, len(order), batch_size), "converting", disable=None, leave=False, delay=2.0):
            chosen = order[first:first + batch_size]
            source, mask = data_load.pad([sources[i] for i in chosen], self.hp.encoder_stack)
            steps = int(MAX_RATIO * source.shape[1] / self.hp.r) + 2
            out = [np.asarray(x) for x in self._convert(source, mask, steps)]
            for i, mel, pitch, linear, length, stopped, positions, weights in zip(chosen, *out):
                limit = int(MAX_RATIO * len(sources[i])) + self.hp.r
                stopped, length = bool(stopped) and length <= limit, min(length, limit)
                results[i] = Converted(mel[:length], pitch[:length], linear[:length], positions[:length],
                                       weights[:length, :len(sources[i])], stopped)
        return results
