"""The training loop: exact resuming, the contents of a checkpoint, and which checkpoints are kept."""
import math
import pathlib
import types

import data_load
import train
from backend import checkpoints
from common.cli import UserError
from conftest import end_at, let_graphs_go, plain_corpus, resume
from conversion.inference import Converted
from hyperparams import HyperParams
from networks import Generator
from training import run_folder, trainer

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# A real model ---------------------------------------------------------------------------------------------------------

def make_corpus(data: pathlib.Path, hp: HyperParams) -> data_load.Corpus:
    """Four pairs, in slices of 25 to 35 frames."""
    corpus = plain_corpus(data, hp)
    corpus.train = corpus.train[:4]
    corpus.by_length = corpus.target_pairs = corpus.train
    corpus.slices = [(pair, start, start + 25 + 5 * i) for pair in corpus.train for i, start in enumerate((0, 40, 80))]
    return corpus


def total_steps(hp: HyperParams) -> int:
    return hp.postnet_steps + hp.encoder_steps + hp.decoder_steps


def make_task(data: pathlib.Path, hp: HyperParams) -> train.PairedTrainer:
    return train.PairedTrainer(hp, make_corpus(data, hp))


def spy(task: train.PairedTrainer, run: run_folder.Run, save_at: tuple[int, ...]) -> types.SimpleNamespace:
    """Record the stage, scalars, lengths, tracings and resulting variables of the steps of a task.

    Checkpoints are written after the steps `save_at`, without interrupting the run.
    """
    seen = types.SimpleNamespace(scalars=[], lengths=set(), variables=[], tracings=[])
    train_step, forward = task.train_step, task.forward

    def noted_step(stage, batch, step):
        if int(step) in save_at:
            run.save()
        if seen.scalars and seen.scalars[-1][0] != stage:  # the graph of a finished stage is no longer needed
            task._steps.clear()
            let_graphs_go()
        scalars = train_step(stage, batch, step)
        seen.scalars.append((stage, {name: float(value) for name, value in scalars.items()}))
        seen.lengths.add((stage, batch["mask"].shape[1]))
        seen.variables.append(variables_of(task))
        return scalars

    def noted_forward(stage, batch):
        seen.tracings.append(stage)
        return forward(stage, batch)
    task.train_step, task.forward = noted_step, noted_forward
    return seen


def variables_of(task: train.PairedTrainer) -> dict[str, np.ndarray]:
    """Everything that the next step depends on."""
    return {f"{name} {i} {variable.path.split('/')[-1]}": np.array(variable) for name, part in task.parts.items()
            for i, variable in enumerate(part)}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Check that two sets of variables are equal bit by bit."""
    assert [key.rsplit(" ", 1)[0] for key in found] == [key.rsplit(" ", 1)[0] for key in expected]
    for (name, value), other in zip(found.items(), expected.values()):
        assert value.tobytes() == other.tobytes(), f"{name} differs by up to {np.abs(value - other).max()}"


@pytest.fixture(scope="module")
def trained(demo_data, tiny_hp, tmp_path_factory):
    """A compiled run through all stages, most of it spent on mel."""
    hp = tiny_hp.replace(postnet_steps=2, decoder_steps=60, warmup_steps=5, learning_rate=5e-3, save_steps=50,
                         log_steps=2, whole_utterances=0.1, keep_checkpoints=99)
    logdir = tmp_path_factory.mktemp("trained")
    task = make_task(demo_data, hp)
    run = run_folder.Run(logdir, hp, task.parts)
    seen = spy(task, run, save_at=(1, 60))
    task.sample = lambda run, outputs: None  # figures take seconds; test_scripts.py covers them
    trainer.fit(run, task, total_steps(hp))
    task._steps.clear()
    let_graphs_go()
    return types.SimpleNamespace(logdir=logdir, hp=hp, task=task, seen=seen)


def test_training_lowers_the_mel_loss(trained):
    for name, most in (("loss/mean_loss1", 0.9), ("loss/pitch_octaves", 0.9), ("loss", 0.9)):  # both start close
        losses = [scalars[name] for stage, scalars in trained.seen.scalars if stage == "decoder"]
        assert len(losses) == 60
        assert np.mean(losses[-10:]) < most * np.mean(losses[:3]), name


def test_step_is_compiled_once_for_all_lengths(trained):
    assert len({length for stage, length in trained.seen.lengths if stage == "decoder"}) >= 3
    assert sorted(trained.seen.tracings) == ["decoder", "encoder", "postnet"]


def test_resume_within_each_stage_is_exact(trained, demo_data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.PairedTrainer, "validate", lambda self, run, stage: {})
    task = make_task(demo_data, trained.hp)
    for stage, begun, stop in (("postnet", 1, 2), ("decoder", 60, 63)):
        run = run_folder.Run(tmp_path / stage, trained.hp, task.parts)
        end_at(begun, trained.logdir, tmp_path / stage)
        assert resume(run) and int(run.step) == begun
        assert_equal(variables_of(task), trained.seen.variables[begun - 1])
        trainer.fit(run, task, stop)
        assert_equal(variables_of(task), trained.seen.variables[stop - 1])
        assert {name for name, _ in trained.seen.scalars[begun:stop]} == {stage}
        changed = [name for name, value in variables_of(task).items()
                   if name.startswith("generator") and (value != trained.seen.variables[begun - 1][name]).any()]
        assert len(changed) > 5


def events(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of the TensorBoard events in a folder, name to (step, value), without audio and images."""
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    values = {tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
              for tag in accumulator.Tags()["tensors"]}
    return {tag: [(step, float(value)) for step, value in curve] for tag, curve in values.items()
            if curve[0][1].ndim == 0}


