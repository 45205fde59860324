"""A voice from recordings of it alone: what a pretrained model makes of anybody's speech, turned into that voice.

The pretrained base turns the voice's own recordings into its target's, in step with themselves. A second linear map
leads back from there. One after the other they are one map, so that all else is as with pairs.
"""
import numpy as np
from tqdm import tqdm

import analysis
import base
from base import Base


def compose(kernel: np.ndarray, bias: np.ndarray, then: np.ndarray, then_bias: np.ndarray) -> tuple:
    """Kernel and bias of the map (W, M) `kernel` followed by `then` (W', M); it reads as far as both together."""
    n_mels = kernel.shape[1]
    first, second = kernel.reshape(-1, n_mels, n_mels), then.reshape(-1, n_mels, n_mels)
    together = np.zeros((len(first) + len(second) - 1, n_mels, n_mels))
    for i, own in enumerate(second):
        together[i:i + len(first)] += first @ own
    return together.reshape(-1, n_mels).astype(np.float32), (then_bias + (bias @ second).sum(axis=0)).astype(np.float32)


def fit(pretrained: Base, corpus) -> Base:
    """A base that turns whomever `pretrained` knows, and strangers, into the target of a `data_load.Corpus` that holds
    nobody else."""
    hp, stranger = corpus.hp, len(pretrained.speakers)
    recordings = [corpus.recording(pair) for pair in tqdm(corpus.train, "voice", disable=None, leave=False)]
    mels = [recording.mel.astype(np.float32) for recording in recordings]
    pivots = [base.apply(pretrained, mel, stranger) for mel in mels]
    sums = base.Sums(len(base.windows(pivots[0][:1])[0]), hp.n_mels)
    for pivot, mel in zip(pivots, mels):
        sums.add(base.windows(pivot), mel)
    then = sums.solve(base.PENALTY)
    kernels, biases = map(np.array, zip(*(compose(kernel, bias, *then) for kernel, bias in zip(
        pretrained.kernels, pretrained.biases))))
    mapped = [base.windows(pivot) @ then[0] + then[1] for pivot in pivots]
    factors = base.growth(*(np.mean([base.cepstra(mel).var(axis=0) for mel in group], axis=0)
                            for group in (mels, mapped)))
    warp = float(np.median([base.find_warp(mel, pivot, hp) for mel, pivot in zip(mels, pivots)]))
    octaves = base.moments([analysis.pitch_contour(each.hertz, hp)[each.hertz > 0.0] for each in recordings])
    return pretrained._replace(kernels=kernels, biases=biases, growth=np.repeat(factors[None], len(kernels), axis=0),
                               warps=pretrained.warps / warp, pitch=np.vstack([pretrained.pitch[:-1], octaves]))
