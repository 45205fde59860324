"""What a validation in free running makes of conversions that are known."""
import types

import numpy as np
import pytest

import data_load
import tasks
from convert import Converted


@pytest.fixture
def task(demo_data, tiny_hp) -> types.SimpleNamespace:
    """Four pairs, and in the place of the networks what says the target's words, in 1, 1.5, 0.75 and 0.75 times its
    length, and stops by itself in half of them."""
    corpus = data_load.Corpus(demo_data, tiny_hp)
    pairs = corpus.train[:4]

    def convert(sources):
        assert [len(source) for source in sources] == [len(corpus.source(pair)) for pair in pairs]
        outputs = []
        for pair, ratio, stopped in zip(pairs, (1.0, 1.5, 0.75, 0.75), (True, False, False, True)):
            place = (np.arange(round(ratio * len(corpus.path(pair)))) / ratio).astype(int)
            mel, linear = (corpus.spoken_target(pair, kind)[place] for kind in ("mel", "linear"))
            outputs.append(Converted(mel, np.zeros((len(mel), 2)), linear, corpus.path(pair)[place],
                                     np.zeros((len(mel), len(corpus.source(pair)))), stopped))
        return outputs

    def on_path(source, source_mask, positions, pitch, mask):
        return tuple(np.zeros((*mask.shape, size), np.float32) for size in (tiny_hp.n_mels, tiny_hp.n_linear))
    sampled = []
    return types.SimpleNamespace(hp=tiny_hp, corpus=corpus, validation=pairs, converter=convert, on_path=on_path,
                                 sample=lambda run, outputs: sampled.extend(outputs), sampled=sampled)


def test_shares_and_means_of_the_sentences(task):
    scalars, cepstra = tasks.Task.free_running(task, run=None)
    assert scalars["align/stopped"] == 0.5
    assert scalars["align/duration_error"] == pytest.approx(0.25, abs=0.005)
    assert scalars["score"] == pytest.approx(scalars["free_running/mcd"] * 1.25, rel=0.005)
    assert len(cepstra) == 4 and len(task.sampled) == task.hp.n_samples
