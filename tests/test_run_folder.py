"""Run folders after their process was killed, with damaged files, and while other processes use them."""
import dataclasses
import errno
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types

import train
from backend import checkpoints
from common import cli, storage
from common.cli import UserError
from conftest import leftovers, no_corpus, resume
from hyperparams import HyperParams
from training import run_folder
from training.run_folder import read_scalars

import keras
import numpy as np
import pytest
from test_training import HP, Counting, go, kept, weight_in


def begin(logdir: pathlib.Path) -> run_folder.Run:
    """A run of one weight."""
    return run_folder.Run(logdir, HyperParams(), {"generator": [keras.Variable(1.0)]})


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    run = begin(tmp_path)
    run.save()
    run.select(1.0)
    for folder in ("", "best"):
        (tmp_path / "checkpoints" / folder / ".step-3.npz.tmp").touch()
    run = begin(tmp_path)
    assert leftovers(tmp_path) == [] and resume(run)


def test_best_checkpoint_is_not_written_again_at_the_same_step(tmp_path):
    """It is the only copy, so that a process killed while writing it would leave none."""
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
    assert written() == before and len(before) == 1 and float(again.best) == pytest.approx(0.9)
    again.step.assign(3)  # 13 ends with the same digit
    again.select(0.8)
    assert all(name.startswith("best-3.") for name in written()) and len(written()) == 1


def test_curves_are_written_to_disk_before_the_checkpoint(tmp_path, monkeypatch):
    """Steps before the checkpoint are not repeated, so their scalars must not be lost."""
    run, seen = begin(tmp_path), []
    monkeypatch.setattr(checkpoints, "write", lambda *_: seen.extend(
        read_scalars(tmp_path / kind, "a/b") for kind in ("train", "validation")))
    run.step.assign(1)
    run.log("train", {"a/b": 0.5})
    run.step.assign(2)
    run.log("train", {"a/b": 0.25})
    run.log("validation", {"a/b": 4.0})
    run.save()
    assert seen == [([1, 2], [0.5, 0.25]), ([2], [4.0])]


def test_lock_error_names_the_owner_in_every_attempt(tmp_path):
    for _ in range(2):
        with cli.locked(tmp_path, "--logdir"):
            for _ in range(2):
                with pytest.raises(UserError) as caught, cli.locked(tmp_path, "--logdir"):
                    pass
                assert str(caught.value).startswith(f"{tmp_path} is in use by process {os.getpid()} on "
                                                    f"{socket.gethostname()}: choose another --logdir")


