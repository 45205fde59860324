"""Adversarial training: which step changes which network, what the discriminator judges, and an exact resume."""
import dataclasses
import types

import hyperparams
import train_gan
from backend import checkpoints
from common import storage
from conftest import end_at, plain_base, plain_corpus, resume, uncompiled
from networks import Discriminator, Generator
from training import losses, run_folder, trainer

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_networks import STEPS, change, make_batch, randomise  # noqa: F401  fixtures
from test_training import variables_of


def make_task(hp, **changes) -> train_gan.GANTrainer:
    """The task without a corpus and with random weights; its discriminator judges whole windows by default."""
    corpus = types.SimpleNamespace(split=lambda name: [None], base=plain_base(hp), target="slt",
                                   has_target_only=False)
    task = train_gan.GANTrainer(hp.replace(**{"warmup_steps": 0, "dis_frames": 0, **changes}), corpus)
    randomise(task.generator)
    return task


def adversarial_batch(hp) -> dict:
    """A batch as `Corpus.adversarial_batch` returns it."""
    own, other = make_batch(hp), make_batch(hp, seed=8)
    return {name: own[name] for name in ("mel", "pitch", "linear", "mask")} | {
        "converted": other["mel"], "converted_pitch": other["pitch"], "converted_mask": other["mask"]}


def tensors(batch: dict) -> dict:
    return {name: tf.constant(value, tf.float32) for name, value in batch.items()}


def snapshot(model: keras.Model) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in model.weights]


def test_each_update_leaves_the_other_network_unchanged(tiny_hp, eager):
    task = make_task(tiny_hp, k=2)
    batch, step = adversarial_batch(tiny_hp), tf.Variable(0, dtype=tf.int64)
    generator, discriminator = snapshot(task.generator), snapshot(task.discriminator)
    task.train_step("discriminator", batch, step)
    assert snapshot(task.generator) == generator and snapshot(task.discriminator) != discriminator
    discriminator, fixed = snapshot(task.discriminator), snapshot(task.generator.encoder) + snapshot(
        task.generator.decoder)
    task.update(task.generator_optimizer, task.generator_variables, tiny_hp.gan_clip_norm,
                lambda: task.generator_losses(tensors(batch)))
    assert snapshot(task.discriminator) == discriminator and snapshot(task.generator) != generator
    task.train_step("adversarial", batch, step)
    assert snapshot(task.generator.encoder) + snapshot(task.generator.decoder) == fixed
    assert snapshot(task.discriminator) != discriminator and int(step) == 2


def test_skipped_update_of_the_generator_is_reported(tiny_hp, eager, monkeypatch):
    """It is reported even if it is neither the first nor the last update of a step."""
    task = make_task(tiny_hp, k=2)
    batch, step, update, done = tensors(adversarial_batch(tiny_hp)), tf.Variable(0, dtype=tf.int64), task.update, []

    def overflowing(optimizer, *arguments):
        optimizer.dynamic_scale.assign(1e38 if len(done) == 1 else 1.0)
        done.append(float((found := update(optimizer, *arguments))["skipped"]))
        return found
    monkeypatch.setattr(task, "update", overflowing)
    assert task.train_step("adversarial", batch, step)["skipped"] == 1.0 and done == [0.0, 1.0, 0.0]
    assert task.train_step("adversarial", batch, step)["skipped"] == 0.0 and done[3:] == [0.0, 0.0, 0.0]


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
    more = np.pad(linear, ((0, 0), (0, 15), (0, 0)), constant_values=7.0)  # garbage as padding
    more[np.pad(mask, ((0, 0), (0, 15))) == 0.0] = -3.0
    np.testing.assert_allclose(discriminator(more, np.pad(mask, ((0, 0), (0, 15)))), scores, atol=1e-5)
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(discriminator(linear[i:i + 1, :length], mask[i:i + 1, :length])[0], scores[i],
                                   atol=1e-5)
    assert np.ptp(scores) > 1e-3
    linear[:, 6] += 1.0  # the score is that of the last step but depends on all earlier frames
    assert (np.abs(np.asarray(discriminator(linear, mask)) - scores) > 1e-5).all()


