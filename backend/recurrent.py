"""A loop over time with its own backward pass, for the decoder.

To differentiate a loop, TensorFlow keeps every intermediate tensor of every step. It adds up the gradient of a kernel
step by step, each time as a product of small matrices and a sum over the whole kernel. Here only the states are kept,
and the backward pass computes each step again (Chen et al. 2016, arXiv:1604.06174). Tensors that the steps read through
`dot`, `product` and `window` get their gradient after the loop, in one large product over all steps. The gradient is
the same.
"""
import functools
import threading

from backend import devices  # noqa: F401  before TensorFlow

import tensorflow as tf
from keras import config, layers, ops

config.set_floatx("float32")  # whatever another project left in ~/.keras/keras.json
config.set_image_data_format("channels_last")
# Without AutoGraph: loops over tensors are written as such, and to look for others in all of Keras takes half of the
# time of compilation
compiled = functools.partial(tf.function, autograph=False)
_active = threading.local()  # `LoopInvariants` of the loop that is being traced in this thread


def dot(x, kernel, bias):
    """x (..., I) times kernel (I, O), plus bias (O,) or None."""
    reads = getattr(_active, "reads", None)
    if reads is not None:
        return reads.dot(x, kernel, bias)
    y = ops.matmul(x, kernel)
    return y if bias is None else ops.add(y, bias)


def product(x, memory):
    """x (N, K, I) times memory (N, I, O), one matrix for each element of the batch: (N, K, O)."""
    reads = getattr(_active, "reads", None)
    return reads.product(x, memory) if reads is not None else ops.matmul(x, memory)


def window(memory, origin, size: int):
    """`size` frames (N, size, E) of memory (N, S, E) from frame `origin` (N,) on; beyond its ends the nearest frame."""
    reads = getattr(_active, "reads", None)
    return reads.window(memory, origin, size) if reads is not None else take(memory, frames_from(memory, origin, size))


def frames_from(memory, origin, size: int):
    """(N, size) frame numbers from `origin` (N,) on, within memory (N, S, E)."""
    return ops.clip(origin[:, None] + ops.arange(size, dtype="int32"), 0, ops.shape(memory)[1] - 1)


def take(memory, frames):
    """Memory (N, S, E) at frames (N, W): (N, W, E)."""
    return tf.gather(memory, frames, batch_dims=1)


class Dense(layers.Dense):
    """Fully connected layer that can be used inside `scan`."""

    def call(self, x, training=None):
        return self.activation(dot(x, self.kernel, self.bias))


class GRUCell(layers.Layer):
    """One step of a GRU, as cuDNN defines it (reset gate after the product)."""

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
        return gru_step(dot(x, self.kernel, self.bias), state, self.recurrent_kernel, self.recurrent_bias)


def gru_step(given, state, kernel, bias):
    """Next state of a GRU from its state (N, C) and `given` (N, 3 C), the input's contribution to its gates."""
    update, reset, given = ops.split(given, 3, axis=-1)
    of_update, of_reset, own = ops.split(dot(state, kernel, bias), 3, axis=-1)
    update = ops.sigmoid(update + of_update)
    candidate = ops.tanh(given + ops.sigmoid(reset + of_reset) * own)
    return update * state + (1.0 - update) * candidate