def test_folder_on_a_drive_without_locks_is_used_unlocked(tmp_path, monkeypatch):
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
    elif how == "flipped":  # all bits of a byte, at a third of the file
        path.write_bytes(data[:len(data) // 3] + bytes([data[len(data) // 3] ^ 255]) + data[len(data) // 3 + 1:])
    else:
        path.write_bytes(data[:{"empty": 0, "cut": len(data) - 5}[how]])


@pytest.mark.parametrize("how", ["flipped", "empty", "cut"])
def test_training_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path, how, capsys):
    go(tmp_path, 4)
    damage(tmp_path / "checkpoints" / "step-4.npz", how)
    assert [step for _, _, step in go(tmp_path, 4).seen] == [3]
    message = capsys.readouterr().err
    assert message.count("warning") == 1
    for text in ("step-4.npz is missing or damaged", "going on from the one before it, {tmp_path}/checkpoints/step-3"):
        assert text.format(tmp_path=tmp_path) in message
    assert go(tmp_path, 4).seen == []  # the damaged one was written again
    assert weight_in(tmp_path / "checkpoints" / "step-4.npz") == 4 and capsys.readouterr().err == ""


def test_training_does_not_restart_if_no_checkpoint_is_readable(tmp_path):
    go(tmp_path, 4)
    for step in (3, 4):
        damage(tmp_path / "checkpoints" / f"step-{step}.npz", "cut")
    with pytest.raises(UserError, match="no checkpoint can be read: .*step-4.*step-3.*--no-resume"):
        go(tmp_path, 6)


def test_newest_checkpoint_is_that_of_the_highest_step(tmp_path):
    hp = HP.replace(keep_checkpoints=4)
    go(tmp_path, 12, hp)  # in alphabetical order 10 comes before 8
    (tmp_path / "checkpoints" / "step-12.npz").unlink()
    assert [step for _, _, step in go(tmp_path, 12, hp).seen] == [10, 11]


def test_copies_of_checkpoints_with_other_names_do_no_harm(tmp_path):
    go(tmp_path, 2)
    newest = tmp_path / "checkpoints" / "step-2.npz"
    for name in ("step-2 (copy).npz", "step-x.npz", "my-own.npz"):
        shutil.copy(newest, newest.with_name(name))
    assert checkpoints.best_checkpoint(tmp_path) == str(newest) and checkpoints.newest_step(tmp_path) == 2
    assert go(tmp_path, 3).seen[0][-1] == 2


def test_error_for_a_damaged_checkpoint_names_alternatives(tmp_path):
    go(tmp_path, 6, scores={4: 1.0})
    damage(tmp_path / "checkpoints" / "best" / "best-4.npz", "missing")
    with pytest.raises(UserError, match="best-4.npz is missing or damaged .*--checkpoint .*step-6.npz, .*step-4.npz"):
        weight_in(tmp_path / "checkpoints" / "best" / "best-4.npz")


@pytest.mark.parametrize("shapes, message", [
    ([(3,)], r"a/kernel: \(2,\) in the file, \(3,\) in the network"), ([(2, 1)], r"\(2,\) in the file, \(2, 1\) in"),
    ([(2,), (1,)], "1 arrays of generator in the file, 2 in the network"), ([], "1 arrays .* 0 in the network")])
def test_error_for_a_checkpoint_of_another_network_names_the_differences(tmp_path, shapes, message):
    run_folder.Run(tmp_path / "a", HP, {"generator": [keras.Variable(np.ones(2))]}).save()
    weights = [types.SimpleNamespace(shape=shape, path="a/kernel") for shape in shapes]
    generator = types.SimpleNamespace(weights=weights, hp=HP.replace(width=32))
    with pytest.raises(UserError, match=f"step-0.npz does not fit this network: .*{message}.*; width "
                       rf"\({HP.width} there, 32 asked for\)"):
        checkpoints.load_generator(generator, checkpoints.best_checkpoint(tmp_path / "a"))
    values = dataclasses.asdict(HP) | {"hidden": 3}
    storage.write_json(tmp_path / "a" / "hparams.json", values)
    with pytest.raises(UserError, match=r"; hidden \(3 there, unknown asked for\)"):
        checkpoints.load_generator(generator, checkpoints.best_checkpoint(tmp_path / "a"))


# The run folder -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"data": "/a'])
def test_a_damaged_run_json_counts_as_missing(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert run_folder.read_run_info(tmp_path) == {}


def test_locking_a_run_folder_in_use_fails_and_names_the_owner(tmp_path):
    with cli.locked(tmp_path, "--logdir"):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on .*another --logdir"):
            with cli.locked(tmp_path, "--logdir"):
                pass
    with cli.locked(tmp_path, "--logdir"):
        pass


def test_two_commands_cannot_train_into_the_same_folder(tmp_path, monkeypatch, capsys):
    no_corpus(monkeypatch)
    monkeypatch.setattr(train, "PairedTrainer", lambda hp, corpus: Counting(hp))
    flags = ["--data", str(tmp_path), "--logdir", str(tmp_path / "run"), "--steps"]
    assert train.main([*flags, "2"]) == 0
    with cli.locked(tmp_path / "run", "--logdir"):
        for more in ([], ["--no-resume"]):
            assert train.main([*flags, "3", *more]) == 1
            assert "in use by process" in capsys.readouterr().err and kept(tmp_path / "run") == [2]
    assert train.main([*flags, "3"]) == 0 and kept(tmp_path / "run") == [2, 3]


def test_lock_is_released_when_its_process_is_killed(tmp_path):
    script = (f"from common import cli\nimport time\nwith cli.locked({str(tmp_path)!r}, '--logdir'):\n"
              " print('locked', flush=True)\n time.sleep(99)")
    with subprocess.Popen([sys.executable, "-c", script], cwd=pathlib.Path(cli.__file__).parents[1],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid} "):
            with cli.locked(tmp_path, "--logdir"):
                pass
        process.kill()
        process.wait()
    with cli.locked(tmp_path, "--logdir"):
        pass


@pytest.fixture
def nobody():
    """Run as an ordinary user, since permissions do not restrict the superuser."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_error_for_a_run_folder_that_is_not_writable_names_it(tmp_path, nobody):
    folder = pathlib.Path("/") / "logdir"
    with pytest.raises(UserError, match=r"/logdir cannot be written \(.*choose another --logdir"):
        with cli.locked(folder, "--logdir"):
            pass
