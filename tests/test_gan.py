"""Adversarial training: who is changed by what, what the discriminator cannot see, and an exact resume."""
import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import hyperparams
import losses
import train_gan
import trainer
import utils
from conftest import plain_base, plain_corpus
from networks import Discriminator
from test_networks import STEPS, change, make_batch, randomise  # noqa: F401  fixtures
from test_training import assert_equal, variables_of


def make_task(hp, **changes) -> train_gan.Adversarial:
    """The task without a corpus, shaken; its discriminator judges whole sentences unless told otherwise."""
    corpus = types.SimpleNamespace(split=lambda name: [None], share=(0, 1), base=plain_base(hp))
    task = train_gan.Adversarial(hp.replace(**{"warmup_steps": 0, "dis_frames": 0, **changes}), corpus)
    randomise(task.generator)
    return task


def tensors(batch: dict) -> dict:
    return {name: tf.constant(value, tf.float32) for name, value in batch.items()}


def snapshot(model: keras.Model) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in model.weights]


def test_each_step_leaves_the_other_network_as_it_was(tiny_hp, eager):
    task = make_task(tiny_hp, k=2)
    batch, step = make_batch(tiny_hp), tf.Variable(0, dtype=tf.int64)
    generator, discriminator = snapshot(task.generator), snapshot(task.discriminator)
    task.train_step("warmup", batch, step)
    assert snapshot(task.generator) == generator and snapshot(task.discriminator) != discriminator
    discriminator = snapshot(task.discriminator)
    task.update(task.generator_optimizer, task.generator.trainable_variables, tiny_hp.gan_clip_norm,
                lambda: task.generator_losses(tensors(batch)))
    assert snapshot(task.discriminator) == discriminator and snapshot(task.generator) != generator
    assert int(step) == 1


