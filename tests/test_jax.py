"""The networks give the same outputs and gradients under Keras's JAX backend as under TensorFlow."""
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from test_networks import make_batch, randomise

import hyperparams
from networks import Discriminator, Generator

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Reads weights and inputs, and writes the outputs of the networks and the gradients of a loss
PROGRAM = """
import sys
import jax, keras, numpy as np
import hyperparams
from networks import Discriminator, Generator
assert keras.backend.backend() == "jax"
given = np.load(sys.argv[1])
hp = hyperparams.get("default", sys.argv[3:])
generator, discriminator = Generator(hp), Discriminator(hp)
for name, model in (("generator", generator), ("discriminator", discriminator)):
    for i, weight in enumerate(model.weights):
        weight.assign(given[f"{name} {i}"])
source, carried, source_mask, positions, mel, mask, pitch = (given[name] for name in (
    "source", "mapped", "source_mask", "positions", "mel", "mask", "pitch"))

def outputs(weights):
    with keras.StatelessScope(zip(generator.trainable_variables, weights)):
        decoded = generator(source, carried, source_mask, positions, mel)
        linear = generator.postnet(decoded.mel * mask[:, :, None], pitch, mask)
        return decoded.mel, decoded.positions, linear, discriminator(linear, mask)

def loss(weights):
    return sum((output ** 2).mean() for output in outputs(weights))
weights = [variable.value for variable in generator.trainable_variables]
gradients = jax.jit(jax.grad(loss))(weights)
np.savez(sys.argv[2], *outputs(weights), *gradients)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_and_tensorflow_agree(tmp_path):
    settings = ["width=16", "encoder_banks=2", "postnet_banks=2", "highway_layers=1", "frame_dropout=0.0"]
    hp = hyperparams.get("default", settings)
    generator, discriminator = randomise(Generator(hp)), Discriminator(hp)
    batch = {name: np.asarray(value, np.float32) for name, value in make_batch(hp).items()}
    weights = {f"{name} {i}": np.array(weight) for name, model in (
        ("generator", generator), ("discriminator", discriminator)) for i, weight in enumerate(model.weights)}
    np.savez(tmp_path / "given.npz", **weights, **batch)
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "given.npz", tmp_path / "found.npz", *settings],
                   cwd=ROOT, check=True, env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})
    variables = [variable.value for variable in generator.trainable_variables]
    mask = batch["mask"]
    with tf.GradientTape() as tape:
        decoded = generator(batch["source"], batch["mapped"], batch["source_mask"], batch["positions"],
                            batch["mel"])
        linear = generator.postnet(decoded.mel * mask[:, :, None], batch["pitch"], mask)
        outputs = decoded.mel, decoded.positions, linear, discriminator(linear, mask)
        loss = sum(ops.mean(ops.square(output)) for output in outputs)
    expected = [*outputs, *tape.gradient(loss, variables, unconnected_gradients="zero")]
    found = np.load(tmp_path / "found.npz")
    assert len(found.files) == len(expected)
    for name, value in zip(found.files, expected):
        np.testing.assert_allclose(found[name], value, atol=1e-7 + 1e-3 * float(np.abs(value).max()), err_msg=name)
