"""Training on several devices: a step on two equals a step on one, and any number can resume and evaluate a run."""
import contextlib
import types

import data_load
import eval as eval_script
import train
import train_gan
import train_multi_gpus
from backend import checkpoints
from conftest import plain_base, uncompiled
from conversion import base
from training import run_folder, trainer

import numpy as np
import pytest
import tensorflow as tf
from test_gan import adversarial_batch
from test_networks import make_batch, randomise
from test_training import variables_of


@pytest.fixture(scope="module")
def strategies() -> dict:
    """Strategies for one and two devices; a process must not make a second one for two: their reductions would mix."""
    return {1: tf.distribute.get_strategy(), 2: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}


def plain(hp):
    """Remove randomness, which differs between devices. The first step has a hundredth of the learning rate."""
    return hp.replace(dropout=0.0, encoder_dropout=0.0, frame_dropout=0.0, warmup_steps=0, learning_rate=0.1,
                      encoder_rate=0.1)


def step_with(strategy, hp, stage, batch, steps=1, make=train.PairedTrainer):
    """Return the variables after a step, or before it if `steps` is 0, and the scalars of the step."""
    corpus = types.SimpleNamespace(split=lambda name: [None], base=plain_base(hp), has_target_only=False,
                                   slices=[None] * 99)
    with strategy.scope():
        task = make(hp, corpus)
        randomise(task.generator)
    step = tf.Variable(0, dtype=tf.int64)
    scalars = task.train_step(stage, batch, step) if steps else {}
    assert int(step) == steps
    return variables_of(task), {name: float(value) for name, value in scalars.items()}


def ways(*stages: str):
    """Each stage without compilation, which takes minutes on two devices, and the smallest one also with it."""
    return pytest.mark.parametrize("stage, context", [
        *(pytest.param(stage, uncompiled, id=f"eager-{stage}") for stage in stages),
        pytest.param(stages[0], contextlib.nullcontext, id=f"compiled-{stages[0]}", marks=pytest.mark.slow)])


@ways("postnet", "encoder", "decoder")
def test_paired_step_on_two_devices_equals_one_on_one_device(tiny_hp, strategies, stage, context):
    """Lengths are unequal, so that one device has more valid frames than the other; two devices share three rows."""
    hp = plain(tiny_hp)
    batch = {name: tf.constant(np.concatenate([value, value[:1][:, ::-1]]), tf.float32)
             for name, value in make_batch(hp).items()}
    batch["mask"] = tf.constant(np.concatenate([batch["mask"][:2], batch["mask"][:1]]))
    batch["source_mask"] = tf.constant(np.concatenate([batch["source_mask"][:2], batch["source_mask"][:1]]))
    batch["positions"] = tf.constant(np.concatenate([batch["positions"][:2], batch["positions"][:1]]))
    with context():
        one, scalars = step_with(strategies[1], hp, stage, batch)
        two, others = step_with(strategies[2], hp, stage, batch)
    assert scalars.keys() == others.keys()
    for name in scalars:
        assert others[name] == pytest.approx(scalars[name], rel=1e-4), name
    before, _ = step_with(strategies[1], hp, stage, batch, 0)
    moved = [name for name in one if name.startswith("generator") and np.abs(one[name] - before[name]).max() > 2e-4]
    assert len(moved) > 10
    for (name, value), other in zip(one.items(), two.values()):
        np.testing.assert_allclose(other, value, atol=1e-5, err_msg=name)


