"""A run folder after its process was killed, and while others look at it."""
import errno
import os
import pathlib
import shutil
import socket

import keras
import pytest

import commands
import trainer
from hyperparams import HyperParams
from run_folder import read_scalars


def begin(logdir: pathlib.Path) -> trainer.Run:
    """A run of one weight."""
    return trainer.Run(logdir, HyperParams(), {"generator": [keras.Variable(1.0)]})


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    begin(tmp_path).save()
    for half in ("step-99_temp", "best/x_temp"):
        (tmp_path / "checkpoints" / half).mkdir(parents=True)
        (tmp_path / "checkpoints" / half / "part-00000-of-00001").write_bytes(b"half")
    run = begin(tmp_path)
    assert not list(tmp_path.rglob("*_temp")) and run.resume()


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
            trainer.forget(tmp_path)
        for folder in {path.parent for path in files}:
            assert not folder.exists() or len(list(folder.iterdir())) == 2
    assert len(killed) == len(files)
    for folder in ("checkpoints", ".checkpoints.removed"):  # a new run, and what a killed one left
        (tmp_path / folder / "more").mkdir(parents=True)
    trainer.forget(tmp_path)
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
        with commands.locked(tmp_path, "--logdir"):
            for _ in range(2):
                with pytest.raises(commands.CannotLock) as caught, commands.locked(tmp_path, "--logdir"):
                    pass
                assert str(caught.value).startswith(f"{tmp_path} is in use by process {os.getpid()} on "
                                                    f"{socket.gethostname()}: choose another --logdir")


def test_a_network_drive_that_knows_no_locks_is_used_without(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(commands.fcntl, "flock", unknown)
    entered = []
    with commands.locked(tmp_path / "run", "--logdir"):
        entered.append((tmp_path / "run").is_dir())
    assert entered == [True]
