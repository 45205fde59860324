"""The refiner: a mel that the target could have spoken, from what the networks write."""
from hyperparams import HyperParams
from networks import Refiner

import keras
import numpy as np
import pytest
import tensorflow as tf

HP = HyperParams(width=32, n_mels=20)


def arrays(length: int, n: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Two mel spectrograms (N, T, M) and a mask."""
    rng = np.random.default_rng(seed)
    mels = [rng.uniform(0.0, 1.0, (n, length, HP.n_mels)).astype(np.float32) for _ in range(2)]
    return [*mels, np.ones((n, length), np.float32)]


@pytest.fixture
def refiner():
    keras.utils.set_random_seed(4)
    made = Refiner(HP, keras.random.SeedGenerator(4))
    made.refine(*arrays(4))
    return made


def wake(refiner: Refiner) -> Refiner:
    rng = np.random.default_rng(1)
    for weight in refiner.weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return refiner


def test_a_refiner_that_learnt_nothing_or_forgot_all_changes_nothing(refiner):
    mel, source, mask = arrays(30)
    np.testing.assert_array_equal(refiner.refine(mel, source, mask), mel)
    assert np.abs(np.asarray(wake(refiner).refine(mel, source, mask)) - mel).max() > 0.01
    refiner.forget()
    np.testing.assert_array_equal(refiner.refine(mel, source, mask), mel)


@pytest.mark.parametrize("garbage", [0.0, 7.0])
def test_padding_changes_no_frame(refiner, garbage):
    mel, source, mask = arrays(30)
    padded = [np.pad(each, ((0, 0), (0, 9), (0, 0)), constant_values=garbage) for each in (mel, source)]
    refined = wake(refiner).refine(*padded, np.pad(mask, ((0, 0), (0, 9))))
    np.testing.assert_allclose(refined[:, :30], refiner.refine(mel, source, mask), atol=1e-5)


def test_it_reads_the_source_and_both_sides_of_each_frame(refiner):
    mel, source, mask = arrays(60)
    before, other = np.asarray(wake(refiner).refine(mel, source, mask)), source.copy()
    other[:, 30] = 1.0 - other[:, 30]
    changed = np.abs(np.asarray(refiner.refine(mel, other, mask)) - before).max(axis=(0, 2)) > 1e-6
    assert changed[25:36].all()


def test_it_learns_what_the_source_tells_and_a_regression_of_the_mel_cannot(refiner):
    """The target differs from what the networks write by the sign of the source."""
    optimizer, errors = keras.optimizers.Adam(3e-3), []
    variables = refiner.trainable_variables

    @tf.function
    def step(mel, source, mask):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(refiner.errors(mel, source, mel + 0.1 * tf.sign(source - 0.5), mask))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    for number in range(300):
        errors.append(float(step(*arrays(16, n=8, seed=number))))
    mel, source, mask = arrays(16, n=8, seed=999)
    refined = np.asarray(refiner.refine(mel, source, mask))
    assert np.mean(errors[-20:]) < 0.7 * np.mean(errors[:20])
    assert np.abs(refined - (mel + 0.1 * np.sign(source - 0.5))).mean() < 0.06  # 0.1 before
