"""Global attention: what it reads, its gradients, padding, its positions, and the length of conversions."""
import data_load
from conftest import plain_base
from conversion import base
from conversion.inference import Converter
from modules import GlobalAttention
from networks import Generator

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_networks import SOURCE_LENGTHS, STAGES, VOICE, make_batch, make_task, randomise, sources, teach

WIDTH, CHANNELS, STACK, STEPS_OF_SOURCE, R = 8, 3, 5, 6, 4
LENGTHS = (30.0, 21.0)  # source frames: six memory steps, and five of which the last is not full


@pytest.fixture(scope="module")
def generator(tiny_hp) -> Generator:
    """A generator whose attention is sharp enough to prefer some steps."""
    keras.utils.set_random_seed(6)
    generator = randomise(Generator(tiny_hp.replace(attention="global", frame_dropout=0.0)))
    query = generator.decoder.cell.attention.query.kernel
    query.assign(20.0 * query)
    return generator


def look(scale: float = 1.0, garbage: float = 0.0):
    """What one decoder step sees of two memories; returns also the memories (2, 6, E) and mapped sources (2, 30, B)."""
    keras.utils.set_random_seed(2)
    rng, attention = np.random.default_rng(3), GlobalAttention(WIDTH, R, STACK)
    state, memory, mapped = (rng.normal(size=shape).astype(np.float32) for shape in (
        (2, WIDTH), (2, STEPS_OF_SOURCE, WIDTH), (2, STACK * STEPS_OF_SOURCE, CHANNELS)))
    memory[1, 5:], mapped[1, 21:] = garbage, garbage
    rest = np.zeros(2, np.float32), np.ones(2, np.float32)
    seen = attention.step(*rest, scale * state, state, memory, mapped, np.float32(LENGTHS))
    return seen, memory, mapped


def test_weights_sum_to_one_over_valid_steps_and_the_context_is_their_weighted_mean():
    seen, memory, _ = look()
    weights = np.asarray(seen.weights)
    assert weights.shape == (2, 1, STEPS_OF_SOURCE) and (weights[0] > 0.0).all()
    np.testing.assert_allclose(weights.sum(axis=2), 1.0, rtol=1e-5)
    assert not weights[1, 0, 5:].any() and (weights[1, 0, :5] > 0.0).all()  # the fifth holds one frame
    np.testing.assert_allclose(seen.contexts, weights @ memory, atol=1e-5)


def test_values_beyond_the_length_have_no_effect():
    for found, expected in zip(look(garbage=1e6)[0], look()[0]):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_position_is_the_expected_frame_and_the_base_is_read_there(scale):
    seen, _, mapped = look(scale)
    start = np.asarray(seen.weights)[:, 0] @ (STACK * np.arange(STEPS_OF_SOURCE))
    np.testing.assert_allclose(seen.start, start, rtol=1e-5)
    np.testing.assert_allclose(seen.end, start + STACK, rtol=1e-5)
    if scale == 0.0:  # all steps have the same weight
        np.testing.assert_allclose(start, [12.5, 10.0], rtol=1e-5)
    for i, length in enumerate(map(int, LENGTHS)):
        points = np.minimum(start[i] + STACK * np.arange(R) / R, length - 1)
        expected = np.stack([np.interp(points, np.arange(length), column[:length]) for column in mapped[i].T], axis=1)
        np.testing.assert_allclose(seen.corrected[i], expected, atol=1e-4)


def test_gradient_of_the_query_equals_finite_differences(generator, eager):
    batch, query = make_batch(generator.hp), generator.decoder.cell.attention.query.kernel
    batch["mapped"] = 0.0 * batch["mapped"]  # interpolation between its frames is not differentiable everywhere

    def loss():
        return tf.reduce_sum(tf.sin(3.0 * teach(generator, batch).mel))
    with tf.GradientTape() as tape:
        found = loss()
    gradient, before = tf.convert_to_tensor(tape.gradient(found, query.value)), query.numpy()
    way = gradient.numpy() / np.linalg.norm(gradient)
    values = []
    for sign in (1.0, -1.0):
        query.assign(before + sign * 0.05 * way)
        values.append(float(loss()))
    query.assign(before)
    assert float(tf.norm(gradient)) == pytest.approx((values[0] - values[1]) / 0.1, rel=0.03)