def test_tensorboard_shows_the_curves(trained):
    hp, curves = trained.hp, events(trained.logdir / "train")
    logged = [step for step in range(1, total_steps(hp) + 1) if step % hp.log_steps == 0]
    for tag, first, last in (("loss/mean_loss2", 1, 2), ("loss/mean_loss1", 3, 99), ("align/pace_loss", 6, 99)):
        expected = [(step, trained.seen.scalars[step - 1][1][tag]) for step in logged if first <= step <= last]
        assert expected
        assert [step for step, _ in curves[tag]] == [step for step, _ in expected]
        np.testing.assert_allclose([value for _, value in curves[tag]], [value for _, value in expected], rtol=1e-6)


def test_tensorboard_shows_validation(trained):
    curves = events(trained.logdir / "validation")
    steps = {tag: [step for step, _ in curve] for tag, curve in curves.items()}
    assert steps["loss/mean_loss2"] == [2, 50, total_steps(trained.hp)]
    assert steps["loss/mean_loss1"] == [4, 50, total_steps(trained.hp)]
    for tag in ("loss/mean_loss", "free_running/mcd", "align/path_distance"):
        assert steps[tag] == [50, total_steps(trained.hp)]
    np.testing.assert_allclose([value for _, value in curves["loss/mean_loss"]],
                               [mel[1] + linear[1] for mel, linear in zip(curves["loss/mean_loss1"][1:],
                                                                          curves["loss/mean_loss2"][1:])], rtol=1e-5)
    assert all(math.isfinite(value) for curve in curves.values() for _, value in curve)


def contents(prefix: str, part: str) -> list[bytes]:
    """Return the stored arrays of a part of a checkpoint, sorted and without their names."""
    return sorted(shape_and_bytes(array) for name, array in checkpoints.read(prefix).items()
                  if name.startswith(part + "/"))


def shape_and_bytes(array: np.ndarray) -> bytes:
    return repr(array.shape).encode() + array.tobytes()


def test_a_checkpoint_holds_every_weight(trained):
    generator, task = trained.task.generator, trained.task
    newest = checkpoints.checkpoints_in(trained.logdir / "checkpoints")[0]
    assert contents(newest, "generator") == sorted(shape_and_bytes(weight.numpy()) for weight in generator.weights)
    for stage, optimizer in task.optimizers.items():
        assert contents(newest, f"optimizer_{stage}") == sorted(shape_and_bytes(np.array(variable))
                                                                for variable in optimizer.variables)
    # The best checkpoint also holds the whole generator, as it was at that step
    best = checkpoints.best_checkpoint(trained.logdir)
    step = int(pathlib.Path(best).stem.rsplit("-", 1)[1])
    gains = repr(tuple(trained.task.generator.movement.shape)).encode()  # measured after that step
    assert [each for each in contents(best, "generator") if not each.startswith(gains)] == sorted(
        shape_and_bytes(value) for name, value in trained.seen.variables[step - 1].items()
        if name.startswith("generator ") and value.shape != tuple(trained.task.generator.movement.shape))


