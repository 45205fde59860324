"""A run folder after its process was killed, with damaged files, and while others look at it."""
import dataclasses
import errno
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import checkpoints
import cli
import run_folder
import train
import utils
from conftest import no_corpus, resume
from hyperparams import HyperParams
from run_folder import read_scalars
from cli import TrainingError
from test_training import HP, Counting, go, kept, weight_in


def begin(logdir: pathlib.Path) -> run_folder.Run:
    """A run of one weight."""
    return run_folder.Run(logdir, HyperParams(), {"generator": [keras.Variable(1.0)]})


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    begin(tmp_path).save()
    for half in ("step-99_temp", "best/x_temp"):
        (tmp_path / "checkpoints" / half).mkdir(parents=True)
        (tmp_path / "checkpoints" / half / "part-00000-of-00001").write_bytes(b"half")
    run = begin(tmp_path)
    assert not list(tmp_path.rglob("*_temp")) and resume(run)


def test_the_best_checkpoint_is_not_written_again(tmp_path):
    """It is the only copy: what is killed in writing would leave none."""
    def written() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "best").glob("best-*")}
    run = begin(tmp_path)
    run.step.assign(13)
    run.select(1.0)
    for path in (tmp_path / "checkpoints" / "best").glob("best-*"):
        os.utime(path, (1.6e9, 1.6e9))
    before = written()
    run.select(1.0)
    again = begin(tmp_path)
    again.step.assign(13)
    again.select(0.9)
    assert written() == before and len(before) == 2 and float(again.best) == pytest.approx(0.9)
    again.step.assign(3)  # as the other one ends
    again.select(0.8)
    assert all(name.startswith("best-3.") for name in written()) and len(written()) == 2


def test_an_earlier_run_is_forgotten_folder_by_folder(tmp_path, monkeypatch):
    """Whenever it is killed, of each folder all is there under its name, or nothing."""
    files = {tmp_path / name / file for name in ("checkpoints", "train", "validation", "samples") for file in "ab"}
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / "events.out").write_text("x")
    remove, killed = shutil.rmtree, []

    def kill(folder, **_):
        """Killed after the first file, or else to the end."""
        for path in sorted(pathlib.Path(folder).rglob("?")):
            path.unlink()
            killed.append(path)
            raise KeyboardInterrupt
        remove(folder, ignore_errors=True)
    monkeypatch.setattr(shutil, "rmtree", kill)
    for _ in files:
        with pytest.raises(KeyboardInterrupt):
            run_folder.clear_run(tmp_path)
        for folder in {path.parent for path in files}:
            assert not folder.exists() or len(list(folder.iterdir())) == 2
    assert len(killed) == len(files)
    for folder in ("checkpoints", ".checkpoints.removed"):  # a new run, and what a killed one left
        (tmp_path / folder / "more").mkdir(parents=True)
    run_folder.clear_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_curves_are_on_disk_before_the_checkpoint(tmp_path, monkeypatch):
    """What was logged until then is not done again."""
    run, seen = begin(tmp_path), []
    monkeypatch.setattr(run.newest, "save", lambda **_: seen.extend(
        read_scalars(tmp_path / kind, "a/b") for kind in ("train", "validation")))
    run.step.assign(2)
    run.log("train", {"a/b": 0.5}, step=1)
    run.log("train", {"a/b": 0.25})
    run.log("validation", {"a/b": 4.0})
    run.save()
    assert seen == [([1, 2], [0.5, 0.25]), ([2], [4.0])]


def test_the_owner_of_a_folder_is_told_however_often_it_was_locked(tmp_path):
    for _ in range(2):
        with cli.locked(tmp_path, "--logdir"):
            for _ in range(2):
                with pytest.raises(cli.CannotLock) as caught, cli.locked(tmp_path, "--logdir"):
                    pass
                assert str(caught.value).startswith(f"{tmp_path} is in use by process {os.getpid()} on "
                                                    f"{socket.gethostname()}: choose another --logdir")