@pytest.mark.parametrize("norm", ["ins", "bn"])
def test_padding_changes_no_loss_of_any_stage(tiny_hp, norm):
    task = make_task(tiny_hp.replace(norm=norm, dropout=0.0, encoder_dropout=0.0, frame_dropout=0.0,
                                     attention="global", harmonics=0, joint_steps=3))
    randomise(task.generator)
    short, longer = make_batch(tiny_hp), make_batch(tiny_hp, more=2, garbage=True)
    for stage in (*STAGES, "joint"):
        expected, found = ({name: float(value) for name, value in task.forward(stage, batch).items()}
                           for batch in (short, longer))
        assert expected["loss"] > 0.05 and found == pytest.approx(expected, rel=2e-4), stage


def test_teacher_forcing_with_free_running_output_gives_the_same(generator):
    batch = make_batch(generator.hp)
    memory, mapped = generator.encoder(batch["source"], batch["mapped"], batch["source_mask"])
    np.testing.assert_array_equal(mapped, batch["mapped"])
    assert memory.shape == (2, max(SOURCE_LENGTHS) // generator.hp.encoder_stack, generator.hp.width)

    def decode(**given):
        return generator.decoder(memory, mapped, batch["source_mask"], np.zeros(2, np.float32), steps=6, **given)
    free = decode()
    assert np.ptp(free.positions[:, :, 0], axis=1).min() > 0.1  # it reads at different positions
    for found, expected in zip(decode(frames=free.mel), free):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for found, expected in zip(decode(positions=np.cumsum(np.ones((2, 7), np.float32), axis=1)), free):
        np.testing.assert_array_equal(found, expected)  # given positions have no effect


@pytest.mark.parametrize("batch_size", [1, 16])
def test_conversion_length_is_the_source_length_times_the_pace(generator, batch_size):
    inputs, lengths = sources(generator.hp, [40, 17, 31, 5]), [52, 22, 40, 6]
    converter = Converter(generator, plain_base(generator.hp)._replace(length_ratio=np.array(1.3)))
    results, whole = converter.predict(inputs, [VOICE] * 4, batch_size), converter(inputs, [VOICE] * 4)
    for length, source, result, other in zip(lengths, inputs, results, whole):
        assert result.stopped and len(result.mel) == len(other.linear) == len(result.positions) == length
        assert result.weights.shape == (length, len(source.mel))
        full = len(source.mel) // STACK * STACK  # a partly filled memory vector includes padding
        np.testing.assert_array_less(result.weights[:, :full].sum(axis=1), 1.0 + 1e-4)
        assert full < len(source.mel) or result.weights.sum(axis=1) == pytest.approx(1.0, abs=1e-4)
        for field in ("positions", "weights"):
            np.testing.assert_allclose(getattr(result, field), getattr(other, field), atol=1e-4, err_msg=field)
        pitch = base.restore_pitch(converter.base, result.pitch, generator.hp)
        np.testing.assert_allclose(pitch, other.pitch, atol=1e-4)


def test_pace_of_a_source_is_that_of_all_its_training_pairs(demo_data, demo_base, tiny_hp):
    pairs = data_load.Corpus(demo_data, tiny_hp).train
    spoken, heard = (sum(getattr(pair, f"{kind}_end") - getattr(pair, f"{kind}_start") for pair in pairs)
                     for kind in ("target", "source"))
    assert float(demo_base.length_ratio) == pytest.approx(spoken / heard) and spoken != heard


def test_pace_of_one_keeps_the_length_of_the_source(generator):
    result, = Converter(generator, plain_base(generator.hp))(sources(generator.hp, [23]), [VOICE])
    assert len(result.mel) == 23


def test_weights_are_spread_over_the_frames_of_each_decoder_and_memory_step():
    weights = np.random.default_rng(0).uniform(size=(2, 3, 1, 4)).astype(np.float32)
    shown = np.asarray(GlobalAttention(WIDTH, R, STACK).spread(weights, np.zeros((2, 3)), 20))
    assert shown.shape == (2, 3 * R, 20)
    np.testing.assert_allclose(shown[1, 5, 10:15], weights[1, 1, 0, 2] / STACK)
    np.testing.assert_allclose(shown.sum(axis=2), weights[:, :, 0].sum(axis=2).repeat(R, axis=1), rtol=1e-5)
