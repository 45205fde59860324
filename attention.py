"""Luong's two attentions (Luong et al. 2015): local, at a position that moves on, and global, over all of the source.

Both have the same methods, so that one decoder step serves them. Letters of shapes: see hyperparams.py; S is the source
length in frames, B the channels of the base: mel, octaves, voicing.
"""
import math
from typing import NamedTuple

import keras
from keras import layers, ops

from recurrent import Dense, product, window


class Attended(NamedTuple):
    """What a decoder step read, K looks at W places of the memory."""
    contexts: object  # (N, K, E)
    base: object      # (N, r, B) at the places of the frames written
    start: object     # (N,) source frame where their reading began
    end: object       # (N,) and where it ended
    pace: object      # (N,) frames of source for a frame written
    origin: object    # (N,) first source frame of what was looked through
    weights: object   # (N, K, W)


def between(away, valid, frames):
    """Frames (N, W, B), of which the `valid` (N, W) ones count, read at points (N, r, B) that are so far `away`
    (N, r, W) from them: between two neighbours."""
    return ops.matmul(ops.maximum(1.0 - away, 0.0) * valid[:, None, :], frames)


class LocalAttention(layers.Layer):
    """Luong's local attention with predicted position (Luong et al. 2015, section 3.2), made monotonic.

    The position moves by a predicted advance, so it can neither jump nor go back. A decoder step writes `r` frames
    and looks at the memory `r` times, at points spaced evenly from its old position to the new one: each frame has a
    context of its own, and what is said need not pass through one vector for 62 ms of speech. It sees a window of the
    memory, as far as a step may move and REACH deviations of the Gaussian to both sides.
    """

    REACH = 6

    def __init__(self, width: int, r: int, sigma: float, max_advance: float, smoothing: float, **kwargs):
        super().__init__(**kwargs)
        self.width, self.r, self.sigma, self.max_advance, self.smoothing = width, r, sigma, max_advance, smoothing
        self.n_contexts = r
        self.reach = math.ceil(self.REACH * sigma)
        self.size = 2 * self.reach + math.ceil((r - 1) * max_advance) + 2                         # W
        self.hidden = Dense(width // 2, "tanh")
        # Zero weights and this bias make an untrained model walk one source frame for each frame it writes.
        walk = -float(ops.log(max_advance - 1.0))
        self.pace_layer = Dense(1, "sigmoid", kernel_initializer="zeros",
                                    bias_initializer=keras.initializers.Constant(walk))
        self.query = Dense(r * width, use_bias=False)
        self.built = True

    def prepare_memory(self, memory, mapped):
        """Memory (N, S, E) and the base (N, S, B) as a decoder's loop reads them: side by side (N, S, E + B)."""
        return ops.concatenate([memory, mapped], axis=-1)

    def window_size(self, memory) -> int:
        """W, frames that a step looks through."""
        return self.size

    def step(self, start, pace, state, context, memory, lengths) -> Attended:
        """Go on from `start` (N,) at a pace (N,) that state and last context (N, E) renew, and read there."""
        pace = self.advance(pace, state, context)                                                    # (N,)
        end = start + self.r * pace                                                               # (N,)
        contexts, base, origin, weights = self.attend(start, end, state, memory, lengths)
        return Attended(contexts, base, start, end, pace, origin, weights)

    def advance(self, pace, state, context):
        """Pace (N,) of before, state (N, E) and last context (N, E) to the pace of this step, frames of source for one
        that is written.

        A step renews but a share of it, because what is read hangs on no single step, and a pace that jumps within a
        sound of speech garbles it.
        """
        advance = self.pace_layer(self.hidden(ops.concatenate([state, context], axis=-1)))[:, 0]     # (N,) in (0, 1)
        return pace + self.smoothing * (self.max_advance * advance - pace)

    def attend(self, start, end, state, memory, lengths):
        """Read memory (N, S, E + B) of `lengths` (N,) frames at `r` points from `start` to `end` (N,).

        Returns contexts (N, r, E), the base (N, r, B) at the points themselves, the frame (N,) where the window begins
        that was looked through, and weights (N, r, W) of its frames: the softmax of Luong's general score plus the
        logarithm of a Gaussian around each point (eq. 10).
        """
        fractions = ops.arange(self.r, dtype="float32") / self.r
        centres = start[:, None] + (end - start)[:, None] * fractions[None, :]                    # (N, r)
        # A point past the end, while others of the batch still write, reads the last frame instead of nothing.
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
        """Weights (N, Ty, r, W) of windows from frames (N, Ty) on over a source of `length` frames S: (N, Ty*r, S)."""
        n, steps, r, size = (ops.shape(weights)[i] for i in range(4))
        frames = ops.cast(origins, "int32")[:, :, None, None] + ops.arange(size, dtype="int32")
        inside = ops.cast(ops.logical_and(frames >= 0, frames < length), "float32")                # (N, Ty, 1, W)
        rows = ops.reshape(ops.arange(n * steps * r), (n, steps, r, 1)) * length
        places = ops.reshape(rows + ops.clip(frames, 0, length - 1), (-1,))
        flat = ops.segment_sum(ops.reshape(weights * inside, (-1,)), places, num_segments=n * steps * r * length)
        return ops.reshape(flat, (n, steps * r, length))


class GlobalAttention(layers.Layer):
    """Luong's global attention with the general score (Luong et al. 2015, section 3.1): a step looks once, at all of
    the memory, which has a vector for each `stack` frames of the source.

    No position moves on: a step reads where its weights say. What it writes is counted as read from the frames of one
    vector of the memory, and these begin at the frame that the weights expect. The base is read there.
    """

    n_contexts = 1

    def __init__(self, width: int, r: int, stack: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.r, self.stack = width, r, stack
        self.query = Dense(width, use_bias=False)
        self.built = True

    def prepare_memory(self, memory, mapped):
        """Memory (N, Tx, E) and the base (N, S, B) as a decoder's loop reads them: also as keys (N, E, Tx)."""
        return ops.swapaxes(memory, 1, 2), memory, mapped

    def window_size(self, memory):
        """W = Tx, steps of the memory, all of which a step looks through."""
        return ops.shape(memory[1])[1]

    def step(self, start, pace, state, context, memory, lengths) -> Attended:
        """Read with a state (N, E) what was remembered of `lengths` (N,) frames; all else is for another attention."""
        keys, memory, mapped = memory
        frames = self.stack * ops.arange(ops.shape(memory)[1], dtype="float32")                   # (Tx,) their first
        valid = ops.cast(frames < lengths[:, None], "float32")[:, None, :]                        # (N, 1, Tx)
        score = product(self.query(state)[:, None, :], keys) / self.width ** 0.5                  # (N, 1, Tx)
        weights = ops.softmax(score + (valid - 1.0) * 1e9, axis=-1)                               # (N, 1, Tx)
        start = ops.sum(weights[:, 0] * frames, axis=-1)                                          # (N,)
        points = start[:, None] + self.stack * ops.arange(self.r, dtype="float32") / self.r       # (N, r)
        points = ops.clip(points, 0.0, lengths[:, None] - 1.0)
        origin, size = ops.floor(points[:, 0]), self.stack + 2
        near = origin[:, None] + ops.arange(size, dtype="float32")                                # (N, stack + 2)
        base = between(ops.abs(near[:, None, :] - points[:, :, None]), ops.cast(near < lengths[:, None], "float32"),
                       window(mapped, ops.cast(origin, "int32"), size))                          # (N, r, B)
        return Attended(product(weights, memory), base, start, start + self.stack,
                    ops.full_like(pace, self.stack / self.r), ops.zeros_like(pace), weights)

    def spread(self, weights, origins, length):
        """Weights (N, Ty, 1, Tx) of steps over a source of `length` frames S: those of a step for each frame that it
        writes, those of a vector shared by the frames it stands for: (N, Ty*r, S)."""
        each = ops.repeat(weights[:, :, 0, :], self.r, axis=1)                                    # (N, Ty*r, Tx)
        return ops.repeat(each, self.stack, axis=2) / self.stack


def make_attention(hp):
    """The attention that the hyperparameters name."""
    if hp.attention == "global":
        return GlobalAttention(hp.width, hp.r, hp.encoder_stack)
    return LocalAttention(hp.width, hp.r, hp.sigma, hp.max_advance, hp.advance_smoothing)