def test_a_network_drive_that_knows_no_locks_is_used_without(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(cli.fcntl, "flock", unknown)
    entered = []
    with cli.locked(tmp_path / "run", "--logdir"):
        entered.append((tmp_path / "run").is_dir())
    assert entered == [True]


# Damaged checkpoints --------------------------------------------------------------------------------------------------

def damage(path: pathlib.Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":  # all of its bits, at a third of the file
        path.write_bytes(data[:len(data) // 3] + bytes([data[len(data) // 3] ^ 255]) + data[len(data) // 3 + 1:])
    else:
        path.write_bytes(data[:{"empty": 0, "cut": len(data) - 5}[how]])


@pytest.mark.parametrize("how", ["missing", "flipped", "empty", "cut"])
@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
def test_the_checkpoint_before_a_damaged_one_is_used_with_a_warning(tmp_path, part, how, capsys):
    go(tmp_path, 4)
    damage(tmp_path / "checkpoints" / f"step-4.{part}", how)
    assert [step for _, _, step in go(tmp_path, 4).seen] == [3]
    message = capsys.readouterr().err
    assert message.count("warning") == 1
    assert f"{tmp_path}/checkpoints/step-4 is damaged" in message and f"it, {tmp_path}/checkpoints/step-3" in message
    assert go(tmp_path, 4).seen == []  # the damaged one was written again
    assert weight_in(tmp_path / "checkpoints" / "step-4") == 4 and capsys.readouterr().err == ""


@pytest.mark.parametrize("listed", ["as it was", "empty", "missing"])
def test_without_a_checkpoint_that_can_be_read_training_does_not_begin_anew(tmp_path, listed):
    go(tmp_path, 4)
    for step in (3, 4):
        damage(tmp_path / "checkpoints" / f"step-{step}.index", "cut")
    if listed != "as it was":
        damage(tmp_path / "checkpoints" / "checkpoint", listed)
    with pytest.raises(TrainingError, match="no checkpoint in .* can be read: .*step-4.*step-3.*--no-resume"):
        go(tmp_path, 6)


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_without_the_list_of_checkpoints_the_newest_is_found(tmp_path, how):
    hp = HP.replace(keep_checkpoints=4)
    go(tmp_path, 12, hp)  # 10 is less than 8 in the order of names
    (tmp_path / "checkpoints" / "step-12.index").unlink()
    damage(tmp_path / "checkpoints" / "checkpoint", how)
    assert [step for _, _, step in go(tmp_path, 12, hp).seen] == [10, 11]


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
def test_evaluation_of_a_damaged_checkpoint_names_others(tmp_path, part):
    go(tmp_path, 6, scores={4: 1.0})
    damage(tmp_path / "checkpoints" / "best" / f"best-4.{part}", "missing")
    with pytest.raises(TrainingError, match="best-4 is damaged .*--checkpoint: .*step-6, .*step-4"):
        weight_in(checkpoints.best_checkpoint(tmp_path))


@pytest.mark.parametrize("shapes, message", [
    ([(3,)], r"a/kernel: \(2,\) in the file, \(3,\) in the network"), ([(2, 1)], r"\(2,\) in the file, \(2, 1\) in"),
    ([(2,), (1,)], "1 arrays of generator in the file, 2 in the network"), ([], "1 arrays .* 0 in the network")])
def test_a_checkpoint_of_another_network_is_refused_with_names_and_values(tmp_path, shapes, message):
    run_folder.Run(tmp_path / "a", HP, {"generator": [keras.Variable(np.ones(2))]}).save()
    weights = [types.SimpleNamespace(value=tf.Variable(np.zeros(shape)), shape=shape, path="a/kernel")
               for shape in shapes]
    generator = types.SimpleNamespace(weights=weights, hp=HP.replace(width=32))
    with pytest.raises(TrainingError, match=f"step-0 does not fit this network: .*{message}.*; width "
                                                    rf"\({HP.width} there, 32 asked for\)"):
        checkpoints.load_generator(generator, checkpoints.best_checkpoint(tmp_path / "a"))
    values = dataclasses.asdict(HP) | {"hidden": 3}
    utils.write_json(tmp_path / "a" / "hparams.json", values)
    with pytest.raises(TrainingError, match="another version of this project: unknown .'hidden'"):
        checkpoints.load_generator(generator, checkpoints.best_checkpoint(tmp_path / "a"))


# The run folder -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"data": "/a', '{"script": "", "data": "/a", "steps": "x"}'])
def test_damaged_notes_of_a_run_are_named_with_the_cure(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(TrainingError, match="run.json is damaged: delete it, and say with --data"):
        run_folder.read_run_info(tmp_path)


def test_a_run_folder_in_use_is_refused_with_its_owner(tmp_path):
    with cli.locked(tmp_path, "--logdir"):
        with pytest.raises(cli.CannotLock, match=f"in use by process {os.getpid()} on .*another --logdir"):
            with cli.locked(tmp_path, "--logdir"):
                pass
    with cli.locked(tmp_path, "--logdir"):
        pass


def test_two_commands_do_not_train_into_one_folder(tmp_path, monkeypatch, capsys):
    no_corpus(monkeypatch)
    monkeypatch.setattr(train, "PairedTrainer", lambda hp, corpus: Counting(hp))
    flags = ["--data", str(tmp_path), "--logdir", str(tmp_path / "run"), "--steps"]
    assert train.main([*flags, "2"]) == 0
    with cli.locked(tmp_path / "run", "--logdir"):
        for more in ([], ["--no-resume"]):
            assert train.main([*flags, "3", *more]) == 1
            assert "in use by process" in capsys.readouterr().err and kept(tmp_path / "run") == [2]
    assert train.main([*flags, "3"]) == 0 and kept(tmp_path / "run") == [2, 3]


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    script = (f"import cli, time\nwith cli.locked({str(tmp_path)!r}, '--logdir'):\n"
              " print('locked', flush=True)\n time.sleep(99)")
    with subprocess.Popen([sys.executable, "-c", script], cwd=pathlib.Path(cli.__file__).parent,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(cli.CannotLock, match=f"in use by process {process.pid} "):
            with cli.locked(tmp_path, "--logdir"):
                pass
        process.kill()
        process.wait()
    with cli.locked(tmp_path, "--logdir"):
        pass


@pytest.fixture
def nobody():
    """Not the superuser, whom no permission stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path, nobody):
    folder = pathlib.Path("/") / "logdir"
    with pytest.raises(cli.CannotLock, match=r"/logdir cannot be written \(.*choose another --logdir"):
        with cli.locked(folder, "--logdir"):
            pass