@ways("discriminator", "adversarial")
def test_adversarial_step_on_two_devices_equals_one_on_one_device(tiny_hp, strategies, stage, context):
    """Two devices share three rows, windows have unequal weights, and the generator is updated twice."""
    hp = plain(tiny_hp).replace(k=2, dis_frames=8, gen_learning_rate=0.1, dis_learning_rate=0.1)
    batch = {name: tf.constant(np.concatenate([value, value[:1] if "mask" in name else value[:1][:, ::-1]]), tf.float32)
             for name, value in adversarial_batch(hp).items()}
    with context():
        one, scalars = step_with(strategies[1], hp, stage, batch, make=train_gan.GANTrainer)
        two, others = step_with(strategies[2], hp, stage, batch, make=train_gan.GANTrainer)
    assert scalars.keys() == others.keys() and ("gan/gen_loss" in scalars) == (stage == "adversarial")
    for name in scalars:
        assert others[name] == pytest.approx(scalars[name], rel=1e-4), name
    before, _ = step_with(strategies[1], hp, stage, batch, 0, make=train_gan.GANTrainer)
    for part in ("discriminator", "generator")[:1 + (stage == "adversarial")]:
        moved = [name for name in one if name.startswith(f"{part} ") and np.abs(one[name] - before[name]).max() > 2e-4]
        assert len(moved) > 10, part
    for (name, value), other in zip(one.items(), two.values()):
        # Adam moves the few weights with hardly any gradient by what rounding makes of it; all others move by 1e-3
        assert np.sum(np.abs(other - value) > 1e-5) <= max(3, 0.03 * value.size), name
        np.testing.assert_allclose(other, value, atol=2e-4, err_msg=name)


def test_any_number_of_devices_can_resume_and_evaluate_a_run(tiny_hp, demo_data, demo_base, strategies, tmp_path,
                                                             monkeypatch):
    hp = tiny_hp.replace(postnet_steps=2, encoder_steps=0, decoder_steps=1, save_steps=99, slice_min_seconds=0.3,
                         slice_max_seconds=0.5)
    monkeypatch.setattr(train.PairedTrainer, "validate", lambda self, run, stage: {})
    taken, solved, train_step = [], [], train.PairedTrainer.train_step
    monkeypatch.setattr(train.PairedTrainer, "train_step", lambda self, stage, batch, step: taken.append(
        (self.strategy.num_replicas_in_sync, int(step))) or train_step(self, stage, batch, step))
    for n, steps in ((2, "1"), (1, "2"), (2, "3")):
        args = train.parse_arguments(["--data", str(demo_data), "--logdir", str(tmp_path), "--steps", steps])
        plan = run_folder.open_run(args, "train.py")._replace(hp=hp)
        with uncompiled():
            trainer.train(plan, train.PairedTrainer, args.steps, strategies[n])
        assert checkpoints.best_checkpoint(tmp_path).endswith(f"step-{steps}.npz")
        solved.append((tmp_path / base.FILE).read_bytes())
    assert taken == [(2, 0), (1, 1), (2, 2)]
    converter = eval_script.load_converter(tmp_path)
    corpus = data_load.Corpus(demo_data, hp)
    corpus.use_base(converter.base)
    assert solved[0] == solved[1] == solved[2]
    for found, expected in zip(converter.base, demo_base):
        np.testing.assert_array_equal(found, expected)
    outputs = converter.convert_pairs(corpus, corpus.split("test"))
    assert outputs and all(np.isfinite(output.linear).all() for output in outputs)


def test_too_few_gpus_are_reported(monkeypatch, capsys):
    names = {"GPU": []}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: names[kind])
    assert train_multi_gpus.main([]) == 1
    assert "train.py trains on the CPU" in capsys.readouterr().err
    names["GPU"] = [types.SimpleNamespace(name="GPU:0")]
    for script in (train_multi_gpus, train_gan):
        assert script.main(["--num-gpus", "2", "--preset", "default"]) == 1
        assert "TensorFlow sees 1" in capsys.readouterr().err


def test_several_machines_are_refused(monkeypatch, capsys):
    """Each of them would train on its own, without a word."""
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["one:1", "two:1"]}}')
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [types.SimpleNamespace(name="GPU:0")])
    for script, flags in ((train_multi_gpus, []), (train_gan, ["--num-gpus", "1", "--preset", "default"])):
        assert script.main(flags) == 1
        assert "several machines is not supported: unset it" in capsys.readouterr().err
    monkeypatch.setenv("TF_CONFIG", " {} ")  # names none
    assert train_multi_gpus.main(["--num-gpus", "2"]) == 1 and "TensorFlow sees 1" in capsys.readouterr().err