@pytest.mark.parametrize("networks", ["postnet", "all"])
def test_the_adversarial_loss_alone_reaches_the_first_layer(tiny_hp, eager, networks):
    task, everything = make_task(tiny_hp, gan_networks=networks), networks == "all"
    encoder, postnet = task.generator.encoder, task.generator.postnet
    first = ([*encoder.prenet.trainable_variables, *encoder.frame_prenet.trainable_variables] if everything
             else postnet.cbhg.bank[0].trainable_variables)
    assert (len(task.generator_variables) == len(task.generator.trainable_variables)) == everything
    with tf.GradientTape() as tape:
        batch = tensors(make_batch(tiny_hp) if everything else adversarial_batch(tiny_hp))
        loss = task.generator_losses(batch)["gan/gen_loss"]
    for gradient in tape.gradient(loss, [variable.value for variable in first]):
        assert gradient is not None and np.abs(gradient).max() > 0.0


def test_generator_uses_only_the_length_of_the_target_when_all_networks_learn(tiny_hp, eager):
    task = make_task(tiny_hp, gan_networks="all")
    batch = tensors(make_batch(tiny_hp))
    moved = {**batch, "positions": tf.concat([batch["positions"][:, :1], 2.0 * batch["positions"][:, 1:]], axis=1),
             "pitch": 1.0 - batch["pitch"], "mel": 1.0 - batch["mel"], "linear": 1.0 - batch["linear"]}
    (one, mask), (other, _) = (task.generate(each) for each in (batch, moved))
    assert one.shape == (2, max(STEPS) * tiny_hp.r, tiny_hp.n_linear)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(mask, batch["mask"])


def test_discriminator_judges_natural_reconstructed_and_converted_spectrograms(tiny_hp, eager):
    task = make_task(tiny_hp)
    batch = tensors(adversarial_batch(tiny_hp))

    def score(linear, mask, goal):
        return losses.least_squares(task.discriminator(linear, mask), tf.reduce_mean(mask, axis=1), goal)
    drawn = [task.generator.postnet(*(batch[name] for name in names)) for names in (
        ("mel", "pitch", "mask"), ("converted", "converted_pitch", "converted_mask"))]
    masks = batch["mask"], batch["converted_mask"]
    found = task.discriminator_losses(batch)
    assert float(found["gan/dis_loss_real"]) == pytest.approx(float(score(batch["linear"], batch["mask"], 1.0)))
    together, mask = tf.concat(drawn, axis=0), tf.concat(masks, axis=0)
    assert float(found["gan/dis_loss_fake"]) == pytest.approx(float(score(together, mask, 0.0)), rel=1e-5)
    assert float(found["loss"]) == pytest.approx(float(found["gan/dis_loss_real"] + found["gan/dis_loss_fake"]))
    found = task.generator_losses(batch)
    assert float(found["gan/gen_loss"]) == pytest.approx(float(score(together, mask, 1.0)), rel=1e-5)
    assert float(found["loss/mean_loss2"]) == pytest.approx(float(losses.l1(drawn[0], batch["linear"], masks[0])))


def test_windows_are_scored_separately_and_weighted_by_their_filled_share(tiny_hp):
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


def test_judged_spectrogram_equals_that_of_conversion(tiny_hp, eager):
    """All networks learn, and the decoder finds its path through the sentence by itself."""
    task = make_task(tiny_hp, gan_networks="all")
    batch = {name: value[:1] for name, value in tensors(make_batch(tiny_hp)).items()}
    batch["positions"] = tf.concat([tf.zeros((1, 1)), batch["positions"][:, 1:]], axis=1)
    steps = batch["positions"].shape[1] - 1
    converted = task.generator.convert(batch["source"], batch["mapped"], batch["source_mask"], steps)
    length = int(converted.lengths[0])
    batch["mask"] = tf.cast(tf.range(steps * tiny_hp.r)[None] < length, tf.float32)
    assert length > tiny_hp.r
    linear = task.generator.postnet(converted.mel, converted.pitch, batch["mask"])
    np.testing.assert_allclose(task.generate(batch)[0], linear, atol=1e-5)


def test_judged_conversions_equal_those_of_the_converter(demo_data, tiny_hp):
    task = train_gan.GANTrainer(tiny_hp, plain_corpus(demo_data, tiny_hp))
    randomise(task.generator)
    conversions, expected = task.convert_sources(), task.converter.convert_pairs(task.corpus, task.corpus.train)
    assert len(conversions) == len(expected) > 5
    for mel, pitch in conversions:
        out, = (out for out in expected if len(out.mel) == len(mel) and np.abs(out.mel - mel).max() < 1e-3)
        np.testing.assert_allclose(pitch, out.pitch, atol=2e-3)
    next(task.batches("adversarial", 0, 1))
    drawn = task.corpus.adversarial_batch(0)
    for row, mask in zip(drawn["converted"], drawn["converted_mask"]):
        window = row[mask > 0].astype(np.float16)
        assert any((mel[start:start + len(window)] == window).all() for mel, _ in conversions
                   for start in range(len(mel) - len(window) + 1))


