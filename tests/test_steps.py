"""One step of paired training: which network it changes, when it is skipped, and lower precision."""
import functools

import hyperparams
import train

import numpy as np
import pytest
import tensorflow as tf
from test_networks import STAGES, make_batch, make_generator, make_task, randomise, teach


def test_each_stage_trains_only_its_own_network(tiny_hp, eager):
    task = make_task(tiny_hp.replace(frame_dropout=0.0, warmup_steps=0))
    generator, batch = randomise(task.generator), make_batch(tiny_hp)
    parts = {stage: getattr(generator, stage).weights for stage in STAGES}
    assert sum(map(len, parts.values())) + 1 == len(generator.weights)  # and the gains, which are measured
    for number, stage in enumerate(STAGES):
        own = {id(weight) for weight in parts[stage]}
        with tf.GradientTape() as tape:
            loss = task.forward(stage, batch)["loss"]
        trainable = [weight for weight in parts[stage] if weight.trainable]
        for weight, gradient in zip(trainable, tape.gradient(loss, [weight.value for weight in trainable])):
            assert gradient is not None and np.abs(gradient).max() > 0.0, f"{stage}: {weight.path} has no gradient"
        before = [weight.numpy() for weight in generator.weights]
        optimizers = {name: [variable.numpy() for variable in optimizer.variables]
                      for name, optimizer in task.optimizers.items()}
        task.train_step(stage, batch, tf.Variable(number, dtype=tf.int64))
        for weight, old in zip(generator.weights, before):
            changed = bool((weight.numpy() != old).any())
            assert changed == (id(weight) in own), f"{stage}: {weight.path} {'changed' if changed else 'stood still'}"
        for name, optimizer in task.optimizers.items():
            changed = any((variable.numpy() != old).any() for variable, old in zip(optimizer.variables,
                                                                                   optimizers[name]))
            assert changed == (name == stage), f"{stage}: optimizer of {name}"


def test_each_run_counts_its_own_steps(tiny_hp, eager):
    """A trainer may serve a second run in the same process, whose random numbers depend on its own step."""
    task, batch = make_task(tiny_hp), make_batch(tiny_hp)
    first, second = tf.Variable(0, dtype=tf.int64), tf.Variable(7, dtype=tf.int64)
    for step in (first, second, first):
        task.train_step("postnet", batch, step)
    assert (int(first), int(second)) == (2, 8)


def state_of(task: train.PairedTrainer) -> dict[str, np.ndarray]:
    """Everything that a step changes."""
    return {f"{name} {i}": variable.numpy() for name, variables in task.parts.items()
            for i, variable in enumerate(variables)}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reason, precision", [("batch", "float32"), ("scale", "float16")])
def test_a_step_without_finite_gradients_is_skipped(tiny_hp, eager, stage, precision, reason):
    task, batch = make_task(tiny_hp.replace(warmup_steps=0, precision=precision)), make_batch(tiny_hp)
    randomise(task.generator)
    broken = {name: array.copy() for name, array in batch.items()}
    if reason == "batch":
        broken["mel" if stage == "postnet" else "source"][0, 2, 3] = np.nan
    else:  # everything is finite except the gradients, which overflow
        task.optimizers[stage].dynamic_scale.assign(1e38)
    before, step = state_of(task), tf.Variable(0, dtype=tf.int64)
    scalars = task.train_step(stage, broken, step)
    assert scalars["skipped"] == 1.0 and int(step) == 1
    changed = [name for name, value in state_of(task).items() if not np.array_equal(value, before[name])]
    # Only the scale of the loss, which is halved, and the number of good steps before it may change
    assert {name.split()[0] for name in changed} <= {f"optimizer_{stage}"}
    assert sum(state_of(task)[name].size for name in changed) <= 2
    task.optimizers[stage].dynamic_scale.assign(1.0)
    assert task.train_step(stage, batch, step)["skipped"] == 0.0
    assert all(np.isfinite(value).all() for value in state_of(task).values())


@functools.cache
def movement(hp: hyperparams.HyperParams, stage: str) -> tuple[dict[str, float], np.ndarray]:
    """Return the scalars of a step without randomness, and by how much it changed each weight."""
    task = make_task(hp.replace(dropout=0.0, encoder_dropout=0.0, frame_dropout=0.0, warmup_steps=0, learning_rate=0.1,
                                encoder_rate=0.1))
    weights = randomise(task.generator).trainable_weights
    before = [weight.numpy() for weight in weights]
    batch = {name: tf.constant(array) for name, array in make_batch(hp).items()}
    scalars = task.train_step(stage, batch, tf.Variable(0, dtype=tf.int64))
    return ({name: float(value) for name, value in scalars.items()},
            np.concatenate([(weight.numpy() - old).ravel() for weight, old in zip(weights, before)]))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision, tolerance", [("bfloat16", 0.15), ("float16", 0.01)])
def test_lower_precision_gives_nearly_the_same_step(tiny_hp, eager, stage, precision, tolerance):
    (expected, moved), (found, also) = (movement(tiny_hp.replace(precision=each), stage)
                                        for each in ("float32", precision))
    assert found == pytest.approx(expected, rel=tolerance) and found["loss"] != expected["loss"]
    # A first step of Adam is nearly the sign of the gradient: most signs are the same
    assert np.abs(moved).max() > 2e-4
    assert np.dot(moved, also) > 0.8 * np.linalg.norm(moved) * np.linalg.norm(also)


def test_weights_and_outputs_are_float32_in_lower_precision(tiny_hp, eager):
    generator, batch = randomise(make_generator(tiny_hp.replace(precision="bfloat16"))), make_batch(tiny_hp)
    assert {weight.dtype for weight in generator.weights} == {"float32"}
    decoded = teach(generator, batch)
    linear = generator.postnet(batch["mel"], batch["pitch"], batch["mask"])
    assert decoded.mel.dtype == decoded.weights.dtype == linear.dtype == tf.float32


def test_encoder_and_postnet_compute_in_the_requested_precision(tiny_hp):
    generator = make_generator(tiny_hp.replace(precision="bfloat16"))
    for cbhg in (generator.encoder.cbhg, generator.postnet.cbhg):
        convolutions = [*cbhg.bank, *(each.conv for each in cbhg.project)]
        for layer in (*convolutions, cbhg.forwards, cbhg.backwards, cbhg.to_highway):
            assert layer.compute_dtype == "bfloat16"
        assert cbhg.bank_norm.compute_dtype == "float32"
    assert generator.decoder.cell.combine.compute_dtype == "float32"
