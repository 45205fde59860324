"""The refiner: a mel that the target could have spoken, from what the networks write."""
import dataclasses

import data_load
import train
from backend import checkpoints
from common import storage
from common.cli import UserError
from conftest import plain_corpus
from conversion import base
from conversion.inference import Converter, load_converter
from corpus import linear_map
from hyperparams import HyperParams
from networks import Refiner
from training import run_folder

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
    return Refiner(HP, keras.random.SeedGenerator(4))


def wake(refiner: Refiner) -> Refiner:
    rng = np.random.default_rng(1)
    for weight in refiner.weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return refiner


def test_a_refiner_that_learnt_nothing_changes_nothing(refiner):
    mel, source, mask = arrays(30)
    np.testing.assert_array_equal(refiner.refine(mel, source, mask), mel)
    assert np.abs(np.asarray(wake(refiner).refine(mel, source, mask)) - mel).max() > 0.01


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


@pytest.fixture
def task(demo_data, tiny_hp):
    return train.PairedTrainer(tiny_hp, plain_corpus(demo_data, tiny_hp))


def test_it_learns_from_what_the_networks_write_along_the_paths_of_the_training_pairs(task, eager):
    """With the base of these tests, and networks that learnt nothing, that is the source less its mean."""
    task.corpus.written = task.write_pairs()
    assert len(task.corpus.written) == 2 * len(task.corpus.train)
    pair, written, moved, mel = task.corpus.written[0]
    source, voice = task.corpus.recording(pair), task.corpus.voice(pair)
    np.testing.assert_array_equal(mel, task.corpus.target_mel(pair).astype(np.float16))
    expected = linear_map.interpolate((source.mel - voice.mel).astype(np.float32), task.corpus.path(pair))
    assert np.median(np.abs(written - expected)) < 0.01 < np.median(np.abs(written - np.roll(expected, 5, axis=0)))
    assert moved.shape == mel.shape and np.median(np.abs(moved - expected)) < 0.02  # its formants are moved a little
    again, varied, *_ = task.corpus.written[1]
    assert again == pair and np.abs(varied.astype(np.float32) - written).mean() > 0.002
    batch = task.corpus.refiner_batch(3)
    window = task.hp.batch_size, task.hp.postnet_window, task.hp.n_mels
    assert {name: array.shape for name, array in batch.items()} == {
        "written": window, "moved": window, "mel": window, "mask": window[:2]}
    assert len(task.corpus.batch_names(data_load.REFINER, 3)) == task.hp.batch_size
    assert task.corpus.batch_names(data_load.REFINER, 3)[0].startswith(f"{pair.source}/")


def test_its_stage_changes_nothing_else(task, eager):
    task.corpus.written = task.write_pairs()[:4]
    before = [variable.numpy() for variable in task.generator.weights]
    task.train_step("refiner", task.corpus.refiner_batch(0), tf.Variable(0, dtype=tf.int64))
    assert all((variable.numpy() == old).all() for variable, old in zip(task.generator.weights, before))
    assert np.abs(task.refiner.leave.kernel).max() > 0.0


def test_a_conversion_is_refined_before_it_gets_the_detail_of_the_source(task, eager):
    found, heard = task.corpus.base, task.corpus.recording(task.validation[0])
    voice, positions = task.corpus.voice(task.validation[0]), np.arange(len(heard.mel), dtype=np.float32)
    mel = np.random.default_rng(3).uniform(0.2, 0.8, heard.mel.shape).astype(np.float32)
    plain = task.converter.restore(mel, positions, heard, voice)
    np.testing.assert_array_equal(plain, Converter(task.generator, found).restore(mel, positions, heard, voice))
    wake(task.refiner)
    source = base.moved(found, heard.mel - voice.mel, voice, task.hp)
    refined = np.asarray(task.refiner.refine(mel[None], source[None], np.ones((1, len(mel)), np.float32)))[0]
    expected = Converter(task.generator, found).restore(refined, positions, heard, voice)
    np.testing.assert_allclose(task.converter.restore(mel, positions, heard, voice), expected, atol=1e-5)
    assert np.abs(expected - plain).max() > 0.01


def test_the_best_checkpoint_of_a_run_has_it(task, tmp_path, tiny_hp):
    wake(task.refiner)
    run_folder.Run(tmp_path, tiny_hp, task.parts).select(1.0)
    base.save(task.corpus.base, tmp_path)
    arrays = [np.random.default_rng(3).uniform(0.2, 0.8, (30, tiny_hp.n_mels)).astype(np.float32) for _ in range(2)]
    np.testing.assert_array_equal(load_converter(tmp_path, None).refine(*arrays), task.converter.refine(*arrays))


def test_it_is_kept_by_an_exported_model_and_belongs_to_its_voice(task, tmp_path, tiny_hp):
    """A second map leads to another voice, so nothing is refined behind one; older models have no refiner."""
    wake(task.refiner)
    checkpoints.write(tmp_path / checkpoints.WEIGHTS, task.converter.networks, in_8_bits=True)
    storage.write_json(tmp_path / "hparams.json", dataclasses.asdict(tiny_hp))
    base.save(task.corpus.base, tmp_path)
    loaded = load_converter(tmp_path, None)
    arrays = [np.random.default_rng(3).uniform(0.2, 0.8, (30, tiny_hp.n_mels)).astype(np.float32) for _ in range(2)]
    refined = task.converter.refine(*arrays)
    np.testing.assert_allclose(loaded.refine(*arrays), refined, atol=0.01)
    assert np.abs(refined - arrays[0]).max() > 0.02
    checkpoints.write(tmp_path / checkpoints.WEIGHTS, {"generator": task.generator.weights})
    with pytest.raises(UserError, match="0 arrays of refiner in the file"):
        load_converter(tmp_path, None)
    kernel = np.zeros((9 * tiny_hp.n_mels, tiny_hp.n_mels), np.float32)
    base.save(task.corpus.base._replace(onward_kernel=kernel), tmp_path)
    np.testing.assert_array_equal(load_converter(tmp_path, None).refine(*arrays), arrays[0])
    settings = dataclasses.asdict(tiny_hp)
    del settings["refiner_steps"]
    storage.write_json(tmp_path / "hparams.json", settings)
    base.save(task.corpus.base, tmp_path)
    np.testing.assert_array_equal(load_converter(tmp_path, None).refine(*arrays), arrays[0])
