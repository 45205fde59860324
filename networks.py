"""The networks: encoder, decoder and post-net joined in `Generator`.

Letters of shapes: see hyperparams.py; S is the source length in frames, a multiple of `encoder_stack`.
"""
import math
from typing import NamedTuple

import utils
from hyperparams import HyperParams
from modules import CBHG, DecoderCell, PreNet, take

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


def stack_frames(linear, mask, size: int):
    """Linear (N, T, F), mask (N, T) to `size` frames per step (N, ceil(T / size), F * size) and the mask of the steps.

    Frames beyond the mask become zero, because a step may hold both valid frames and padding.
    """
    n, length, bins = ops.shape(linear)[0], ops.shape(linear)[1], linear.shape[2]
    missing = -length % size
    x = ops.pad(linear * mask[:, :, None], ((0, 0), (0, missing), (0, 0)))
    return ops.reshape(x, (n, -1, size * bins)), ops.pad(mask, ((0, 0), (0, missing)))[:, ::size]


class Encoder(layers.Layer):
    """Linear spectrogram to memory: `encoder_stack` stacked frames, pre-net, CBHG. For local attention the result is
    unfolded to one memory vector per frame.

    Each of these vectors is the sum of the CBHG's output, which depends on the context, and the output of a second
    pre-net, which reads only the vector's own frame. So the detail of 12.5 ms need not pass through a stack of frames.
    For global attention the memory is that of 2017, one vector per step.

    A linear head on each frame's vector corrects the mapped source. It is zero before training. With it the encoder
    learns from the target's mel directly, without waiting for the recurrence of the decoder.
    """

    def __init__(self, hp: HyperParams, seeds: keras.random.SeedGenerator, **kwargs):
        super().__init__(**kwargs)
        self.stack, self.width, self.dropout, self.seeds = hp.encoder_stack, hp.width, hp.encoder_dropout, seeds
        half = hp.width // 2
        policy = {"dtype": hp.policy}
        self.prenet = PreNet(hp.width, hp.dropout, seeds, **policy)
        self.cbhg = CBHG(hp.encoder_banks, half, (half, half), hp.highway_layers, hp.norm, dropout=hp.encoder_dropout,
                         seeds=seeds, **policy)
        self.unfolds = hp.attention == "local"
        if self.unfolds:
            self.unfold = layers.Dense(self.stack * hp.width, **policy)
            self.frame_prenet = PreNet(hp.width, hp.dropout, seeds, **policy)
            self.of_frame = layers.Dense(hp.width, **policy)
            self.head = layers.Dense(hp.n_mels, kernel_initializer="zeros")
        self.built = True

    def call(self, linear, mapped, mask, training=False):
        """Linear (N, S, F), mapped source (N, S, M + 2), mask (N, S) to memory (N, S, E), or (N, Tx, E) for global
        attention, and the corrected mapped source (N, S, M + 2)."""
        n, length = ops.shape(linear)[0], ops.shape(linear)[1]
        x, step_mask = stack_frames(linear, mask, self.stack)                              # (N, Tx, F * stack), (N, Tx)
        x = self.cbhg(self.prenet(x, training=training), step_mask, training=training)   # (N, Tx, E)
        if not self.unfolds:
            return ops.cast(x, "float32"), mapped
        if training:
            x = keras.random.dropout(x, self.dropout, seed=self.seeds)
        x = ops.reshape(self.unfold(x), (n, length, self.width))                   # (N, S, E)
        x = x + self.of_frame(self.frame_prenet(linear, training=training))        # (N, S, E)
        memory = ops.cast(x, "float32") * mask[:, :, None]
        correction = self.head(memory) * mask[:, :, None]                          # (N, S, M)
        return memory, mapped + ops.pad(correction, ((0, 0), (0, 0), (0, 2)))


class Discriminator(keras.Model):
    """The encoder's architecture on linear spectrograms, with one more fully connected layer on the last valid time
    step of its GRU.

    It differs from the encoder in two things: it has no dropout, and it has layer norm in place of batch norm. With
    batch norm it could tell a batch of real speech from a batch of converted speech by the statistics of the batch,
    without judging single utterances.
    """

    def __init__(self, hp: HyperParams, **kwargs):
        super().__init__(**kwargs)
        self.stack, half = hp.dis_stack, hp.width // 2
        self.prenet = PreNet(hp.width, 0.0, None, dtype=hp.policy)
        self.cbhg = CBHG(hp.encoder_banks, half, (half, half), hp.highway_layers, "ln" if hp.norm == "bn" else hp.norm,
                         dtype=hp.policy)
        self.score = layers.Dense(1)
        self(ops.zeros((1, self.stack, hp.n_linear)), ops.ones((1, self.stack)))  # make all weights now

    def call(self, linear, mask):
        """Linear (N, T, F), mask (N, T) to scores (N,), trained to be 1 for real and 0 for converted speech."""
        x, step_mask = stack_frames(linear, mask, self.stack)                              # (N, Tx, F * stack), (N, Tx)
        x = ops.cast(self.cbhg(self.prenet(x), step_mask), "float32")                      # (N, Tx, E)
        last = step_mask - ops.pad(step_mask[:, 1:], ((0, 0), (0, 1)))                     # 0 0 1 0
        return self.score(ops.sum(x * last[:, :, None], axis=1))[:, 0]