def test_keras_lists_all_weights_of_the_generator(trained):
    """The variables that TensorFlow finds in a forward pass are those that Keras lists and a checkpoint holds."""
    generator, hp = trained.task.generator, trained.hp
    batch = trained.task.corpus.paired_batch(0)
    with tf.GradientTape() as tape:
        decoded = generator(batch["source"], batch["mapped"], batch["source_mask"], batch["positions"], batch["mel"])
        generator.postnet(decoded.mel, decoded.pitch, batch["mask"])
    used = {id(variable) for variable in tape.watched_variables()}
    assert used == {id(weight.value) for weight in generator.trainable_weights}
    norms = 3 * hp.encoder_banks  # at least: mean and variance of each norm in the banks
    assert len(generator.weights) - len(used) > norms
    assert len({id(weight) for weight in generator.weights}) == len(generator.weights)


def test_weights_are_restored_into_a_second_generator(trained):
    generator = Generator(trained.hp)  # Keras names the layers of a second one differently
    assert [weight.path for weight in generator.weights] != [weight.path for weight in trained.task.generator.weights]
    prefix = checkpoints.checkpoints_in(trained.logdir / "checkpoints")[0]
    checkpoints.load_generator(generator, prefix)
    for weight, expected in zip(generator.weights, trained.task.generator.weights):
        np.testing.assert_array_equal(weight, expected, err_msg=weight.path)


# The loop, with a model of one weight --------------------------------------------------------------------------------

class Counting:
    """A task whose weight counts the steps; a test chooses its scores and broken steps."""
    keep_first_weights = trainer.Trainer.keep_first_weights
    conversion_weights = trainer.Trainer.conversion_weights

    def __init__(self, hp: HyperParams, corpus=None, scores=None, nan_from: float = math.inf, on_step=None):
        self.weight, self.moment = keras.Variable(0.0), keras.Variable(np.zeros(2))
        self.generator = types.SimpleNamespace(weights=[self.weight], hp=hp)
        self.parts = {"generator": [self.weight], "optimizer": [self.moment]}
        self.stages = [("postnet", hp.postnet_steps), ("decoder", hp.decoder_steps)]
        self.scores, self.nan_from, self.on_step, self.seen = scores or {}, nan_from, on_step or {}, []

    def batch_kind(self, stage):
        return {"postnet": "postnet", "decoder": "paired"}[stage]

    def batches(self, stage, start, stop):
        return range(start, stop)

    def train_step(self, stage, batch, step):
        self.on_step.get(int(step) + 1, lambda: None)()
        self.seen.append((stage, batch, int(step)))
        broken = int(step) + 1 >= self.nan_from
        self.weight.assign(math.nan if broken else self.weight + 1.0)
        step.assign_add(1)
        return {"loss": math.nan if broken else 1.0 / int(step)}

    def validate(self, run, stage):
        return {"score": self.scores[int(run.step)]} if int(run.step) in self.scores else {}


HP = HyperParams(postnet_steps=3, decoder_steps=9, save_steps=2, log_steps=1, keep_checkpoints=2)


def weight_in(prefix) -> float:
    weight = keras.Variable(-1.0)
    checkpoints.load_generator(types.SimpleNamespace(weights=[weight], hp=HP), str(prefix))
    return float(weight)


def kept(logdir: pathlib.Path, folder: str = "checkpoints") -> list[int]:
    """Return the steps that have a checkpoint."""
    return sorted(int(path.stem.rsplit("-", 1)[1]) for path in (logdir / folder).glob("*.npz"))


def go(logdir: pathlib.Path, last: int, hp: HyperParams = HP, **task) -> Counting:
    """Train to a step, from the newest checkpoint if there is one."""
    counting = Counting(hp, **task)
    run = run_folder.Run(logdir, hp, counting.parts)
    resume(run)
    trainer.fit(run, counting, last)
    return counting


