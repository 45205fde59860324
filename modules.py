"""Building blocks of the networks as Keras layers: norms, CBHG, attention, decoder step. All respect true lengths
through a mask (N, T) of 0 and 1.

Letters of shapes: see hyperparams.py. All blocks of a network draw random numbers from the same
`keras.random.SeedGenerator`, so that a training step depends only on its number and can be repeated exactly.

Pre-nets and CBHGs take a `dtype`, Keras' policy of precision, and hand it on to their parts. Norms, attention and
decoder are always float32.

Layers that consist of other layers set `built` themselves. Their parts create weights when they are first called, so
Keras need not make a trial call of each layer, which would double the time.
"""
import math
from typing import NamedTuple

from backend import devices  # noqa: F401  before TensorFlow

import keras
import tensorflow as tf
from keras import config, layers, ops

config.set_floatx("float32")  # whatever another project left in ~/.keras/keras.json
config.set_image_data_format("channels_last")


def total(x):
    """Sum of `x`, a tensor or a list or dictionary of tensors, over all devices that share a training step."""
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        return context.all_reduce(tf.distribute.ReduceOp.SUM, x)
    return x


class MaskedNorm(layers.Layer):
    """Normalisation with statistics of the valid frames only; the output is zero where the input is padding.

    `kind`: "bn" over batch and time on all devices (Ioffe & Szegedy 2015), with moving statistics at synthesis; "ln"
    over the channels of each of `groups` (Ba et al. 2016); "ins" over the time of one utterance (Ulyanov et al. 2016).
    It computes in float32, and the output has the type of the input.
    """

    def __init__(self, kind: str, groups: int = 1, momentum: float = 0.98, epsilon: float = 1e-3, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.kind, self.groups, self.momentum, self.epsilon = kind, groups, momentum, epsilon

    def build(self, shape):
        channels = (shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=channels, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros")
        if self.kind == "bn":
            self.mean = self.add_weight(name="mean", shape=channels, initializer="zeros", trainable=False)
            self.variance = self.add_weight(name="variance", shape=channels, initializer="ones", trainable=False)

    def call(self, x, mask, training=False):
        """x (N, T, C), mask (N, T) to (N, T, C)."""
        given, x, mask = x.dtype, ops.cast(x, "float32"), ops.cast(mask, "float32")
        column = mask[:, :, None]
        if self.kind == "bn":
            mean, variance = self.of_batch(x, mask) if training else (self.mean, self.variance)
        elif self.kind == "ln":  # no statistic crosses frames, so padding cannot enter
            n, length, channels = ops.shape(x)[0], ops.shape(x)[1], x.shape[2]
            grouped = ops.reshape(x, (n, length, self.groups, channels // self.groups))
            mean, variance = (ops.reshape(ops.broadcast_to(each, ops.shape(grouped)), (n, length, channels))
                              for each in ops.moments(grouped, axes=(3,), keepdims=True))
        else:
            count = ops.maximum(ops.sum(column, axis=1, keepdims=True), 1.0)
            mean = ops.sum(x * column, axis=1, keepdims=True) / count
            variance = ops.sum(ops.square(x - mean) * column, axis=1, keepdims=True) / count
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast((x * scale + (self.beta - mean * scale)) * column, given)

    def of_batch(self, x, mask):
        """Return mean and variance (C,) of the valid frames, and update the moving statistics."""
        # Sums over frames are products with the mask, which need no further tensor as large as x. They are taken around
        # the moving mean, because a difference of large squares would lose digits.
        about = ops.stop_gradient(ops.convert_to_tensor(self.mean))
        row, flat = ops.reshape(mask, (1, -1)), ops.reshape(x, (-1, x.shape[2])) - about
        count, added, squares = total([ops.sum(mask), ops.matmul(row, flat)[0], ops.matmul(row, ops.square(flat))[0]])
        off = added / ops.maximum(count, 1.0)
        mean, variance = about + off, ops.maximum(squares / ops.maximum(count, 1.0) - ops.square(off), 0.0)
        for moving, now in ((self.mean, mean), (self.variance, variance)):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
        return mean, variance


class PreNet(layers.Layer):
    """Two fully connected layers with ReLU and dropout (Tacotron, table 1: FC-256, FC-128)."""

    def __init__(self, width: int, dropout: float, seeds: keras.random.SeedGenerator, **kwargs):
        super().__init__(**kwargs)
        self.dense = [layers.Dense(n, "relu", dtype=self.dtype_policy) for n in (width, width // 2)]
        self.dropout, self.seeds = dropout, seeds
        self.built = True

    def call(self, x, training=False):
        """(..., C) to (..., width / 2)."""
        for dense in self.dense:
            x = dense(x)
            if training:
                x = keras.random.dropout(x, self.dropout, seed=self.seeds)
        return x


class ConvNorm(layers.Layer):
    """Convolution over time without bias, masked normalisation, activation."""

    def __init__(self, channels: int, kernel: int, norm: str, activation: str | None, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv1D(channels, kernel, padding="same", use_bias=False, dtype=self.dtype_policy)
        self.norm = MaskedNorm(norm)
        self.activation = layers.Activation(activation, dtype=self.dtype_policy)
        self.built = True

    def call(self, x, mask, training=False):
        """x (N, T, C), already zero where masked, to (N, T, channels)."""
        return self.activation(self.norm(self.conv(x), mask, training=training))


class Highway(layers.Layer):
    """Highway layer (Srivastava et al. 2015): y = t * relu(W x) + (1 - t) * x; the gate starts closed."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.change = layers.Dense(channels, "relu", dtype=self.dtype_policy)
        self.gate = layers.Dense(channels, "sigmoid", bias_initializer=keras.initializers.Constant(-1.0),
                                 dtype=self.dtype_policy)
        self.built = True

    def call(self, x):
        gate = self.gate(x)
        return gate * self.change(x) + (1.0 - gate) * x


class CBHG(layers.Layer):
    """Convolution bank, highway network, bidirectional GRU (Tacotron, section 3.1); `dropout` is that of the bank in
    training."""

    def __init__(self, banks: int, channels: int, projections: tuple[int, int], highways: int, norm: str,
                 dropout: float = 0.0, seeds: keras.random.SeedGenerator | None = None, **kwargs):
        super().__init__(**kwargs)
        self.dropout, self.seeds = dropout, seeds
        # One norm for the whole bank: fewer operations, and all devices exchange statistics in the same order
        policy = {"dtype": self.dtype_policy}
        self.bank = [layers.Conv1D(channels, k, padding="same", use_bias=False, **policy) for k in range(1, banks + 1)]
        self.bank_norm = MaskedNorm(norm, groups=banks)
        self.pool = layers.MaxPooling1D(2, strides=1, padding="same", **policy)
        self.project = [ConvNorm(n, 3, norm, relu, **policy) for n, relu in zip(projections, ("relu", None))]
        self.to_highway = layers.Dense(channels, **policy)
        self.highways = [Highway(channels, **policy) for _ in range(highways)]
        self.forwards, self.backwards = (layers.GRU(channels, return_sequences=True, go_backwards=backwards, **policy)
                                         for backwards in (False, True))
        self.built = True

    def call(self, x, mask, training=False):
        """x (N, T, projections[1]), mask (N, T) to (N, T, 2 * channels)."""
        x = x * mask[:, :, None]
        y = ops.concatenate([conv(x) for conv in self.bank], axis=-1)                     # (N, T, K*C)
        y = ops.relu(self.bank_norm(y, mask, training=training))                          # (N, T, K*C)
        if training and self.dropout:
            y = keras.random.dropout(y, self.dropout, seed=self.seeds)
        y = self.pool(y) * mask[:, :, None]                                               # (N, T, K*C)
        for conv in self.project:
            y = conv(y, mask, training=training)                                          # (N, T, projections)
        y = self.to_highway(x + y)                                                        # (N, T, C)
        for highway in self.highways:
            y = highway(y)                                                                # (N, T, C)
        # Padding is at the end. The backward GRU reads it first, so the mask keeps its state at zero there. The forward
        # GRU reads it last and needs no mask, because padding cannot change earlier frames. An utterance that is all
        # padding keeps its first frame valid, as cuDNN demands.
        valid = ops.logical_or(ops.cast(mask, "bool"), ops.arange(ops.shape(mask)[1])[None, :] == 0)
        backwards = ops.flip(self.backwards(y, mask=valid), axis=1)                       # (N, T, C)
        return ops.concatenate([self.forwards(y), backwards], axis=-1) * mask[:, :, None]  # (N, T, 2*C)


# Luong's two kinds of attention (Luong et al. 2015): local, around a position that moves forward, and global, over the
# whole source. Both have the same methods, so that one decoder step works with either. S is the source length in
# frames, B the channels of `corrected`, the mapped source as the encoder corrected it: mel, octaves, voicing.

class Attended(NamedTuple):
    """What a decoder step read: K contexts, each a weighted sum of W memory vectors."""
    contexts: object  # (N, K, E)
    corrected: object  # (N, r, B) the corrected source at the points read for the `r` output frames
    start: object     # (N,) source frame where reading began
    end: object       # (N,) source frame where reading ended
    pace: object      # (N,) source frames per output frame
    origin: object    # (N,) first source frame of the attention window
    weights: object   # (N, K, W)


def take(memory, frames):
    """Memory (N, S, E) at frames (N, W), beyond its ends the nearest frame: (N, W, E)."""
    return tf.gather(memory, ops.clip(ops.cast(frames, "int32"), 0, ops.shape(memory)[1] - 1), batch_dims=1)


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

    def __init__(self, width: int, r: int, sigma: float, max_advance: float, smoothing: float, followed: float,
                 **kwargs):
        super().__init__(**kwargs)
        self.width, self.r, self.sigma, self.max_advance, self.smoothing = width, r, sigma, max_advance, smoothing
        self.followed = followed  # share of the predicted pace that is followed; the rest is the source's own pace
        self.n_contexts = r
        self.reach = math.ceil(self.REACH * sigma)
        self.size = 2 * self.reach + math.ceil((r - 1) * max_advance) + 2                         # W
        self.hidden = layers.Dense(width // 2, "tanh")
        # Zero weights and this bias make an untrained model advance one source frame per output frame.
        walk = -float(ops.log(max_advance - 1.0))
        self.pace_layer = layers.Dense(1, "sigmoid", kernel_initializer="zeros",
                                       bias_initializer=keras.initializers.Constant(walk))
        self.query = layers.Dense(r * width, use_bias=False)
        self.built = True

    def window_size(self, memory) -> int:
        """W, the number of frames in the window of a step."""
        return self.size

    def step(self, start, pace, state, context, memory, corrected, lengths) -> Attended:
        """Update the pace (N,) from state and last context (N, E), move on from `start` (N,), and read there."""
        pace = self.advance(pace, state, context)                                                 # (N,)
        end = start + self.r * (1.0 + self.followed * (pace - 1.0))                               # (N,)
        contexts, read, origin, weights = self.attend(start, end, state, memory, corrected, lengths)
        return Attended(contexts, read, start, end, pace, origin, weights)

    def advance(self, pace, state, context):
        """Update the pace (N,), in source frames per output frame, from the state (N, E) and the last context (N, E).

        A step replaces only a share of the pace. So no single step decides what is read, and the pace does not jump
        within a speech sound, which would garble the sound.
        """
        advance = self.pace_layer(self.hidden(ops.concatenate([state, context], axis=-1)))[:, 0]  # (N,) in (0, 1)
        return pace + self.smoothing * (self.max_advance * advance - pace)

    def attend(self, start, end, state, memory, corrected, lengths):
        """Read memory (N, S, E) and corrected source (N, S, B) of `lengths` (N,) frames at `r` points from `start` to
        `end` (N,).

        Returns contexts (N, r, E), the corrected source (N, r, B) at the points themselves, the first frame (N,) of the
        window, and the weights (N, r, W) of its frames, which are the softmax of Luong's general score plus the
        logarithm of a Gaussian around each point (eq. 10).
        """
        fractions = ops.arange(self.r, dtype="float32") / self.r
        centres = start[:, None] + (end - start)[:, None] * fractions[None, :]                    # (N, r)
        # While longer utterances of the batch are decoded, a point past the end reads the last frame.
        centres = ops.clip(centres, 0.0, lengths[:, None] - 1.0)
        origin = ops.floor(centres[:, 0]) - self.reach                                            # (N,)
        frames = origin[:, None] + ops.arange(self.size, dtype="float32")                         # (N, W)
        near = take(memory, frames)                                                               # (N, W, E)
        valid = ops.cast(ops.logical_and(frames >= 0.0, frames < lengths[:, None]), "float32")
        query = ops.reshape(self.query(state), (-1, self.r, self.width))                          # (N, r, E)
        score = ops.matmul(query, ops.swapaxes(near, 1, 2)) / self.width ** 0.5                   # (N, r, W)
        away = ops.abs(frames[:, None, :] - centres[:, :, None])                                  # (N, r, W)
        weights = ops.softmax(score - 0.5 * ops.square(away / self.sigma) + (valid[:, None, :] - 1.0) * 1e9, axis=-1)
        return ops.matmul(weights, near), between(away, valid, take(corrected, frames)), origin, weights

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
    vectors begin. The step counts as reading the `stack` frames from this position, and reads the corrected source
    there.
    """

    n_contexts = 1

    def __init__(self, width: int, r: int, stack: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.r, self.stack = width, r, stack
        self.query = layers.Dense(width, use_bias=False)
        self.built = True

    def window_size(self, memory):
        """W = Tx: a step reads all vectors of the memory."""
        return ops.shape(memory)[1]

    def step(self, start, pace, state, context, memory, corrected, lengths) -> Attended:
        """Read the memory (N, Tx, E) of `lengths` (N,) frames with a state (N, E), and the corrected source (N, S, B)
        there; local attention uses the other arguments."""
        frames = self.stack * ops.arange(ops.shape(memory)[1], dtype="float32")                   # (Tx,) first of each
        valid = ops.cast(frames < lengths[:, None], "float32")[:, None, :]                        # (N, 1, Tx)
        score = ops.matmul(self.query(state)[:, None, :], ops.swapaxes(memory, 1, 2)) / self.width ** 0.5  # (N, 1, Tx)
        weights = ops.softmax(score + (valid - 1.0) * 1e9, axis=-1)                               # (N, 1, Tx)
        start = ops.sum(weights[:, 0] * frames, axis=-1)                                          # (N,)
        points = start[:, None] + self.stack * ops.arange(self.r, dtype="float32") / self.r       # (N, r)
        points = ops.clip(points, 0.0, lengths[:, None] - 1.0)
        near = ops.floor(points[:, :1]) + ops.arange(self.stack + 2, dtype="float32")             # (N, stack + 2)
        read = between(ops.abs(near[:, None, :] - points[:, :, None]), ops.cast(near < lengths[:, None], "float32"),
                       take(corrected, near))                                                     # (N, r, B)
        return Attended(ops.matmul(weights, memory), read, start, start + self.stack,
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
    return LocalAttention(hp.width, hp.r, hp.sigma, hp.max_advance, hp.advance_smoothing, hp.pace)


class GRUCell(layers.Layer):
    """One step of a GRU, as cuDNN defines it (reset gate after the product). Keras' own has one weight for both biases,
    with which no saved model could be read."""

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)
        self.kernel = weight("kernel", (shape[-1], 3 * self.units), "glorot_uniform")
        self.bias = weight("bias", (3 * self.units,), "zeros")
        self.recurrent_kernel = weight("recurrent_kernel", (self.units, 3 * self.units), "orthogonal")
        self.recurrent_bias = weight("recurrent_bias", (3 * self.units,), "zeros")

    def call(self, x, state):
        """x (N, I), state (N, units) to the next state."""
        update, reset, given = ops.split(ops.matmul(x, self.kernel) + self.bias, 3, axis=-1)
        of_state = ops.matmul(state, self.recurrent_kernel) + self.recurrent_bias
        of_update, of_reset, own = ops.split(of_state, 3, axis=-1)
        update = ops.sigmoid(update + of_update)
        candidate = ops.tanh(given + ops.sigmoid(reset + of_reset) * own)
        return update * state + (1.0 - update) * candidate


class DecoderState(NamedTuple):
    """State that a decoder step hands to the next one, and its output."""
    mel: object         # (N, r, M) frames written
    pitch: object       # (N, r, 2) octaves above `pitch_middle`, logit of voicing
    start: object       # (N,) source frame where reading began
    end: object         # (N,) source frame where reading ended, the start of the next step
    pace: object        # (N,) source frames per output frame
    origin: object      # (N,) first source frame of the attention window; 0 for global attention
    weights: object     # (N, K, W) attention weights; local: r points, W frames of the window; global: K = 1, W = Tx
    attention: object   # (N, E) state of the attention GRU
    context: object     # (N, E) attentional vector, fed to the next step (input feeding, Luong section 3.3)
    lower: object       # (N, E) state of the first residual GRU
    upper: object       # (N, E) state of the second residual GRU


class DecoderCell(layers.Layer):
    """One decoder step, the same for teacher forcing and free running: pre-net, attention GRU with Luong attention
    and input feeding, two residual GRUs, `r` mel frames (Tacotron, section 3.2; Luong et al. 2015).

    A frame is the mapped source, which the encoder corrected, at the point that the step reads, plus what the decoder
    corrects of it, which is zero before training. With `base=0` there is no map, and the networks write all of it. With
    `harmonics=0` they do not write pitch.
    """

    LOGITS = 8.0  # difference between the voicing logits of voiced and unvoiced frames of the source

    def __init__(self, hp, **kwargs):
        super().__init__(**kwargs)
        self.width, self.n_mels, self.r = hp.width, hp.n_mels, hp.r
        self.prenet = [layers.Dense(hp.width, "relu"), layers.Dense(hp.width // 2, "relu")]
        self.attention_gru = GRUCell(hp.width)
        self.attention = make_attention(hp)
        self.combine = layers.Dense(hp.width, "tanh")
        self.residual_grus = [GRUCell(hp.width), GRUCell(hp.width)]
        # With local attention each frame has its own context, which adds to what the states give for all `r` frames
        local = hp.attention == "local"
        self.mel_of_state = layers.Dense(hp.r * hp.n_mels, kernel_initializer="zeros")
        self.mel_of_context = layers.Dense(hp.n_mels, use_bias=False, kernel_initializer="zeros") if local else None
        self.pitch_of_state = layers.Dense(hp.r * 2, kernel_initializer="zeros") if hp.harmonics else None
        self.pitch_of_context = (layers.Dense(2, use_bias=False, kernel_initializer="zeros") if hp.harmonics and local
                                 else None)
        self.built = True

    def start(self, position, memory) -> DecoderState:
        """State before the first step: a silent frame, at `position` (N,) of a memory, at the pace of the source."""
        n = ops.shape(position)[0]
        zeros = ops.zeros((n, self.width))
        return DecoderState(ops.zeros((n, self.r, self.n_mels)), ops.zeros((n, self.r, 2)), position, position,
                            ops.ones((n,)), ops.zeros((n,)),
                            ops.zeros((n, self.attention.n_contexts, self.attention.window_size(memory))), zeros, zeros,
                            zeros, zeros)

    def call(self, state: DecoderState, given: dict, memory, corrected, lengths) -> DecoderState:
        """One step on memory and corrected source, as the encoder gives them, of `lengths` (N,) frames.

        `given` holds "is_frame_visible" (N, 1), 0 hides the frame before this step, and "dropout_mask" (N, 3 E / 2) of
        the pre-net's two layers. It may hold the true "frame" (N, M) before this step and the true "position" (N,) in
        source frames; without them the model's own are used.
        """
        frame = given.get("frame", state.mel[:, -1])                                              # (N, M)
        dropout_mask = given["dropout_mask"]
        x = self.prenet[0](frame * given["is_frame_visible"]) * dropout_mask[:, :self.width]      # (N, E)
        x = self.prenet[1](x) * dropout_mask[:, self.width:]                                      # (N, E/2)
        attention = self.attention_gru(ops.concatenate([x, state.context], axis=-1), state.attention)
        start = given.get("position", state.end)                                                  # (N,)
        seen = self.attention.step(start, state.pace, attention, state.context, memory, corrected, lengths)
        flat = ops.reshape(seen.contexts, (-1, self.attention.n_contexts * self.width))
        context = self.combine(ops.concatenate([flat, attention], axis=-1))                       # (N, E)
        lower = self.residual_grus[0](context, state.lower)                                    # (N, E)
        upper = self.residual_grus[1](context + lower, state.upper)                            # (N, E)
        correction = self.output_frames(self.mel_of_state, self.mel_of_context, context + lower + upper, seen.contexts)
        mel = seen.corrected[:, :, :self.n_mels] + correction                                          # (N, r, M)
        octaves, voicing = seen.corrected[:, :, self.n_mels:-1], self.LOGITS * (seen.corrected[:, :, -1:] - 0.5)
        pitch = ops.concatenate([octaves, voicing], axis=-1)                                      # (N, r, 2)
        if self.pitch_of_state is not None:
            own = self.output_frames(self.pitch_of_state, self.pitch_of_context, context + lower + upper, seen.contexts)
            pitch = own + pitch
        return DecoderState(mel, pitch, seen.start, seen.end, seen.pace, seen.origin, seen.weights, attention, context,
                            lower, upper)

    def output_frames(self, of_state, of_context, hidden, contexts):
        """`r` frames (N, r, C): a projection of `hidden` (N, E), plus one of the frames' contexts (N, r, E), if any."""
        frames = ops.reshape(of_state(hidden), (-1, self.r, of_state.units // self.r))
        return frames if of_context is None else frames + of_context(contexts)
