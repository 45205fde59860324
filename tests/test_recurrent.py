"""Loops give the same values and gradients as TensorFlow's own loop, which keeps every step in memory."""
from typing import NamedTuple

from backend.recurrent import Dense, GRUCell, dot, product, scan, window

import keras
import numpy as np
import pytest
import tensorflow as tf

N, T, S, C = 3, 7, 9, 4


class Pair(NamedTuple):
    total: object
    count: object


@pytest.mark.parametrize("compiled", [False, True])
def test_scan_equals_a_loop(compiled):
    def step(state, given):
        return Pair(0.5 * state.total + given.total * given.count, state.count + given.count)
    inputs = np.random.default_rng(4).normal(size=(2, 6, 3)).astype(np.float32)

    def run(a, b):
        return scan(step, Pair(tf.ones(3), tf.zeros(3)), Pair(a, b), [])
    if compiled:  # the number of steps is then unknown
        run = tf.function(run, input_signature=[tf.TensorSpec((None, 3))] * 2)
    found = run(*map(tf.constant, inputs))
    state, expected = Pair(np.ones(3), np.zeros(3)), []
    for now in zip(*inputs):
        state = step(state, Pair(*now))
        expected.append(state)
    assert type(found) is Pair
    np.testing.assert_allclose(found.total, [state.total for state in expected], rtol=1e-5)
    np.testing.assert_allclose(found.count, [state.count for state in expected], rtol=1e-5)


def plain(step, state, inputs, constants):
    """TensorFlow's own `scan`, with the arguments of ours."""
    return tf.scan(step, inputs, state)


class Reader(keras.layers.Layer):
    """Reads a memory at a position given by its own state, with all operations that a loop may contain."""

    def __init__(self):
        super().__init__()
        self.cell, self.out, self.free = GRUCell(C), Dense(C, "tanh"), Dense(1, use_bias=False)

    def call(self, state: Pair, given: Pair, memory) -> Pair:
        near = window(memory, tf.cast(state.count, tf.int32) - 1, 3)                                     # (N, 3, C)
        seen = self.free(near)[:, :, 0]                                                                  # (N, 3)
        total = self.out(self.cell(tf.concat([seen, given.total], axis=-1), state.total))
        return Pair(total, state.count + given.count + tf.sigmoid(total[:, 0]))


def make(seed: int = 0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return tf.constant(rng.normal(size=shape), tf.float32)
    reader, memory = Reader(), normal(N, S, C)
    start, inputs = Pair(normal(N, C), tf.zeros(N)), Pair(normal(T, N, 2), tf.abs(normal(T, N)))
    reader(start, Pair(*(x[0] for x in inputs)), memory)
    for weight in reader.weights:
        weight.assign(rng.normal(size=weight.shape))
    return reader, memory, start, inputs


@pytest.mark.parametrize("compiled", [False, True])
def test_scan_gradients_equal_those_of_tf_scan(compiled):
    reader, memory, start, inputs = make()
    weights = [weight.value for weight in reader.trainable_weights]

    def gradients(way):
        def run():
            with tf.GradientTape() as tape:
                tape.watch((memory, start, inputs))
                states = way(lambda state, now: reader(state, now, memory), start, inputs,
                             [*reader.trainable_weights, memory])
                loss = tf.reduce_sum(states.total ** 2) + tf.reduce_sum(tf.sin(states.count))
            return loss, tape.gradient(loss, (memory, start, inputs, weights))
        return tf.nest.flatten(tf.function(run)() if compiled else run())
    for found, expected in zip(gradients(scan), gradients(plain), strict=True):
        assert np.abs(expected).max() > 1e-3  # each of them matters
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_values_used_twice_in_a_step_get_both_gradients():
    rng = np.random.default_rng(3)
    dense, state, memory = Dense(C), *(tf.constant(rng.normal(size=(N, size, C)), tf.float32) for size in (1, S))
    inputs, state = tf.constant(rng.normal(size=(T, N, C)), tf.float32), state[:, 0]
    dense(state)
    dense.bias.assign(rng.normal(size=C))

    def step(state, now):
        seen = window(memory, tf.constant([0, 2, 4]), 2)[:, 1] * window(memory, tf.constant([1, 0, 4]), 1)[:, 0]
        return tf.tanh(dense(state) + seen * dense(tf.sin(now)))

    def gradients(way):
        with tf.GradientTape() as tape:
            tape.watch(memory)
            loss = tf.reduce_sum(way(step, state, inputs, [dense.kernel, dense.bias, memory]) ** 2)
        return tape.gradient(loss, (dense.kernel.value, dense.bias.value, memory))
    for found, expected in zip(gradients(scan), gradients(plain), strict=True):
        np.testing.assert_allclose(found, tf.convert_to_tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_products_with_a_whole_memory_get_their_gradients(compiled):
    """Attention uses such products: K = 2 rows of scores of the keys, and the weighted sums of the values."""
    rng = np.random.default_rng(5)
    keys, values, state, inputs = (tf.constant(rng.normal(size=shape), tf.float32) for shape in (
        (N, C, S), (N, S, C), (N, C), (T, N, C)))

    def step(state, now):
        weights = tf.nn.softmax(product(tf.stack([state, now], axis=1), keys))                           # (N, 2, S)
        return tf.tanh(tf.reduce_sum(product(weights, values), axis=1) + now)

    def gradients(way):
        def run():
            with tf.GradientTape() as tape:
                tape.watch((keys, values, state, inputs))
                loss = tf.reduce_sum(way(step, state, inputs, [keys, values]) ** 2)
            return loss, *tape.gradient(loss, (keys, values, state, inputs))
        return tf.function(run)() if compiled else run()
    for found, expected in zip(gradients(scan), gradients(plain), strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weight_not_listed_for_the_loop_is_an_error():
    reader, memory, start, inputs = make()
    with pytest.raises(KeyError):
        scan(lambda state, now: reader(state, now, memory), start, inputs, [memory, *reader.trainable_weights[:-1]])


def test_a_window_repeats_the_frames_at_the_ends():
    memory = tf.reshape(tf.range(4.0), (1, 4, 1))
    np.testing.assert_array_equal(window(memory, tf.constant([-2]), 4)[0, :, 0], [0, 0, 0, 1])
    np.testing.assert_array_equal(window(memory, tf.constant([2]), 4)[0, :, 0], [2, 3, 3, 3])


def test_dot_and_product_outside_of_a_loop():
    x, kernel = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(dot(x, kernel, None), np.full((2, 3, 5), 4.0))
    np.testing.assert_array_equal(product(x, np.stack([kernel, 2.0 * kernel]))[:, 0, 0], [4.0, 8.0])