def test_a_skipped_update_of_the_generator_is_told(tiny_hp, eager, monkeypatch):
    """Also where it is neither the first nor the last of a step."""
    task = make_task(tiny_hp, k=2)
    batch, step, update, done = tensors(make_batch(tiny_hp)), tf.Variable(0, dtype=tf.int64), task.update, []

    def overflowing(optimizer, *arguments):
        optimizer.dynamic_scale.assign(1e38 if len(done) == 1 else 1.0)
        done.append(float((found := update(optimizer, *arguments))["skipped"]))
        return found
    monkeypatch.setattr(task, "update", overflowing)
    assert task.train_step("joint", batch, step)["skipped"] == 1.0 and done == [0.0, 1.0, 0.0]
    assert task.train_step("joint", batch, step)["skipped"] == 0.0 and done[3:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("stack", [5, 4, 1])
def test_padding_changes_no_score(tiny_hp, stack):
    keras.utils.set_random_seed(3)
    discriminator = Discriminator(tiny_hp.replace(dis_stack=stack))
    rng = np.random.default_rng(0)
    linear, mask = rng.uniform(0, 1, (3, 20, tiny_hp.n_linear)).astype(np.float32), np.ones((3, 20), np.float32)
    lengths = (20, 13, 7)
    for row, length in zip(mask, lengths):
        row[length:] = 0.0
    scores = np.asarray(discriminator(linear, mask))
    more = np.pad(linear, ((0, 0), (0, 15), (0, 0)), constant_values=7.0)  # garbage, and beyond each length, too
    more[np.pad(mask, ((0, 0), (0, 15))) == 0.0] = -3.0
    np.testing.assert_allclose(discriminator(more, np.pad(mask, ((0, 0), (0, 15)))), scores, atol=1e-5)
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(discriminator(linear[i:i + 1, :length], mask[i:i + 1, :length])[0], scores[i],
                                   atol=1e-5)
    assert np.ptp(scores) > 1e-3
    linear[:, 6] += 1.0  # the score is the last step's, but hears all that was before
    assert (np.abs(np.asarray(discriminator(linear, mask)) - scores) > 1e-5).all()


@pytest.mark.parametrize("paired_weight", [0.0, 1.0])
def test_the_adversarial_loss_alone_reaches_the_first_layer(tiny_hp, eager, paired_weight):
    task = make_task(tiny_hp, paired_weight=paired_weight, gan_weight=1.0)
    encoder = task.generator.encoder
    first = [*encoder.prenet.trainable_variables, *encoder.frame_prenet.trainable_variables]
    with tf.GradientTape() as tape:
        loss = task.generator_losses(tensors(make_batch(tiny_hp)))["gan/gen_loss"]
    for gradient in tape.gradient(loss, [variable.value for variable in first]):
        assert gradient is not None and np.abs(gradient).max() > 0.0


def test_the_generator_hears_itself(tiny_hp, eager):
    """What it writes does not depend on the target's frames, and fed its own frames as a teacher it writes the same."""
    task = make_task(tiny_hp, hide_frame=0.0)
    batch = tensors(make_batch(tiny_hp))
    decoded, linear = task.draw(batch)
    other, same = task.draw({**batch, "mel": 1.0 - batch["mel"], "linear": 1.0 - batch["linear"]})
    np.testing.assert_array_equal(decoded.mel, other.mel)
    np.testing.assert_array_equal(linear, same)
    taught = task.generator(batch["source"], batch["carried"], batch["source_mask"], batch["positions"], decoded.mel)
    np.testing.assert_allclose(taught.mel, decoded.mel, atol=1e-5)


def test_without_paired_losses_only_the_length_is_known(tiny_hp, eager):
    task = make_task(tiny_hp, paired_weight=0.0)
    batch = tensors(make_batch(tiny_hp))
    moved = {**batch, "positions": tf.concat([batch["positions"][:, :1], 2.0 * batch["positions"][:, 1:]], axis=1),
             "pitch": 1.0 - batch["pitch"], "mel": 1.0 - batch["mel"], "linear": 1.0 - batch["linear"]}
    one, other = (task.draw(each)[1] for each in (batch, moved))
    assert one.shape == (2, max(STEPS) * tiny_hp.r, tiny_hp.n_linear)
    np.testing.assert_array_equal(one, other)


def test_it_judges_the_target_and_the_conversion(tiny_hp, eager):
    task = make_task(tiny_hp)
    batch = tensors(make_batch(tiny_hp))
    real, fake, weights = task.scores(batch)
    np.testing.assert_allclose(real, task.discriminator(batch["linear"], batch["mask"]), atol=1e-6)
    np.testing.assert_allclose(fake, task.discriminator(task.draw(batch)[1], batch["mask"]), atol=1e-6)
    np.testing.assert_allclose(weights, np.mean(batch["mask"], axis=1))
    assert (np.abs(real - fake) > 1e-5).all()


def test_windows_are_judged_alone_and_count_as_they_are_filled(tiny_hp):
    keras.utils.set_random_seed(3)
    task = make_task(tiny_hp, dis_frames=8)
    linear = np.random.default_rng(0).uniform(0, 1, (2, 20, tiny_hp.n_linear)).astype(np.float32)
    mask = np.ones((2, 20), np.float32)
    mask[1, 10:] = 0.0
    scores, weights = task.score(linear, mask)
    np.testing.assert_allclose(weights, [1.0, 1.0, 0.5, 1.0, 0.25, 0.0])
    for window, (row, start, stop) in enumerate([(0, 0, 8), (0, 8, 16), (0, 16, 20), (1, 0, 8), (1, 8, 10)]):
        alone = task.discriminator(linear[row:row + 1, start:stop], np.ones((1, stop - start), np.float32))
        np.testing.assert_allclose(scores[window], alone[0], atol=1e-5)


def test_what_is_judged_is_what_synthesis_draws(tiny_hp, eager):
    """Of a sentence whose path the decoder takes by itself, training and conversion draw the same mel."""
    task = make_task(tiny_hp, paired_weight=0.0)
    batch = {name: value[:1] for name, value in tensors(make_batch(tiny_hp)).items()}
    batch["positions"] = tf.concat([tf.zeros((1, 1)), batch["positions"][:, 1:]], axis=1)
    steps = batch["positions"].shape[1] - 1
    converted = task.generator.convert(batch["source"], batch["carried"], batch["source_mask"], steps)
    length = int(converted.lengths[0])
    batch["mask"] = tf.cast(tf.range(steps * tiny_hp.r)[None] < length, tf.float32)
    assert length > tiny_hp.r
    np.testing.assert_allclose(task.draw(batch)[1], converted.linear, atol=1e-5)


def test_the_adversarial_gradient_is_as_strong_as_asked(tiny_hp, eager):
    """At the spectrogram, in norm, `gan_weight` times the L1 loss's; and it points where the discriminator says."""
    task = make_task(tiny_hp, gan_weight=0.3)
    batch = tensors(make_batch(tiny_hp))
    linear = tf.Variable(task.draw(batch)[1])
    decoded = task.generator(batch["source"], batch["carried"], batch["source_mask"], batch["positions"])
    task.draw = lambda batch: (decoded, tf.identity(linear))

    def gradient(loss_of):
        with tf.GradientTape() as tape:
            loss = loss_of()
        return tape.gradient(loss, linear)
    l1 = gradient(lambda: losses.l1(linear, batch["linear"], batch["mask"]))
    both = gradient(lambda: task.generator_losses(batch)["loss"])
    adversarial = gradient(lambda: losses.least_squares(task.score(linear, batch["mask"])[0], 1.0,
                                                        tf.reduce_mean(batch["mask"], axis=1)))
    np.testing.assert_allclose(both - l1, 0.3 * adversarial * tf.norm(l1) / tf.norm(adversarial), atol=1e-6)


def test_losses_are_those_of_least_squares(tiny_hp, eager):
    task = make_task(tiny_hp)
    scores = (tf.constant([0.5, 1.5, 9.0]), tf.constant([2.0, 0.0, 9.0]), tf.constant([1.0, 1.0, 0.0]))
    task.scores = lambda batch: scores
    found = task.discriminator_losses({})
    assert (float(found["gan/dis_loss_real"]), float(found["gan/dis_loss_fake"])) == (0.25, 2.0)
    assert float(found["loss"]) == 2.25


def test_resume_within_the_joint_stage_is_exact(demo_data, tiny_hp, tmp_path, monkeypatch):
    hp = tiny_hp.replace(gan_warmup_steps=1, gan_steps=3, k=2, save_steps=99)
    monkeypatch.setattr(train_gan.Adversarial, "validate", lambda self, run, stage: {})

    def go(logdir, stop):
        task = train_gan.Adversarial(hp, plain_corpus(demo_data, hp))
        run = trainer.Run(tmp_path / logdir, hp, task.parts)
        run.resume()
        begun = variables_of(task)
        trainer.fit(run, task, stop)
        return begun, variables_of(task)
    _, whole = go("whole", 4)
    _, first = go("broken", 2)
    resumed, second = go("broken", 4)
    assert_equal(resumed, first)
    assert_equal(second, whole)
    for part in ("generator", "discriminator", "optimizer_generator", "optimizer_discriminator"):
        assert any((second[name] != first[name]).any() for name in first if name.startswith(f"{part} "))


@pytest.mark.parametrize("real, fake, advice", [(1.0, 0.0, "has won"), (1.0, 0.7, "has lost"), (0.9, 0.6, "has lost"),
                                                (0.2, 0.3, "has lost")])
def test_a_discriminator_out_of_balance_is_named(tiny_hp, capsys, real, fake, advice):
    task = make_task(tiny_hp)
    task.corpus.assemble, task.corpus.whole = lambda crops: {}, lambda pair: pair
    cepstra = np.random.default_rng(0).normal(size=(2, 70, 24))
    task.free_running = lambda run: ({"score": 6.0}, [(0.5 ** 0.5 * cepstra[0], cepstra[0])])

    def validate(real, fake):
        task.judge = lambda batch: (real, fake, np.ones(len(real)))
        return task.validate(None, "joint")
    scalars = validate(np.full(4, real), np.full(4, fake))
    assert advice in capsys.readouterr().out
    assert scalars["free_running/global_variance_ratio"] == pytest.approx(0.5)
    assert scalars["score"] == pytest.approx(6.5)
    balanced = validate(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.0]))
    assert balanced["gan/accuracy"] == 0.75 and "warning" not in capsys.readouterr().out


def test_the_same_command_resumes_whatever_it_sets(tmp_path, monkeypatch, capsys):
    """The defaults come from the paired run at first, and from the run itself afterwards."""
    paired, logdir = tmp_path / "paired", tmp_path / "gan"
    utils.write_json(paired / "hparams.json", dataclasses.asdict(hyperparams.HyperParams(width=48)))
    trainer.take_notes(paired, "train.py", tmp_path, 9)
    used = []

    def train(args, hp, task, script):
        used.append(hp)
        utils.write_json(args.logdir / "hparams.json", dataclasses.asdict(hp))
    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(train_gan, "draw_curves", lambda logdir: None)
    first = ["--logdir", str(logdir), "--set", "k=3", "--init-from", str(paired)]
    assert [train_gan.main(first), train_gan.main(first), train_gan.main(first[:4])] == [0, 0, 0], capsys.readouterr()
    assert used[0] == used[1] == used[2] and (used[0].k, used[0].width, used[0].save_steps) == (3, 48, 50)
    assert train_gan.main(first[:2] + ["--set", "k=4"]) == 1
    assert "k (3 there, 4 asked for)" in capsys.readouterr().err