def test_each_batch_is_used_once_in_spite_of_interruptions(tmp_path):
    expected = [*(("postnet", i, i) for i in range(3)), *(("decoder", i, i + 3) for i in range(9))]
    assert go(tmp_path / "unbroken", 12).seen == expected
    seen = []
    for stop in (1, 3, 4, 4, 11, 12, 12):
        seen += go(tmp_path / "broken", stop).seen
        assert weight_in(checkpoints.checkpoints_in(tmp_path / "broken" / "checkpoints")[0]) == stop
    assert seen == expected


def test_keep_checkpoints_limits_the_number_of_checkpoints(tmp_path):
    go(tmp_path, 12, scores={4: 5.0, 12: 6.0})
    assert kept(tmp_path) == [10, 12]
    go(tmp_path / "more", 12, HP.replace(keep_checkpoints=4))
    assert len(kept(tmp_path / "more")) == 4


def test_the_best_checkpoint_has_the_lowest_score(tmp_path):
    scores = {2: 7.0, 4: 4.0, 6: 5.0, 8: 3.5, 10: 3.6, 12: math.nan}
    go(tmp_path, 7, scores=scores)
    assert weight_in(checkpoints.best_checkpoint(tmp_path)) == 4
    go(tmp_path, 12, scores=scores)  # the best score survives a restart
    assert weight_in(checkpoints.best_checkpoint(tmp_path)) == 8 and kept(tmp_path, "checkpoints/best") == [8]
    go(tmp_path / "worse", 4, scores={2: 4.0, 4: 5.0})
    go(tmp_path / "worse", 8, scores={6: 4.5, 8: 4.2})
    assert weight_in(checkpoints.best_checkpoint(tmp_path / "worse")) == 2


def test_newest_checkpoint_is_the_best_without_validation(tmp_path):
    go(tmp_path, 6)
    assert weight_in(checkpoints.best_checkpoint(tmp_path)) == 6
    with pytest.raises(UserError, match="empty holds no checkpoint"):
        checkpoints.best_checkpoint(tmp_path / "empty")


@pytest.mark.parametrize("log_steps, save_steps, broken", [(1, 2, 7), (2, 2, 7), (20, 3, 5), (4, 3, 9)])
def test_non_finite_loss_stops_training_and_keeps_the_checkpoints(tmp_path, log_steps, save_steps, broken):
    hp = HP.replace(log_steps=log_steps, save_steps=save_steps)
    with pytest.raises(UserError, match="not finite at step"):
        go(tmp_path, 12, hp, nan_from=broken, scores={step: float(step) for step in range(1, 13)})
    newest = checkpoints.checkpoints_in(tmp_path / "checkpoints")[0]
    # The first stage ends, and is saved, after step 3
    last_good = max(step for step in range(1, broken) if step % save_steps == 0 or step == 3)
    assert weight_in(newest) == last_good and weight_in(checkpoints.best_checkpoint(tmp_path)) > 0
    go(tmp_path, 12, hp)  # training can resume from there
    assert weight_in(checkpoints.checkpoints_in(tmp_path / "checkpoints")[0]) == 12


def test_validation_accepts_silent_output(trained, tmp_path, monkeypatch):
    hp, task = trained.hp, trained.task
    silence = Converted(np.zeros((50, hp.n_mels), np.float32), np.zeros((50, 2), np.float32),
                        np.zeros((50, hp.n_linear), np.float32), np.arange(50.0), np.full((50, 60), 1.0 / 60), True)
    monkeypatch.setattr(task.converter, "convert_pairs",
                        lambda corpus, pairs, measure_movement: [silence] * len(pairs))
    run = run_folder.Run(tmp_path, hp, task.parts)
    assert not task.validate(run, "decoder")["score"] < 5.0  # nothing to select


def test_a_run_folder_can_be_moved(tmp_path):
    go(tmp_path / "old", 6, scores={4: 1.0, 6: 2.0})
    (tmp_path / "old").rename(tmp_path / "new")
    assert weight_in(checkpoints.best_checkpoint(tmp_path / "new")) == 4
    assert [step for _, _, step in go(tmp_path / "new", 8).seen] == [6, 7]
