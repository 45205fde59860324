"""What training does when something fails: signals, kills, damaged files, a full disk, losses that are not numbers."""
import contextlib
import functools
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import data_load
import eval as eval_script
import eval_gan
import prepro
import train
import train_gan
import train_multi_gpus
from backend import checkpoints, devices
from common import cli, storage
from common.cli import UserError
from conftest import full_disk, leftovers, no_corpus
from training import run_folder, trainer

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator  # the reader of the server
from test_training import HP, Counting, events, go, kept, weight_in

# Signals --------------------------------------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """A shell ignores SIGINT in what a script runs in the background, as the tests may be."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("script", [train, train_gan, train_multi_gpus])
def test_signal_ends_training_after_its_step_with_a_checkpoint(script, number, code, tmp_path, monkeypatch, capsys):
    task = Counting(HP, on_step={7: lambda: signal.raise_signal(number)})
    no_corpus(monkeypatch)
    monkeypatch.setattr(train, "PairedTrainer", lambda hp, corpus, **_: task)
    monkeypatch.setattr(train_gan, "GANTrainer", lambda hp, corpus, **_: task)
    monkeypatch.setattr(devices, "make_strategy", lambda n: tf.distribute.get_strategy())
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert script.main(["--data", str(tmp_path), "--logdir", str(tmp_path / "run"), "--set=save_steps=4",
                        "--preset=default"]) == code
    message = capsys.readouterr().err
    assert f"{script.__name__}.py: stopped by {number.name} after step 7" in message and "goes on" in message
    assert kept(tmp_path / "run") == [3, 4, 7] and weight_in(tmp_path / "run" / "checkpoints" / "step-7.npz") == 7
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_worker_processes_block_sigint():
    """They block it even while they import modules; their parent does not block it before or after."""
    blocked = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    with cli.workers() as parallel:
        assert all(signal.SIGINT in found for found in parallel(blocked, [((),)] * 3, "asking"))
    assert signal.SIGINT not in blocked(())


def test_signal_during_a_checkpoint_write_takes_effect_after_it(tmp_path, monkeypatch):
    save = checkpoints.write

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return save(*arguments)
    monkeypatch.setattr(checkpoints, "write", interrupted)
    with pytest.raises(cli.Stopped, match="SIGTERM after step 2"):
        go(tmp_path, 12)
    assert kept(tmp_path) == [2] and weight_in(tmp_path / "checkpoints" / "step-2.npz") == 2


def test_second_interrupt_ends_the_process_at_once():
    script = ("from common import cli\nimport signal\n"
              "with cli.recording_signals() as received:\n signal.raise_signal(signal.SIGINT)\n"
              " print(received, flush=True)\n signal.raise_signal(signal.SIGINT)\n print('never')")
    done = subprocess.run([sys.executable, "-c", script], cwd=pathlib.Path(cli.__file__).parents[1],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "[2]\n") and "Traceback" not in done.stderr


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("script, module, name", [
    (prepro, prepro, "prepare"), (eval_script, eval_script, "load_converter"),
    (eval_gan, eval_script, "load_converter"),
    (train, data_load, "Corpus")])
def test_control_c_prints_no_traceback(script, module, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, name, interrupt)
    logdir = [] if script is prepro else ["--logdir", str(tmp_path)]
    assert script.main([*logdir, "--data", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith(f"{pathlib.Path(script.__file__).name}: stopped; what "
                                            "was finished is kept\n")


def fail(error: Exception):
    raise error


@pytest.mark.parametrize("error, told, saved", [
    (tf.errors.ResourceExhaustedError(None, None, "no room"), (UserError, "no room.*batch_size=8"), [4, 6]),
    (tf.errors.InternalError(None, None, "lost"), (tf.errors.InternalError, "lost"), [4, 6]),
    (KeyError("a bug"), (KeyError, "a bug"), [6, 7])])
def test_failed_step_is_not_saved(tmp_path, error, told, saved):
    with pytest.raises(told[0], match=told[1]):
        go(tmp_path, 12, on_step={8: lambda: fail(error)})
    assert kept(tmp_path) == saved


def test_failed_validation_is_repeated_on_resume(tmp_path, monkeypatch):
    """A run that resumed after the failed validation could miss its best checkpoint."""
    validate, scores = Counting.validate, {4: 3.0, 8: 1.0, 12: 2.0}
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "validate", lambda self, run, stage: fail(UserError("the disk is full"))
                      if int(run.step) == 8 else validate(self, run, stage))
        with pytest.raises(UserError):
            go(tmp_path, 12, scores=scores)
    assert kept(tmp_path)[-1] < 8
    for folder in (tmp_path, tmp_path / "whole"):
        go(folder, 12, scores=scores)
    found, whole = (run_folder.read_scalars(folder / "validation", "free_running/score")
                    for folder in (tmp_path, tmp_path / "whole"))
    assert found == whole and 8 in whole[0]


def test_closed_standard_output_prints_no_traceback():
    """This happens with `| head`."""
    code = ("import sys\nfrom common import cli\n"
            "sys.exit(cli.run_main('x.py', lambda: print('y' * 100_000, flush=True)))")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(cli.__file__).parents[1], stdout=writer,
                          stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "x.py: standard output was closed; what was finished is kept\n")


