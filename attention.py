"""Luong's two kinds of attention (Luong et al. 2015): local, around a position that moves forward, and global, over the
whole source.

Both have the same methods, so that one decoder step works with either. Letters of shapes: see hyperparams.py; S is the
source length in frames, B the channels of the base: mel, octaves, voicing.
"""
import math
from typing import NamedTuple

import keras
from keras import layers, ops

from recurrent import Dense, product, window


class Attended(NamedTuple):
    """What a decoder step read: K contexts, each a weighted sum of W memory vectors."""
    contexts: object  # (N, K, E)
    base: object      # (N, r, B) the base at the points read for the `r` output frames
    start: object     # (N,) source frame where reading began
    end: object       # (N,) source frame where reading ended
    pace: object      # (N,) source frames per output frame
    origin: object    # (N,) first source frame of the attention window
    weights: object   # (N, K, W)


def between(away, valid, frames):
    """Interpolate linearly between `frames` (N, W, B), of which only the `valid` (N, W) ones count, at `r` points whose
    distances to the frames are `away` (N, r, W): (N, r, B)."""
    return ops.matmul(ops.maximum(1.0 - away, 0.0) * valid[:, None, :], frames)


class LocalAttention(layers.Layer):
    """Luong's local attention with predicted position (Luong et al. 2015, section 3.2), made monotonic.

    The position moves by a predicted advance, so it can neither jump nor go back. A decoder step writes `r` frames
    and reads the memory at `r` points, spaced evenly from its old position to the new one. So each frame has its own
    context, and no single vector must hold the content of 62 ms of speech. A step sees a window of the memory: as far
    as a step may move, and REACH deviations of the Gaussian on both sides.
    """

    REACH = 6

    def __init__(self, width: int, r: int, sigma: float, max_advance: float, smoothing: float, **kwargs):
        super().__init__(**kwargs)
        self.width, self.r, self.sigma, self.max_advance, self.smoothing = width, r, sigma, max_advance, smoothing
        self.n_contexts = r
        self.reach = math.ceil(self.REACH * sigma)
        self.size = 2 * self.reach + math.ceil((r - 1) * max_advance) + 2                         # W
        self.hidden = Dense(width // 2, "tanh")
        # Zero weights and this bias make an untrained model advance one source frame per output frame.
        walk = -float(ops.log(max_advance - 1.0))
        self.pace_layer = Dense(1, "sigmoid", kernel_initializer="zeros",
                                bias_initializer=keras.initializers.Constant(walk))
        self.query = Dense(r * width, use_bias=False)
        self.built = True

    def prepare_memory(self, memory, base):
        """Join memory (N, S, E) and base (N, S, B) for the decoder's loop: (N, S, E + B)."""
        return ops.concatenate([memory, base], axis=-1)

    def window_size(self, memory) -> int:
        """W, the number of frames in the window of a step."""
        return self.size

    def step(self, start, pace, state, context, memory, lengths) -> Attended:
        """Update the pace (N,) from state and last context (N, E), move on from `start` (N,), and read there."""
        pace = self.advance(pace, state, context)                                                 # (N,)
        end = start + self.r * pace                                                               # (N,)
        contexts, base, origin, weights = self.attend(start, end, state, memory, lengths)
        return Attended(contexts, base, start, end, pace, origin, weights)

    def advance(self, pace, state, context):
        """Update the pace (N,), in source frames per output frame, from the state (N, E) and the last context (N, E).

        A step replaces only a share of the pace. So no single step decides what is read, and the pace does not jump
        within a speech sound, which would garble the sound.
        """
        advance = self.pace_layer(self.hidden(ops.concatenate([state, context], axis=-1)))[:, 0]  # (N,) in (0, 1)
        return pace + self.smoothing * (self.max_advance * advance - pace)

    def attend(self, start, end, state, memory, lengths):
        """Read memory (N, S, E + B) of `lengths` (N,) frames at `r` points from `start` to `end` (N,).

        Returns contexts (N, r, E), the base (N, r, B) at the points themselves, the first frame (N,) of the window, and
        the weights (N, r, W) of its frames. The weights are the softmax of Luong's general score plus the logarithm of
        a Gaussian around each point (eq. 10).
        """
        fractions = ops.arange(self.r, dtype="float32") / self.r
        centres = start[:, None] + (end - start)[:, None] * fractions[None, :]                    # (N, r)
        # While longer utterances of the batch are decoded, a point past the end reads the last frame.
        centres = ops.clip(centres, 0.0, lengths[:, None] - 1.0)
        origin = ops.floor(centres[:, 0]) - self.reach                                            # (N,)
        near = window(memory, ops.cast(origin, "int32"), self.size)                               # (N, W, E + B)
        near, base = near[:, :, :self.width], near[:, :, self.width:]
        frames = origin[:, None] + ops.arange(self.size, dtype="float32")                         # (N, W)
        valid = ops.cast(ops.logical_and(frames >= 0.0, frames < lengths[:, None]), "float32")
        query = ops.reshape(self.query(state), (-1, self.r, self.width))                          # (N, r, E)
        score = ops.matmul(query, ops.swapaxes(near, 1, 2)) / self.width ** 0.5                   # (N, r, W)
        away = ops.abs(frames[:, None, :] - centres[:, :, None])                                  # (N, r, W)
        weights = ops.softmax(score - 0.5 * ops.square(away / self.sigma) + (valid[:, None, :] - 1.0) * 1e9, axis=-1)
        return ops.matmul(weights, near), between(away, valid, base), origin, weights

    def spread(self, weights, origins, length):
        """Weights (N, Ty, r, W) of windows that begin at `origins` (N, Ty) as weights (N, Ty*r, S) of all frames."""
        n, steps, r, size = (ops.shape(weights)[i] for i in range(4))
        frames = ops.cast(origins, "int32")[:, :, None, None] + ops.arange(size, dtype="int32")
        inside = ops.cast(ops.logical_and(frames >= 0, frames < length), "float32")                # (N, Ty, 1, W)
        rows = ops.reshape(ops.arange(n * steps * r), (n, steps, r, 1)) * length
        places = ops.reshape(rows + ops.clip(frames, 0, length - 1), (-1,))
        flat = ops.segment_sum(ops.reshape(weights * inside, (-1,)), places, num_segments=n * steps * r * length)
        return ops.reshape(flat, (n, steps * r, length))


class GlobalAttention(layers.Layer):
    """Luong's global attention with the general score (Luong et al. 2015, section 3.1): each step reads the whole
    memory once. The memory has one vector for each `stack` frames of the source.

    There is no position that moves forward. The position of a step is the weighted mean of the frames where memory
    vectors begin. The step counts as reading the `stack` frames from this position, and reads the base there.
    """

    n_contexts = 1

    def __init__(self, width: int, r: int, stack: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.r, self.stack = width, r, stack
        self.query = Dense(width, use_bias=False)
        self.built = True

    def prepare_memory(self, memory, base):
        """Keys (N, E, Tx), memory (N, Tx, E) and base (N, S, B) for the decoder's loop."""
        return ops.swapaxes(memory, 1, 2), memory, base

    def window_size(self, memory):
        """W = Tx: a step reads all vectors of the memory."""
        return ops.shape(memory[1])[1]

    def step(self, start, pace, state, context, memory, lengths) -> Attended:
        """Read the memory of `lengths` (N,) frames with a state (N, E); local attention uses the other arguments."""
        keys, memory, frames_of_base = memory
        frames = self.stack * ops.arange(ops.shape(memory)[1], dtype="float32")                   # (Tx,) first of each
        valid = ops.cast(frames < lengths[:, None], "float32")[:, None, :]                        # (N, 1, Tx)
        score = product(self.query(state)[:, None, :], keys) / self.width ** 0.5                  # (N, 1, Tx)
        weights = ops.softmax(score + (valid - 1.0) * 1e9, axis=-1)                               # (N, 1, Tx)
        start = ops.sum(weights[:, 0] * frames, axis=-1)                                          # (N,)
        points = start[:, None] + self.stack * ops.arange(self.r, dtype="float32") / self.r       # (N, r)
        points = ops.clip(points, 0.0, lengths[:, None] - 1.0)
        origin, size = ops.floor(points[:, 0]), self.stack + 2
        near = origin[:, None] + ops.arange(size, dtype="float32")                                # (N, stack + 2)
        base = between(ops.abs(near[:, None, :] - points[:, :, None]), ops.cast(near < lengths[:, None], "float32"),
                       window(frames_of_base, ops.cast(origin, "int32"), size))                   # (N, r, B)
        return Attended(product(weights, memory), base, start, start + self.stack,
                        ops.full_like(pace, self.stack / self.r), ops.zeros_like(pace), weights)

    def spread(self, weights, origins, length):
        """Spread weights (N, Ty, 1, Tx) over `length` source frames: (N, Ty*r, S). Each output frame gets the weights
        of its step, and the weight of a memory vector is divided equally among its `stack` source frames."""
        each = ops.repeat(weights[:, :, 0, :], self.r, axis=1)                                    # (N, Ty*r, Tx)
        return ops.repeat(each, self.stack, axis=2) / self.stack


def make_attention(hp):
    """The attention that the hyperparameters name."""
    if hp.attention == "global":
        return GlobalAttention(hp.width, hp.r, hp.encoder_stack)
    return LocalAttention(hp.width, hp.r, hp.sigma, hp.max_advance, hp.advance_smoothing)
