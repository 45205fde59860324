"""Losses equal values computed by hand, and padding does not affect them."""
from training import losses

import numpy as np
import pytest
import tensorflow as tf

MASK = np.array([[1, 1, 1], [1, 0, 0]], np.float32)


def arrays(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape).astype(np.float32) for _ in range(2))


def test_l1_equals_a_value_computed_by_hand():
    true = np.zeros((2, 3, 2), np.float32)
    predicted = true.copy()
    predicted[0, 0], predicted[0, 2], predicted[1, 0] = (1.0, -3.0), (0.5, 0.0), (0.0, 2.0)
    predicted[1, 1:] = 1e6  # padding
    assert float(losses.l1(predicted, true, MASK)) == pytest.approx((1.0 + 3.0 + 0.5 + 2.0) / (4 * 2))


def test_huber_equals_a_value_computed_by_hand():
    predicted = np.array([[0.5, -3.0, 1.0], [0.0, 1e6, 1e6]], np.float32)
    expected = (0.125 + 2.5 + 0.5 + 0.0) / 4  # squared within 1, linear beyond, 0.5 where they meet
    assert float(losses.huber(predicted, np.zeros((2, 3), np.float32), MASK)) == pytest.approx(expected)


def test_pitch_loss_equals_a_value_computed_by_hand():
    true, predicted = np.zeros((2, 2, 3, 2), np.float32)
    true[0, :2, 0], true[0, :2, 1], true[1, 0] = (0.5, 0.0), 1.0, (1.0, 0.0)  # two frames are voiced, two not
    predicted[0, 0], predicted[0, 1], predicted[0, 2] = (1.0, 2.0), (-2.0, -1.0), (7.0, 0.0)
    predicted[1, 0] = -9.0, 3.0  # unvoiced: its octaves do not count
    true[1, 1:], predicted[1, 1:] = 1.0, -1e6  # padding: nothing counts
    octaves, voicing = losses.pitch(predicted, true, MASK)
    assert float(octaves) == pytest.approx((0.25 + 4.0) / 2)
    right = [1.0 / (1.0 + np.exp(-logit)) for logit in (2.0, -1.0, 0.0, -3.0)]  # probabilities of the true voicing
    assert float(voicing) == pytest.approx(-np.log(right).mean(), rel=1e-5)


def test_masked_mean_is_the_mean_of_the_valid_elements():
    x, _ = arrays(1, 2, 3, 4, 5)
    for channels in ((), (4,), (4, 5)):
        values = x[(...,) + (0,) * (2 - len(channels))]
        assert float(losses.masked_mean(values, MASK)) == pytest.approx(values[MASK > 0].mean(), rel=1e-5)


@pytest.mark.parametrize("loss, shape", [(losses.l1, (2, 3, 4)), (losses.huber, (2, 3))])
def test_padding_changes_neither_loss_nor_gradient(loss, shape):
    predicted, true = arrays(2, *shape)

    def value_and_gradient(predicted, true, mask):
        predicted = tf.constant(predicted)
        with tf.GradientTape() as tape:
            tape.watch(predicted)
            value = loss(predicted, true, mask)
        return float(value), tape.gradient(value, predicted).numpy()
    value, gradient = value_and_gradient(predicted, true, MASK)
    assert value > 0 and np.abs(gradient[MASK > 0]).max() > 0 and not gradient[MASK == 0].any()

    mask = np.pad(MASK, ((0, 1), (0, 4)))  # longer, and with an additional utterance of padding only
    longer = [np.full((3, 7, *shape[2:]), fill, np.float32) for fill in (1e3, -1e3)]
    for new, old in zip(longer, (predicted, true)):
        new[:2, :3][MASK > 0] = old[MASK > 0]
    longer_value, longer_gradient = value_and_gradient(*longer, mask)
    assert longer_value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(longer_gradient[:2, :3], gradient, rtol=1e-5)
    assert not longer_gradient[mask == 0].any()


def test_all_zero_mask_gives_zero_loss():
    predicted, true = arrays(3, 2, 3, 4)
    assert float(losses.l1(predicted, true, np.zeros((2, 3), np.float32))) == 0.0