class DecoderOutput(NamedTuple):
    mel: object        # (N, Ty*r, M)
    pitch: object      # (N, Ty*r, 2) octaves above the middle, logit of voicing
    positions: object  # (N, Ty, 2) source frames at the start and end of each step
    origins: object    # (N, Ty) first source frame of each step's window of attention
    weights: object    # (N, Ty, K, W) attention weights in this window, see modules.py


class Decoder(layers.Layer):
    """The decoder loop around `DecoderCell`."""

    def __init__(self, hp: HyperParams, seeds: keras.random.SeedGenerator, **kwargs):
        super().__init__(**kwargs)
        self.hp, self.seeds = hp, seeds
        self.cell = DecoderCell(hp)
        self.built = True

    def inputs(self, n, steps, training, frames=None, positions=None) -> dict:
        """What the steps of `DecoderCell` are given, with a leading time axis (Ty, N, ...).

        With `frames` (N, Ty*r, M) each step is fed the last true frame before it, otherwise the last frame that the
        decoder wrote. With `positions` (N, Ty+1) the steps start at these positions.
        """
        hp, width = self.hp, self.hp.width
        ones = ops.ones((steps, n, 1))

        def uniform(*shape):
            return keras.random.uniform(shape, seed=self.seeds)

        if training:
            dropout_mask = ops.cast(uniform(steps, n, width + width // 2) >= hp.dropout, "float32")
            dropout_mask = dropout_mask / (1.0 - hp.dropout)
            is_frame_visible = ops.cast(uniform(steps, n, 1) >= hp.frame_dropout, "float32")
        else:  # as often as in training, but evenly spaced, not random
            dropout_mask = ops.ones((steps, n, width + width // 2))
            # Visible at every step at which the number of steps times the share of visible ones reaches another integer
            n_visible = ops.floor(ops.arange(steps + 1, dtype="float32") * (1.0 - hp.frame_dropout) + 1e-4)
            is_frame_visible = (n_visible[1:] - n_visible[:-1])[:, None, None] * ones
        given = {"is_frame_visible": is_frame_visible, "dropout_mask": dropout_mask}
        if frames is not None:
            last = ops.reshape(frames, (n, steps, hp.r, hp.n_mels))[:, :-1, -1]                     # (N, Ty-1, M)
            given["frame"] = ops.transpose(ops.pad(last, ((0, 0), (1, 0), (0, 0))), (1, 0, 2))     # (Ty, N, M)
        if positions is not None:
            given["position"] = ops.transpose(positions[:, :-1])                                    # (Ty, N)
        return given

    def call(self, memory, corrected, mask, start, steps, frames=None, positions=None, training=False) -> DecoderOutput:
        """Decode `steps` steps from position `start` (N,); memory and corrected mapped source (N, S, M + 2) as the
        encoder gives them, mask (N, S). Global attention ignores positions."""
        n, lengths = ops.shape(memory)[0], ops.sum(mask, axis=1)
        given = self.inputs(n, steps, training, frames, positions)
        states = tf.scan(lambda state, now: self.cell(state, now, memory, corrected, lengths), given,
                         self.cell.start(start, memory))                                           # (Ty, N, ...)
        mel = ops.reshape(ops.transpose(states.mel, (1, 0, 2, 3)), (n, -1, self.hp.n_mels))
        pitch = ops.reshape(ops.transpose(states.pitch, (1, 0, 2, 3)), (n, -1, 2))
        return DecoderOutput(mel, pitch, ops.transpose(ops.stack([states.start, states.end]), (2, 1, 0)),
                             ops.transpose(states.origin), ops.transpose(states.weights, (1, 0, 2, 3)))

    def places(self, decoded: DecoderOutput):
        """Source positions (N, Ty*r), in fractions of frames, at which the output frames were read."""
        return self.spaced(decoded.positions[:, :, :1], decoded.positions[:, :, 1:])

    def spaced(self, start, end):
        """The `r` positions of each step from `start` to `end` (N, Ty, 1): (N, Ty*r)."""
        fractions = ops.arange(self.hp.r, dtype="float32") / self.hp.r
        return ops.reshape(start + (end - start) * fractions, (ops.shape(start)[0], -1))


class Conversion(NamedTuple):
    """The result of free running. Frames after `lengths` are not part of the speech."""
    mel: object        # (N, T, M)
    pitch: object      # (N, T, 2) octaves above the middle, voicing from 0 to 1
    lengths: object    # (N,) frames until the reading position passed the source's end; global attention: as requested
    stopped: object    # (N,) bool, False where decoding reached the limit of steps first
    positions: object  # (N, T) source position read for each output frame
    weights: object    # (N, T, S) attention weights


class PostNet(layers.Layer):
    """CBHG from mel to linear frames (Tacotron, section 3.3).

    It learns only the difference to the mel spectrogram spread over the linear bins, because what costs nothing to
    compute would be hard to learn. And it adds the harmonics, which the mel spectrogram of an envelope lacks: cosines
    along frequency with crests at multiples of the given pitch, whose depth the network predicts for each bin. With
    `harmonics=0` the CBHG writes the whole spectrogram and ignores the pitch.
    """

    COSINES = 2  # the second cosine makes the crests sharp

    def __init__(self, hp: HyperParams, **kwargs):
        super().__init__(**kwargs)
        self.cbhg = CBHG(hp.postnet_banks, hp.width // 2, (hp.width, hp.n_mels), hp.highway_layers, hp.norm,
                         dtype=hp.policy)
        self.linear, *self.depths = [layers.Dense(hp.n_linear, kernel_initializer="zeros", dtype=hp.policy)
                                     for _ in range(1 + self.COSINES * hp.harmonics)]
        hertz = np.arange(hp.n_linear, dtype=np.float32) * hp.sample_rate / hp.n_fft
        self.bins = hertz / hp.pitch_middle
        self.spread = utils.mel_to_bins(hp.sample_rate, hp.n_fft, hp.n_mels)               # (M, F)
        self.limits = [math.log2(hertz / hp.pitch_middle) for hertz in (hp.pitch_min, hp.pitch_max)]
        self.built = True

    def call(self, mel, pitch, mask, training=False):
        """Mel (N, T, M), pitch (N, T, 2) octaves and voicing, mask (N, T) to linear (N, T, F)."""
        x = self.cbhg(mel, mask, training=training)                                        # (N, T, E)
        linear = ops.cast(self.linear(x), "float32")                                       # (N, T, F)
        if not self.depths:
            return linear * mask[:, :, None]
        linear = ops.matmul(mel, self.spread) + linear                                     # (N, T, F)
        harmonic = self.bins * ops.power(2.0, -ops.clip(pitch[:, :, :1], *self.limits))    # (N, T, F) pitch multiples
        for n, depth in enumerate(self.depths, 1):
            crests = ops.cos(2.0 * math.pi * n * harmonic) * pitch[:, :, 1:]
            linear = linear + ops.cast(depth(x), "float32") * crests
        return linear * mask[:, :, None]


def read_at(x, places):
    """Interpolate x (N, S, C) linearly at fractional frames `places` (N, T): (N, T, C)."""
    lower = ops.floor(places)
    share = (places - lower)[:, :, None]
    return take(x, lower) * (1.0 - share) + take(x, lower + 1.0) * share


class Generator(keras.Model):
    """Source linear spectrogram to target mel and linear spectrograms."""

    def __init__(self, hp: HyperParams, **kwargs):
        super().__init__(**kwargs)
        self.hp = hp
        self.seeds = keras.random.SeedGenerator(hp.seed)
        self.encoder = Encoder(hp, self.seeds)
        self.decoder = Decoder(hp, self.seeds)
        self.postnet = PostNet(hp)
        # Logarithms of gains of the mel-cepstra's movements, at each modulation frequency; not trained, but measured by
        # Converter.convert_pairs when it converts the validation sentences
        self.movement = self.add_weight(name="movement", shape=(utils.MODULATION_FRAMES // 2 + 1, hp.n_mels),
                                        initializer="zeros", trainable=False)
        self.build_all()

    @property
    def judged_variables(self) -> list:
        """The weights that learn from a discriminator."""
        return (self if self.hp.gan_networks == "all" else self.postnet).trainable_variables

    def build_all(self):
        """Make all weights now, because they cannot be made inside the decoder's loop."""
        size = 2 * self.hp.encoder_stack  # two steps, because Keras warns of a softmax over one
        source, mask = ops.zeros((1, size, self.hp.n_linear)), ops.ones((1, size))
        memory, corrected = self.encoder(source, ops.zeros((1, size, self.hp.n_mels + 2)), mask)
        given, cell = {name: x[0] for name, x in self.decoder.inputs(1, 1, False).items()}, self.decoder.cell
        cell(cell.start(ops.zeros((1,)), memory), given, memory, corrected, ops.ones((1,)))
        self.postnet(ops.zeros((1, self.hp.r, self.hp.n_mels)), ops.zeros((1, self.hp.r, 2)), ops.ones((1, self.hp.r)))
        self.built = True

    def call(self, source, mapped, mask, positions, mel=None, training=False, train_encoder=True) -> DecoderOutput:
        """Decode along known positions (N, Ty+1); source (N, S, F), mapped (N, S, M + 2), mask (N, S), S a multiple of
        `encoder_stack`. Global attention uses only the number of positions.

        With `mel` (N, Ty*r, M) this is teacher forcing; without it the decoder is fed its own frames. Without
        `train_encoder` the encoder reads as at synthesis while the decoder is in training.
        """
        memory, corrected = self.encoder(source, mapped, mask, training=training and train_encoder)
        return self.decoder(memory, corrected, mask, positions[:, 0], steps=ops.shape(positions)[1] - 1, frames=mel,
                            positions=positions, training=training)

    def encode_on_path(self, source, mapped, mask, positions, training=False):
        """The mel (N, Ty*r, M) of map and encoder, without the decoder, read along known positions (N, Ty + 1)."""
        _, corrected = self.encoder(source, mapped, mask, training=training)
        places = self.decoder.spaced(positions[:, :-1, None], positions[:, 1:, None])
        places = ops.clip(places, 0.0, ops.sum(mask, axis=1, keepdims=True) - 1.0)
        return read_at(corrected[:, :, :self.hp.n_mels], places)

    def speech(self, decoded: DecoderOutput, mapped, source_mask, mask):
        """Mel (N, T, M), zero beyond `mask` (N, T), and pitch (N, T, 2), octaves and voicing, from the decoder's output
        and the mapped source (N, S, M + 2): the map, and a share `correction` of what the networks changed in it.

        Voicing is the source's. Without a base, all is the decoder's output.
        """
        if not self.hp.base:
            pitch = ops.concatenate([decoded.pitch[:, :, :1], ops.sigmoid(decoded.pitch[:, :, 1:])], axis=-1)
            return ops.clip(decoded.mel, 0.0, 1.0) * mask[:, :, None], pitch
        places = ops.clip(self.decoder.places(decoded), 0.0, ops.sum(source_mask, axis=1, keepdims=True) - 1.0)
        m = self.hp.n_mels
        mel, octaves, voicing = ops.split(read_at(mapped, places), (m, m + 1), axis=-1)
        mel = mel + self.hp.correction * (decoded.mel - mel)                                       # (N, T, M)
        octaves = octaves + self.hp.correction * (decoded.pitch[:, :, :1] - octaves)               # (N, T, 1)
        return ops.clip(mel, 0.0, 1.0) * mask[:, :, None], ops.concatenate([octaves, voicing], axis=-1)

    def convert(self, source, mapped, mask, steps, frames=None) -> Conversion:
        """Free running from the first source frame for at most `steps` steps. Global attention does not detect the
        end of the source, so with it the lengths are `frames` (N,)."""
        n = ops.shape(source)[0]
        memory, corrected = self.encoder(source, mapped, mask)
        decoded = self.decoder(memory, corrected, mask, ops.zeros((n,)), steps=steps)
        positions = self.decoder.places(decoded)                                               # (N, T)
        if self.hp.attention == "global":
            inside = tf.sequence_mask(frames, ops.shape(positions)[1], "float32")              # (N, T)
        else:
            inside = ops.cast(positions < ops.sum(mask, axis=1)[:, None] - 0.5, "float32")     # monotonic: 1 1 1 0 0
        lengths = ops.cast(ops.sum(inside, axis=1), "int32")
        stopped = lengths < ops.shape(positions)[1]
        mel, pitch = self.speech(decoded, mapped, mask, inside)
        attention, size = self.decoder.cell.attention, ops.shape(source)[1]
        weights = attention.spread(decoded.weights, decoded.origins, size)                        # (N, T, S)
        return Conversion(mel, pitch, lengths, stopped, positions, weights)
