"""What training does when something fails: signals, kills, damaged files, a full disk, losses that are not numbers."""
import contextlib
import functools
import math
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import types

from backend import checkpoints, devices
import data_load
import eval as eval_script
import eval_gan
import prepro
import train
import train_gan
import train_multi_gpus
from common import cli, storage
from training import run_folder, trainer
import keras
import numpy as np
import pytest
import tensorflow as tf
from stress_training import SAVE_STEPS, stress
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator  # the reader of the server
from test_training import HP, Counting, events, go, kept, weight_in

from common.cli import UserError
from conftest import no_corpus


# Signals --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("script", [train, train_gan, train_multi_gpus])
def test_signal_ends_training_after_its_step_with_a_checkpoint(script, number, code, tmp_path, monkeypatch, capsys):
    task = Counting(HP, on_step={7: lambda: signal.raise_signal(number)})
    no_corpus(monkeypatch)
    monkeypatch.setattr(train, "PairedTrainer", lambda hp, corpus, **_: task)
    monkeypatch.setattr(train_gan, "GANTrainer", lambda hp, corpus, **_: task)
    monkeypatch.setattr(devices, "make_strategy", lambda n: tf.distribute.get_strategy())
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert script.main(["--data", str(tmp_path), "--logdir", str(tmp_path / "run"), "--set=save_steps=4"]) == code
    message = capsys.readouterr().err
    assert f"{script.__name__}.py: stopped by {number.name} after step 7" in message and "goes on" in message
    assert kept(tmp_path / "run") == [3, 4, 7] and weight_in(tmp_path / "run" / "checkpoints" / "step-7") == 7
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_worker_processes_block_sigint():
    """They block it even while they import modules; their parent does not block it before or after."""
    blocked = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    with cli.workers() as parallel:
        assert all(signal.SIGINT in found for found in parallel(blocked, [((),)] * 3, "asking"))
    assert signal.SIGINT not in blocked(())


def test_signal_during_a_checkpoint_write_takes_effect_after_it(tmp_path, monkeypatch):
    save = tf.train.CheckpointManager.save

    def interrupted(manager, **arguments):
        signal.raise_signal(signal.SIGTERM)
        return save(manager, **arguments)
    monkeypatch.setattr(tf.train.CheckpointManager, "save", interrupted)
    with pytest.raises(cli.Stopped, match="SIGTERM after step 2"):
        go(tmp_path, 12)
    assert kept(tmp_path) == [2] and weight_in(tmp_path / "checkpoints" / "step-2") == 2


def test_second_interrupt_ends_the_process_at_once():
    script = ("import cli, signal\nwith cli.recording_signals() as received:\n signal.raise_signal(signal.SIGINT)\n"
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


def test_interrupt_swallowed_by_an_import_still_stops_the_command():
    """An interrupt that is not swallowed prints no traceback."""
    lost = ("import cli, contextlib, os, signal, sys\nwith contextlib.suppress(KeyboardInterrupt):\n"
            "    os.kill(os.getpid(), signal.SIGINT)\nsys.exit(cli.run_main('x.py', lambda: print('ran')))")
    raised = "import cli, os, signal\nos.kill(os.getpid(), signal.SIGINT)"
    here = pathlib.Path(cli.__file__).parents[1]
    for code, status in ((lost, 130), (raised, -2)):
        done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (status, "")
        assert "stopped" in done.stderr and "Traceback" not in done.stderr


def test_failed_validation_is_repeated_on_resume(tmp_path, monkeypatch):
    """A run that resumed after the failed validation could miss its best checkpoint."""
    validate, scores = Counting.validate, {4: 3.0, 8: 1.0, 12: 2.0}
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "validate", lambda self, run, stage: fail(storage.CannotWrite("the disk is full"))
                      if int(run.step) == 8 else validate(self, run, stage))
        with pytest.raises(storage.CannotWrite):
            go(tmp_path, 12, scores=scores)
    assert kept(tmp_path)[-1] < 8
    for folder in (tmp_path, tmp_path / "whole"):
        go(folder, 12, scores=scores)
    found, whole = (run_folder.read_scalars(folder / "validation", "free_running/score")
                    for folder in (tmp_path, tmp_path / "whole"))
    assert found == whole and 8 in whole[0]


def test_closed_standard_output_prints_no_traceback():
    """This happens with `| head`."""
    code = "import cli, sys\nsys.exit(cli.run_main('x.py', lambda: print('y' * 100_000, flush=True)))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(cli.__file__).parents[1], stdout=writer,
                          stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "x.py: standard output was closed; what was finished is kept\n")


def test_signal_is_recorded_although_its_message_cannot_be_written(monkeypatch):
    """This happens with `| tee`, which the same Ctrl-C stops."""
    def write(*_):
        raise BrokenPipeError
    monkeypatch.setattr(os, "write", write)
    with cli.recording_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]


# Kills ----------------------------------------------------------------------------------------------------------------

def test_killed_run_resumes_and_ends_like_an_uninterrupted_run(tmp_path):
    result = stress(kills=2, seed=2, folder=tmp_path)
    assert result.kills == 2 and result.differing == [] and result.lost <= SAVE_STEPS


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


@pytest.mark.parametrize("size", [5, 200])
def test_training_restarts_when_its_only_checkpoint_is_incomplete(tmp_path, size):
    go(tmp_path, 2)
    (tmp_path / "checkpoints" / "checkpoint").unlink()  # this file is written last
    index = tmp_path / "checkpoints" / "step-2.index"
    index.write_bytes(index.read_bytes()[:size])
    assert [step for _, _, step in go(tmp_path, 4).seen] == [0, 1, 2, 3]


# Full disks -----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def files_of_at_most(size: int):
    """Within this context the system refuses to write larger files, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("script", [train])
def test_full_disk_ends_training_and_keeps_earlier_checkpoints(script, tmp_path, monkeypatch, capsys):
    def ballast(hp, corpus):
        task = Counting(hp)
        task.parts["rest"] = [keras.Variable(np.ones(100_000))]
        return task
    no_corpus(monkeypatch)
    monkeypatch.setattr(train, "PairedTrainer", ballast)
    flags = ["--data", str(tmp_path), "--logdir", str(tmp_path / "run"), "--set=save_steps=2", "--steps"]
    assert train.main([*flags, "4"]) == 0
    with files_of_at_most(200_000):
        assert train.main([*flags, "6"]) == 1
    message = capsys.readouterr().err
    assert f"train.py: {tmp_path}/run/checkpoints/step-6 cannot be written: " in message and "Free space" in message
    assert kept(tmp_path / "run") == [2, 4]
    assert train.main([*flags, "6"]) == 0 and kept(tmp_path / "run") == [2, 4, 6]
    assert not list((tmp_path / "run").rglob("*_temp"))
    assert weight_in(checkpoints.best_checkpoint(tmp_path / "run")) == 6


def test_unwritable_file_is_named_and_keeps_its_content(tmp_path):
    storage.write_json(tmp_path / "a.json", "before")
    with files_of_at_most(1000), pytest.raises(OSError, match="a.json"):
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
    assert weight_in(tmp_path / "checkpoints" / "step-12") == 9
    # Batches are counted within their stage
    assert task.asked == [(data_load.POSTNET, 1), (data_load.PAIRED, 1), (data_load.PAIRED, 2)]
    printed = capsys.readouterr()
    printed = printed.out + printed.err
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
    assert weight_in(tf.train.latest_checkpoint(tmp_path / "checkpoints")) == (3 if ends else 23 - len(broken))