@pytest.mark.parametrize("ignored, other", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_ignored_signal_stays_ignored(ignored, other):
    """So Ctrl-C leaves alone what a script runs in the background."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(ignored, signal.SIG_IGN)
    try:
        with cli.recording_signals() as received:
            signal.raise_signal(ignored)
            signal.raise_signal(other)
            signal.raise_signal(ignored)
        assert received == [other] and signal.getsignal(ignored) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_what_the_user_did_wrong_is_one_line_and_everything_else_keeps_its_traceback(tmp_path, capsys):
    def ending(error):
        return cli.run_main("x.py", lambda: fail(error)), capsys.readouterr().err
    assert ending(UserError("a.wav is silent: record it again")) == (1, "x.py: a.wav is silent: record it again\n")
    assert ending(FileNotFoundError(2, "No such file", "a.wav")) == (1, "x.py: [Errno 2] No such file: 'a.wav'\n")
    for error in (ValueError("Dimensions must be equal"), OSError("a library failed"), KeyError("mel")):
        with pytest.raises(type(error)):
            ending(error)
    assert all(issubclass(kind, UserError) for kind in (storage.Damaged, trainer.Diverged))


def test_signal_is_recorded_although_its_message_cannot_be_written(monkeypatch):
    """This happens with `| tee`, which the same Ctrl-C stops."""
    def write(*_):
        raise BrokenPipeError
    monkeypatch.setattr(os, "write", write)
    with cli.recording_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]


# Checkpoints of a run that was killed ---------------------------------------------------------------------------------

def test_tensorboard_shows_no_step_twice(tmp_path):
    hp = HP.replace(save_steps=4)
    with pytest.raises(UserError):
        go(tmp_path, 12, hp, nan_from=7)  # steps 5 and 6 are logged and then lost
    time.sleep(1.1)  # the names of event files contain the time in seconds
    go(tmp_path, 12, hp)
    shown = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0})
    shown.Reload()
    assert [event.step for event in shown.Tensors("loss/minimised")] == list(range(1, 13))
    assert run_folder.read_scalars(tmp_path / "train", "loss/minimised")[0] == list(range(1, 13))


# Full disks -----------------------------------------------------------------------------------------------------------

def count_steps(monkeypatch, **settings) -> None:
    """Let train.py train a weight that counts the steps, beside a larger one that takes longer to write."""
    def make(hp, corpus):
        task = Counting(hp, **settings)
        task.parts["rest"] = [keras.Variable(np.ones(100_000))]
        return task
    no_corpus(monkeypatch)
    monkeypatch.setattr(train, "PairedTrainer", make)


def test_full_disk_ends_training_and_keeps_earlier_checkpoints(tmp_path, monkeypatch, capsys):
    count_steps(monkeypatch)
    flags = ["--data", str(tmp_path), "--logdir", str(tmp_path / "run"), "--set=save_steps=2", "--steps"]
    assert train.main([*flags, "4"]) == 0
    with full_disk(200_000):
        assert train.main([*flags, "6"]) == 1
    message = capsys.readouterr().err
    assert f"train.py: {tmp_path}/run/checkpoints/step-6.npz: cannot be written (" in message
    assert kept(tmp_path / "run") == [2, 4]
    assert train.main([*flags, "6"]) == 0 and kept(tmp_path / "run") == [2, 4, 6]
    assert leftovers(tmp_path) == []
    assert weight_in(checkpoints.best_checkpoint(tmp_path / "run")) == 6


def test_unwritable_file_is_named_and_keeps_its_content(tmp_path):
    storage.write_json(tmp_path / "a.json", "before")
    with full_disk(1000), pytest.raises(UserError, match="a.json"):
        storage.write_json(tmp_path / "a.json", list(range(1000)))
    assert (tmp_path / "a.json").read_text() == '"before"\n' and len(list(tmp_path.iterdir())) == 1


# Steps without a finite gradient --------------------------------------------------------------------------------------

class Skipping(Counting):
    """A task whose steps in `broken` are skipped and change nothing."""

    def __init__(self, hp, broken):
        super().__init__(hp)
        self.broken, self.asked = broken, []
        self.corpus = types.SimpleNamespace(batch_names=self.batch_names)

    def batch_names(self, kind, number):
        self.asked.append((kind, number))
        return ["anna/one", "anna/two"]

    def train_step(self, stage, batch, step):
        before = float(self.weight)
        scalars = super().train_step(stage, batch, step)
        if int(step) not in self.broken:
            return scalars | {"skipped": 0.0}
        self.weight.assign(before)
        return {"loss": math.nan, "other": 1.0, "skipped": 1.0}


def fit(logdir: pathlib.Path, task: Skipping, hp=HP) -> None:
    trainer.fit(run_folder.Run(logdir, hp, task.parts), task, 12)


def test_skipped_steps_are_counted_and_their_utterances_named(tmp_path, capsys):
    task = Skipping(HP, {2, 5, 6})
    fit(tmp_path, task)
    assert weight_in(tmp_path / "checkpoints" / "step-12.npz") == 9
    # Batches are counted within their stage
    assert task.asked == [(data_load.POSTNET, 1), (data_load.PAIRED, 1), (data_load.PAIRED, 2)]
    printed = capsys.readouterr().err
    for step in (2, 5, 6):
        assert f"step {step} (" in printed
    assert printed.count("its batch: anna/one, anna/two") == 3
    curves = events(tmp_path / "train")
    assert curves["loss/skipped"] == [(2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), *((step, 3.0) for step in range(6, 13))]
    assert [step for step, _ in curves["loss/minimised"]] == [1, 3, 4, *range(7, 13)]
    assert [step for step, _ in curves["other"]] == [2, 5, 6] and "skipped" not in curves


def test_no_skipped_steps_are_logged_when_there_are_none(tmp_path):
    fit(tmp_path, Skipping(HP, ()))
    assert set(events(tmp_path / "train")) == {"loss/minimised"}


@pytest.mark.parametrize("broken, ends", [(range(4, 14), True), (range(4, 13), False),
                                          ((*range(2, 11), *range(12, 20)), False)])
def test_ten_skipped_steps_in_a_row_end_training(tmp_path, broken, ends):
    hp = HP.replace(decoder_steps=20)
    task = Skipping(hp, broken)
    run = run_folder.Run(tmp_path, hp, task.parts)
    with pytest.raises(UserError, match="10 steps in a row .* step 13 .*anna/one, anna/two.* learning_rate"
                       ) if ends else contextlib.nullcontext():
        trainer.fit(run, task, 23)
    assert int(run.step) == (13 if ends else 23)
    assert kept(tmp_path)[-1] == (12 if ends else 23)
    assert weight_in(checkpoints.checkpoints_in(tmp_path / "checkpoints")[0]) == (3 if ends else 23 - len(broken))


class OnDevice:
    """A scalar that records at which step it is fetched."""

    def __init__(self, value, task, step):
        self.value, self.task, self.step = value, task, step

    def __float__(self):
        self.task.fetched.append((int(self.step), self.value))
        return self.value


def test_scalars_are_fetched_only_when_they_are_logged_or_saved(tmp_path, capsys):
    """A fetch waits for the device. What is said about a skipped step is right though it is said later."""
    hp = HP.replace(log_steps=4, save_steps=6)
    task, train_step = Skipping(hp, {2, 5, 6}), Skipping.train_step
    task.fetched, told = [], []
    task.train_step = lambda stage, batch, step: {
        name: OnDevice(value, task, step) for name, value in train_step(task, stage, batch, step).items()}
    task.validate = lambda run, stage: told.append((int(run.step), run.skipped)) or {}
    fit(tmp_path, task, hp)
    assert {step for step, _ in task.fetched} == {3, 4, 6, 8, 12}  # the first stage ends at 3
    assert sorted(value for _, value in task.fetched if 0.0 < value < 1.0) == sorted(
        1 / step for step in range(3, 13) if step not in (5, 6))
    assert told == [(3, 1), (6, 3), (12, 3)]
    printed = capsys.readouterr()
    for step, stage in ((2, "postnet"), (5, "decoder"), (6, "decoder")):
        assert f"gradient of step {step} ({stage}) was not finite" in printed.out + printed.err
    assert task.asked == [(data_load.POSTNET, 1), (data_load.PAIRED, 1), (data_load.PAIRED, 2)]
    assert [step for step, _ in events(tmp_path / "train")["loss/minimised"]] == [3, 4, 8, 12]


@pytest.mark.parametrize("ending", [lambda: signal.raise_signal(signal.SIGTERM), lambda: fail(KeyError("a bug"))])
def test_weights_of_a_step_that_was_not_finite_are_never_saved(tmp_path, ending):
    with pytest.raises(trainer.Diverged, match="not finite at step 6"):
        go(tmp_path, 12, HP.replace(log_steps=99, save_steps=99), nan_from=6, on_step={9: ending})
    assert kept(tmp_path) == [3]


def test_damaged_features_end_training_with_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="run prepro.py again"):
        go(tmp_path, 12, HP.replace(log_steps=99), on_step={8: lambda: fail(UserError("run prepro.py again"))})
    assert kept(tmp_path)[-1] == 7 and weight_in(tmp_path / "checkpoints" / "step-7.npz") == 7
