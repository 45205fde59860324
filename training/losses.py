"""Losses: small pure functions of tensors and masks, divided by the number of valid elements, of all devices that share
a training step: the sum of their parts is then the loss of the whole batch."""
import math
from typing import Any

from modules import total

from keras import ops

Tensor = Any  # tensor of Keras' backend


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (N, T, ...) over the valid frames of mask (N, T) and all channels."""
    mask = ops.reshape(mask, tuple(ops.shape(mask)) + (1,) * (len(x.shape) - 2))
    return ops.sum(x * mask) / (ops.maximum(total(ops.sum(mask)), 1.0) * math.prod(x.shape[2:]))


def l1(predicted: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Masked mean absolute difference of spectrograms (N, T, C) (Tacotron, section 4.2)."""
    return masked_mean(ops.abs(predicted - true), mask)


def pitch(predicted: Tensor, true: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of predicted octaves and logit of voicing (N, T, 2): masked mean squared difference of the octaves where
    the true (N, T, 2) is voiced, and masked cross-entropy of voicing. Squared, because an absolute difference would
    lead to the median of a skewed distribution, lower than its mean, and to another voice."""
    voiced, logit = true[:, :, 1], predicted[:, :, 1]
    octaves = masked_mean(ops.square(predicted[:, :, 0] - true[:, :, 0]), mask * voiced)
    return octaves, masked_mean(ops.softplus(logit) - voiced * logit, mask)


def least_squares(scores: Tensor, weights: Tensor, goal: float) -> Tensor:
    """Mean squared distance of scores (N,) with `weights` (N,) from a goal (Mao et al. 2017, LSGAN, eq. 2)."""
    return ops.sum(weights * ops.square(scores - goal)) / total(ops.sum(weights))


def huber(predicted: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Masked Huber loss of paces (N, Ty): squared within 1 and linear beyond, so a jump of the DTW path weighs less."""
    error = ops.abs(predicted - true)
    return masked_mean(ops.where(error < 1.0, 0.5 * ops.square(error), error - 0.5), mask)