def test_adversarial_gradient_has_the_requested_norm(tiny_hp, eager):
    """At the spectrogram its norm is `gan_weight` times that of L1 in all bins; its direction is unchanged."""
    task = make_task(tiny_hp, gan_weight=0.3)
    batch = tensors(adversarial_batch(tiny_hp))
    drawn, mask = task.generate(batch)
    linear = tf.Variable(drawn)
    task.generate = lambda batch: (tf.identity(linear), mask)

    def gradient(loss_of):
        with tf.GradientTape() as tape:
            loss = loss_of()
        return tf.convert_to_tensor(tape.gradient(loss, linear))
    everywhere = gradient(lambda: losses.l1(linear, drawn + 1.0, mask))
    l1 = gradient(lambda: losses.l1(linear[:2], batch["linear"], batch["mask"]))
    both = gradient(lambda: task.generator_losses(batch)["loss"])
    adversarial = gradient(lambda: losses.least_squares(*task.score(linear, mask), goal=1.0))
    assert not l1[2:].numpy().any() and both[2:].numpy().any()
    np.testing.assert_allclose(both - l1, 0.3 * adversarial * tf.norm(everywhere) / tf.norm(adversarial), atol=1e-6)


def test_adversarial_losses_are_least_squares():
    weights = tf.constant([1.0, 1.0, 0.0])
    assert float(losses.least_squares(tf.constant([0.5, 1.5, 9.0]), weights, 1.0)) == 0.25
    assert float(losses.least_squares(tf.constant([2.0, 0.0, 9.0]), weights, 0.0)) == 2.0


def test_resume_within_the_adversarial_stage_ends_like_an_uninterrupted_run(demo_data, tiny_hp, tmp_path, monkeypatch,
                                                                            eager):
    hp = tiny_hp.replace(dis_pretrain_steps=0, gan_steps=2, save_steps=1, keep_checkpoints=9,
                         slice_min_seconds=0.3, slice_max_seconds=0.5)
    monkeypatch.setattr(train_gan.GANTrainer, "validate", lambda self, run, stage: {})

    def begin(logdir):
        task, rng = train_gan.GANTrainer(hp, plain_corpus(demo_data, hp)), np.random.default_rng(0)
        task.corpus.conversions = [tuple(rng.uniform(size=(30, size)) for size in (hp.n_mels, 2)) for _ in range(4)]
        return run_folder.Run(tmp_path / logdir, hp, task.parts), task
    run, task = begin("whole")
    trainer.fit(run, task, 2)
    whole = variables_of(task)
    end_at(1, tmp_path / "whole", tmp_path / "broken")
    run, task = begin("broken")
    assert resume(run) and int(run.step) == 1
    first = variables_of(task)
    trainer.fit(run, task, 2)
    # Usually they are equal to the bit; on a loaded machine one run in eight differs by one rounding.
    # A step changes a weight by 1e-4.
    for (name, value), other in zip(whole.items(), variables_of(task).values()):
        np.testing.assert_allclose(other, value, atol=1e-7, err_msg=name)
    for part in ("generator", "discriminator", "optimizer_generator", "optimizer_discriminator"):
        assert any((whole[name] != first[name]).any() for name in first if name.startswith(f"{part} "))


def test_compiled_step_equals_the_same_step_without_compilation(tiny_hp):
    """It compiles the updates of the generator as a loop, for batches of any length."""
    def step():
        task, number = make_task(tiny_hp, k=2, dis_frames=8), tf.Variable(0, dtype=tf.int64)
        scalars = task.train_step("adversarial", adversarial_batch(tiny_hp), number)
        assert int(number) == 1
        return {name: float(value) for name, value in scalars.items()}, variables_of(task)
    found, others = step()
    with uncompiled():
        expected, weights = step()
    assert found == pytest.approx(expected, rel=1e-4)
    for (name, value), other in zip(weights.items(), others.values()):
        np.testing.assert_allclose(other, value, atol=2e-5, err_msg=name)