class LoopInvariants:
    """Record of how a step reads the constants of a loop, in order."""

    def __init__(self, constants: list, values: list, tape=None):
        self.tape = tape
        self.values = {id(constant): (place, value) for place, (constant, value) in enumerate(zip(constants, values))}
        self.places: list[tuple] = []  # of each read: numbers of the constants
        self.arguments: list = []      # of each read: its argument
        self.outputs: list = []        # of each read: its result

    def __enter__(self):
        if getattr(_active, "reads", None) is not None:
            raise RuntimeError("a loop within a loop is not possible: its constants would get no gradient")
        _active.reads = self
        return self

    def __exit__(self, *_):
        _active.reads = None

    def dot(self, x, kernel, bias):
        place, kernel = self.values[id(kernel)]
        bias_place, bias = (None, None) if bias is None else self.values[id(bias)]
        flat = tf.reshape(x, (-1, kernel.shape[0]))
        y = tf.matmul(flat, kernel)
        y = y if bias is None else tf.nn.bias_add(y, bias)
        self.record((place, bias_place), flat, y)
        return y if len(x.shape) == 2 else tf.reshape(y, tf.concat([tf.shape(x)[:-1], [kernel.shape[1]]], 0))

    def product(self, x, memory):
        place, memory = self.values[id(memory)]
        y = tf.matmul(x, memory)
        self.record((place,), x, y)
        return y

    def window(self, memory, origin, size):
        place, memory = self.values[id(memory)]
        frames = frames_from(memory, origin, size)
        y = take(memory, frames)
        self.record((place,), frames, y)
        return y

    def record(self, places, argument, output):
        self.places.append(places)
        self.arguments.append(argument)
        self.outputs.append(output)
        if self.tape is not None:
            self.tape.watch(output)

    def gradients(self, arguments: list, output_gradients: list) -> list:
        """Gradients of the constants, from the arguments (T, ...) of all steps and the outputs' gradients (T, ...)."""
        found = [None] * len(self.values)
        values = [value for _, value in self.values.values()]
        for places, asked, gradient in zip(self.places, arguments, output_gradients):
            if asked.dtype.is_integer:  # `window`: frames (T, N, W), outputs (T, N, W, E)
                n, length = (tf.shape(values[places[0]])[i] for i in (0, 1))
                flat = tf.range(n)[None, :, None] * length + asked
                parts = [tf.reshape(tf.math.unsorted_segment_sum(gradient, flat, n * length),
                                    tf.shape(values[places[0]]))]
            elif len(values[places[0]].shape) == 3:  # `product`: x (T, N, K, I), outputs (T, N, K, O)
                parts = [tf.einsum("tnki,tnko->nio", asked, gradient)]
            else:
                asked, gradient = (tf.reshape(x, (-1, x.shape[-1])) for x in (asked, gradient))
                parts = [tf.matmul(asked, gradient, transpose_a=True), tf.reduce_sum(gradient, axis=0)]
            for place, part in zip(places, parts):
                if place is not None:
                    found[place] = part if found[place] is None else found[place] + part
        return found


def scan(step, state, inputs, constants: list):
    """Apply `state = step(state, input)` along the first axis of `inputs`; returns all states, stacked there.

    State and inputs are structures of tensors. `constants` are the other weights and tensors that `step` reads. It may
    read them only through `dot`, `product` and `window`.
    """
    pack, count = tf.nest.pack_sequence_as, len(tf.nest.flatten(state))

    def arrays(like, length):
        return [tf.TensorArray(x.dtype, length, element_shape=x.shape) for x in like]

    def write(t, into, values):
        return [array.write(t, value) for array, value in zip(into, values, strict=True)]

    @tf.custom_gradient
    def run(*tensors):
        first, given = list(tensors[:count]), list(tensors[count:len(tensors) - len(constants)])
        values = list(tensors[len(tensors) - len(constants):])
        length, recorded = tf.shape(given[0])[0], []

        def forwards(t, now, states):
            with LoopInvariants(constants, values) as reads:
                now = tf.nest.flatten(step(pack(state, now), pack(inputs, [x[t] for x in given])))
            recorded[:] = [reads]
            return t + 1, now, write(t, states, now)
        _, _, states = tf.while_loop(lambda t, *_: t < length, forwards, (0, first, arrays(first, length)),
                                     maximum_iterations=length)
        states = [x.stack() for x in states]                                               # (T, ...)

        def backwards(*upstream):
            before = [tf.concat([start[None], x[:-1]], 0) for start, x in zip(first, states)]

            def body(t, of_state, of_inputs, arguments, output_gradients):
                old, now = [x[t] for x in before], [x[t] for x in given]
                with tf.GradientTape(watch_accessed_variables=False) as tape, \
                        LoopInvariants(constants, values, tape) as reads:
                    tape.watch((old, now))
                    new = tf.nest.flatten(step(pack(state, old), pack(inputs, now)))
                of_old, of_now, found = tape.gradient(
                    new, (old, now, reads.outputs), [later + here[t] for later, here in zip(of_state, upstream)],
                    tf.UnconnectedGradients.ZERO)
                return (t - 1, of_old, write(t, of_inputs, of_now), write(t, arguments, reads.arguments),
                        write(t, output_gradients, found))
            kept = [arrays(like, length) for like in (
                [x[0] for x in given], recorded[0].arguments, recorded[0].outputs)]
            _, of_first, *kept = tf.while_loop(lambda t, *_: t >= 0, body, (
                length - 1, [tf.zeros_like(x) for x in first], *kept), maximum_iterations=length)
            of_inputs, arguments, output_gradients = [[x.stack() for x in kind] for kind in kept]
            return *of_first, *of_inputs, *recorded[0].gradients(arguments, output_gradients)
        return tuple(states), backwards
    return pack(state, run(*tf.nest.flatten(state), *tf.nest.flatten(inputs),
                           *[tf.identity(ops.convert_to_tensor(x)) for x in constants]))
