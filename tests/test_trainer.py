"""What a training task measures and minimises, and how far one update goes."""
import types

import train
from conftest import plain_base, plain_corpus
from conversion import base
from conversion.inference import Converted
from training import trainer

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_networks import make_batch, make_task, randomise


@pytest.mark.parametrize("free", [False, True])
def test_distortion_uses_free_running_and_losses_use_teacher_forcing(demo_data, tiny_hp, free):
    """One of the two outputs equals the target, and the other is silence."""
    task = train.PairedTrainer(tiny_hp, plain_corpus(demo_data, tiny_hp))
    corpus, hp, pairs = task.corpus, task.hp, task.validation
    batch = corpus.assemble([corpus.whole(pair) for pair in pairs])

    def written(pair):
        target = corpus.target_features(pair, "linear") * free
        n, size = len(target), len(corpus.recording(pair).linear)
        return Converted(np.zeros((n, hp.n_mels)), np.zeros((n, 2)), target, corpus.path(pair), np.ones((n, size)),
                         True)
    task.converter = types.SimpleNamespace(
        convert_pairs=lambda corpus, pairs, measure_movement: list(map(written, pairs)))
    task.on_path = lambda *_: (batch["mel"] * (not free), None, None)
    task.draw_on_path = lambda *_: batch["linear"] * (not free)
    task.sample = lambda run, outputs: None
    found, *_ = task.free_running(None)
    assert (found["free_running/mcd"] < 1.0) == free and (found["free_running/mcd"] > 5.0) == (not free)
    assert found["score"] == pytest.approx(found["free_running/mcd"])  # the duration is right
    for kind in ("loss1", "loss2", "loss"):
        assert (found[f"loss/mean_{kind}"] > 0.1) == free and (found[f"loss/mean_{kind}"] == 0.0) == (not free)


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny_hp):
    task = make_task(tiny_hp.replace(pace_weight=0.3, pitch_weight=0.7, voicing_weight=2.0))
    batch = make_batch(tiny_hp)
    decoded = randomise(task.generator)(batch["source"], batch["mapped"], batch["source_mask"],
                                        batch["positions"])
    found = {name: float(value) for name, value in task.decoder_losses(decoded, batch).items()}
    parts = {"loss/mean_loss1": 1.0, "align/pace_loss": 0.3, "loss/pitch_octaves": 0.7, "loss/voicing": 2.0}
    assert found.keys() == {"loss", *parts} and min(found.values()) > 0.01
    assert found["loss"] == pytest.approx(sum(weight * found[name] for name, weight in parts.items()), rel=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_update_follows_the_clipped_gradient(tiny_hp, precision):
    hp = tiny_hp.replace(precision=precision)
    task = types.SimpleNamespace(strategy=tf.distribute.get_strategy(),
                                 generator=types.SimpleNamespace(non_trainable_variables=[]))
    for clip_norm, expected in ((1e-3, 1e-3), (100.0, 10.0)):  # of a gradient of norm 10
        weights = [keras.Variable([3.0, 0.0]), keras.Variable(4.0)]
        optimizer = trainer.with_loss_scale(keras.optimizers.SGD(0.5), hp)
        optimizer.build(weights)
        scalars = trainer.Trainer.update(task, optimizer, weights, clip_norm, lambda weights=weights: {
            "loss": sum(tf.reduce_sum(weight.value ** 2) for weight in weights)})
        moved = np.append(weights[0] - np.array([3.0, 0.0]), weights[1] - 4.0)
        np.testing.assert_allclose(moved, -0.5 * expected * np.array([0.6, 0.0, 0.8]), rtol=1e-3)
        assert float(scalars["gradient_norm"]) == pytest.approx(10.0) and float(scalars["skipped"]) == 0.0


@pytest.fixture
def known(demo_data, tiny_hp) -> types.SimpleNamespace:
    """Four pairs and a stand-in for the networks, whose outputs are the target at 1, 1.5, 0.75 and 0.75 times its
    length; half of them stop by themselves."""
    corpus = plain_corpus(demo_data, tiny_hp)
    pairs = corpus.train[:4]

    def convert_pairs(read, asked, measure_movement):
        assert read is corpus and asked is pairs and measure_movement
        outputs = []
        for pair, ratio, stopped in zip(pairs, (1.0, 1.5, 0.75, 0.75), (True, False, False, True)):
            place = (np.arange(round(ratio * len(corpus.path(pair)))) / ratio).astype(int)
            mel, linear = (corpus.target_features(pair, kind)[place] for kind in ("mel", "linear"))
            outputs.append(Converted(mel, np.zeros((len(mel), 2)), linear, corpus.path(pair)[place],
                                     np.zeros((len(mel), len(corpus.recording(pair).linear))), stopped))
        return outputs

    sampled = []
    return types.SimpleNamespace(hp=tiny_hp, corpus=corpus, validation=pairs, onward=lambda mel: mel + 1.0,
                                 on_path=lambda batch: (0.0 * batch["mel"], None, None),
                                 draw_on_path=lambda batch, *_: 0.0 * batch["linear"],
                                 converter=types.SimpleNamespace(convert_pairs=convert_pairs),
                                 sample=lambda run, outputs: sampled.extend(outputs), sampled=sampled)


def test_validation_averages_over_the_sentences(known):
    scalars, cepstra, outputs = trainer.Trainer.free_running(known, run=None)
    assert scalars["align/stopped"] == 0.5
    assert scalars["align/duration_error"] == pytest.approx(0.25, abs=0.005)
    assert scalars["score"] == pytest.approx(scalars["free_running/mcd"] * 1.25, rel=0.005)
    mel = np.concatenate([known.corpus.target_features(pair, "mel") for pair in known.validation])
    assert scalars["loss/mean_loss1"] == pytest.approx(1.0 - mel.mean(), abs=1e-3)  # of what is behind the second map
    assert len(cepstra) == len(outputs) == 4 and len(known.sampled) == known.hp.n_samples


@pytest.mark.parametrize("n_slices, alone, steps", [(8, False, 3), (9, False, 4), (999, False, 5), (999, True, 0)])
def test_stages_are_limited_by_the_slices_and_skipped_for_a_single_voice(tiny_hp, n_slices, alone, steps):
    hp = tiny_hp.replace(encoder_steps=5, decoder_steps=4, most_epochs=1.5, batch_size=4)
    corpus = types.SimpleNamespace(split=lambda name: [None], share=(0, 1), has_target_only=alone,
                                   slices=[None] * n_slices,
                                   base=plain_base(hp))
    stages = {"postnet": hp.postnet_steps} | ({"encoder": steps, "decoder": min(steps, 4)} if steps else {})
    assert dict(train.PairedTrainer(hp, corpus).stages) == stages


def test_behind_a_pretrained_voice_the_encoder_learns_a_third_of_the_steps_and_the_decoder_none(tiny_hp):
    hp, behind = tiny_hp.replace(encoder_steps=6, most_epochs=99.0), np.zeros((9 * tiny_hp.n_mels, tiny_hp.n_mels))
    corpus = types.SimpleNamespace(split=lambda name: [None], has_target_only=False, slices=[None] * 9,
                                   base=plain_base(hp)._replace(onward_kernel=behind))
    task, corpus.base = train.PairedTrainer(hp, corpus), plain_base(hp)
    own = train.PairedTrainer(hp, corpus)
    assert dict(task.stages) == {"postnet": hp.postnet_steps, "encoder": 2}
    peaks = [max(float(each.optimizers["encoder"].inner_optimizer._learning_rate(step)) for step in range(6))
             for each in (task, own)]
    assert peaks[0] == pytest.approx(0.25 * peaks[1], rel=0.2)


@pytest.mark.parametrize("is_followed", [False, True])
def test_encoder_stage_judges_the_mel_of_map_and_encoder_on_the_path(tiny_hp, is_followed):
    """Without a decoder: its loss is the mean difference at the positions of the path, behind the second map if there
    is one."""
    hp = tiny_hp.replace(dropout=0.0, encoder_dropout=0.0, norm="ln")
    task, batch = make_task(hp), make_batch(hp)
    generator, n = randomise(task.generator), hp.n_mels
    _, corrected = map(np.asarray, generator.encoder(batch["source"], batch["mapped"], batch["source_mask"]))
    assert np.abs(corrected - batch["mapped"])[:, :, :n].max() > 0.01
    np.testing.assert_array_equal(corrected[:, :, n:], batch["mapped"][:, :, n:])
    starts, ends = batch["positions"][:, :-1, None], batch["positions"][:, 1:, None]
    places = (starts + (ends - starts) * np.arange(hp.r) / hp.r).reshape(2, -1)
    if is_followed:
        kernel = 0.1 * np.random.default_rng(0).standard_normal((3 * n, n)).astype(np.float32)
        task.corpus.base = plain_base(hp)._replace(onward_kernel=kernel, onward_bias=np.full(n, 0.2, np.float32))
    found = task.corpus.base
    errors = [np.abs(base.apply(found.onward_kernel, found.onward_bias, np.stack(
        [np.interp(row, np.arange(each.shape[0]), column) for column in each.T], axis=1)) - mel)[mask > 0.0]
        for row, each, mel, mask in zip(places, corrected[:, :, :n], batch["mel"], batch["mask"])]
    assert float(task.forward("encoder", batch)["loss"]) == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)