@pytest.mark.filterwarnings("error")
def test_conversions_get_weights_between_the_first_and_the_last(tiny_hp, tmp_path, monkeypatch):
    """Training goes on with its own weights, and a resumed run knows the first ones."""
    hp = tiny_hp.replace(gan_share=0.25)

    def begin(away: float) -> tuple[train_gan.GANTrainer, run_folder.Run]:
        task = make_task(hp)
        for variable in task.generator_variables:
            variable.assign_add(np.full(variable.shape, away))
        task.keep_first_weights()
        return task, run_folder.Run(tmp_path, hp, task.parts)
    task, run = begin(0.0)
    fixed, first = snapshot(task.generator.encoder), [each.numpy() for each in task.generator_variables]
    for variable in task.generator_variables:
        variable.assign_add(np.ones(variable.shape))
    monkeypatch.setattr(task, "validate", lambda *_: {"score": -1.0})
    trainer.validate(run, task, "adversarial", types.SimpleNamespace(write=print))
    run.save()
    resumed, again = begin(5.0)
    assert resume(again)
    for each in (task, resumed):
        for variable, before in zip(each.generator_variables, first):
            np.testing.assert_allclose(variable.numpy(), before + 1.0, atol=1e-6)
        with pytest.raises(KeyboardInterrupt), each.conversion_weights():
            for variable, before in zip(each.generator_variables, first):
                np.testing.assert_allclose(variable.numpy(), before + 0.25, atol=1e-6)
            raise KeyboardInterrupt
    for path in (checkpoints.best_checkpoint(tmp_path), *checkpoints.checkpoints_in(tmp_path / "checkpoints")):
        found = Generator(hp)
        checkpoints.load_generator(found, path)
        assert snapshot(found.encoder) == fixed
        for variable, before in zip(found.postnet.trainable_variables, first):
            np.testing.assert_allclose(variable.numpy(), before + 0.25, atol=1e-6)


@pytest.mark.parametrize("real, fake, advice", [(1.0, 0.0, "has won"), (1.0, 0.7, "has lost"), (0.9, 0.6, "has lost"),
                                                (0.2, 0.3, "has lost")])
def test_warning_names_a_discriminator_out_of_balance(tiny_hp, capsys, real, fake, advice):
    task, hp = make_task(tiny_hp), tiny_hp
    spoken, drawn = (np.full((3, hp.n_linear), value, np.float32) for value in (1.0, 2.0))
    task.corpus.target_features = lambda pair, kind: spoken
    cepstra = np.random.default_rng(0).normal(size=(2, 70, 24))
    task.free_running = lambda run, **_: ({"score": 6.0}, [(0.5 ** 0.5 * cepstra[0], cepstra[0])],
                                     [types.SimpleNamespace(mel=None, pitch=None)])
    task.converter = types.SimpleNamespace(draw=lambda mels, pitches: [drawn])

    def validate(real, fake):
        task.judge = lambda linear, mask: ({1.0: real, 2.0: fake}[linear[0, 0, 0]], np.ones(len(real)))
        return task.validate(types.SimpleNamespace(step=150), "adversarial")
    scalars = validate(np.full(4, real), np.full(4, fake))
    assert advice in capsys.readouterr().err
    assert scalars["free_running/global_variance_ratio"] == pytest.approx(0.5)
    assert scalars["score"] == -150.0  # the newest generator is the best
    balanced = validate(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.0]))
    assert balanced["gan/accuracy"] == 0.75 and "warning" not in capsys.readouterr().err


def test_same_command_resumes_with_the_same_hyperparameters(tmp_path, monkeypatch, capsys):
    """The defaults come from the paired run at first and from the run itself afterwards."""
    paired, logdir = tmp_path / "paired", tmp_path / "gan"
    storage.write_json(paired / "hparams.json", dataclasses.asdict(hyperparams.HyperParams(width=48)))
    run_folder.write_run_info(paired, "train.py", tmp_path, 9)
    (paired / checkpoints.WEIGHTS).touch()
    used = []

    def train(plan, *_):
        used.append(plan.hp)
        storage.write_json(plan.logdir / "hparams.json", dataclasses.asdict(plan.hp))
        run_folder.write_run_info(plan.logdir, plan.script, plan.data, 9, plan.init_from)
    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(train_gan, "plot_curves", lambda logdir: None)
    first = ["--logdir", str(logdir), "--set", "k=3", "--init-from", str(paired)]
    assert [train_gan.main(first), train_gan.main(first), train_gan.main(first[:4])] == [0, 0, 0], capsys.readouterr()
    assert used[0] == used[1] == used[2] and (used[0].k, used[0].width, used[0].save_steps) == (3, 48, 50)
    assert train_gan.main(first[:2] + ["--set", "k=4"]) == 1
    assert "k (3 there, 4 asked for)" in capsys.readouterr().err
