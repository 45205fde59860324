"""What the machine, its settings and other programs hand on does not stop a command."""
import concurrent.futures
import os
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

import utils
from backend import checkpoints
from common import audio_files, cli
from common.cli import UserError
from conftest import TINY, untrained_run, words, write
from conversion import inference
from training import run_folder


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?", "{x}"])
def test_any_path_holds_a_run(tmp_path, name):
    """TensorFlow takes some paths for patterns."""
    assert inference.load_converter(untrained_run(tmp_path / name)).hp == TINY


def test_checkpoints_in_a_folder_that_looks_like_a_pattern_are_rotated(tmp_path):
    folder, value = tmp_path / "run[1]", tf.Variable(0.0)
    folder.mkdir()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(x=value), str(checkpoints.literal(folder)), 2)
    for number in range(4):
        value.assign(number)
        manager.save(checkpoint_number=number)
    assert len(checkpoints.checkpoints_in(folder)) == 2


def test_settings_of_a_notebook_or_of_another_keras_are_not_taken_over(tmp_path):
    code = "from backend import devices; import keras; from evaluation import figures; print(keras.backend.backend())"
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(utils.__file__), text=True,
                          capture_output=True, env=os.environ | {"KERAS_BACKEND": "jax", "MPLBACKEND": "module://none"})
    assert done.stdout.split() == ["tensorflow"] and not done.stderr


def test_as_many_processes_as_cores_are_allowed(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert cli.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cli.cores() == os.cpu_count()


@pytest.mark.parametrize("group, files, allowed", [
    ("0::/", {}, 8e9), ("0::/", {"memory.max": "max"}, 8e9), ("0::/", {"memory.max": "1000000000"}, 1e9),
    ("0::/job/step", {"job/memory.max": "2000000000", "job/step/memory.max": "max"}, 2e9),
    ("4:memory:/docker/x", {"memory/memory.limit_in_bytes": "3000000000"}, 3e9),
    ("0::/", {"memory.max": "64000000000"}, 8e9)])
def test_memory_is_what_is_free_and_allowed(tmp_path, group, files, allowed):
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    7812500 kB\n", "proc/self/cgroup": group, **{
            f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cli.memory(tmp_path) == allowed and cli.memory(tmp_path / "nowhere") == float("inf")


@pytest.mark.parametrize("free, cores, processes", [(64e9, 3, 3), (1.3e9, 16, 2), (1e8, 16, 1)])
def test_no_more_processes_than_the_memory_holds(monkeypatch, free, cores, processes):
    started = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, at_once, *others):
            started.append(at_once)
            super().__init__(1)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(cli, "cores", lambda: cores)
    monkeypatch.setattr(cli, "memory", lambda: free)
    with cli.workers() as run:
        assert run(abs, [(-1,), (2,)], "absolute") == [1, 2] and started == [processes]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "session" / "a.wav", words(1))
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "link").symlink_to(tmp_path / "session")
    (tmp_path / "session" / "back").symlink_to(tmp_path / "speaker")
    assert [path.name for path in audio_files.list_audio(tmp_path / "speaker")] == ["a.wav"]


def test_voice_messages_are_decoded_by_ffmpeg_or_refused_with_the_command(tmp_path, monkeypatch):
    source, message = write(tmp_path / "a.wav", words(1)), tmp_path / "my message.m4a"
    message.write_bytes(b"not audio")
    assert message in audio_files.list_audio(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(audio_files.BadAudio, match="only ffmpeg .* ffmpeg -i .*my message.m4a' 'my mess"):
        utils.load_recording(message, TINY)
    ffmpeg = tmp_path / "ffmpeg"  # a stand-in, which copies a recording to its last argument
    ffmpeg.write_text(f"#!/bin/sh\nfor last; do :; done\ncp {source} \"$last\"\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(ffmpeg))
    assert (utils.load_recording(message, TINY).wav == utils.load_recording(source, TINY).wav).all()
    ffmpeg.write_text("#!/bin/sh\necho moov atom not found >&2; exit 1\n")
    with pytest.raises(audio_files.BadAudio, match="my message.m4a: cannot be decoded by ffmpeg .moov atom"):
        utils.load_recording(message, TINY)


def test_a_run_and_its_features_move_together(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "data").mkdir(parents=True)
    (old / "data" / "manifest.csv").write_text("name,source_file\na,/somewhere/a.wav\n")
    run_folder.write_run_info(old / "logdir" / "run", "train.py", old / "data", 1)
    old.rename(new)
    info = run_folder.read_run_info(new / "logdir" / "run")
    assert info["data"] == new / "data"
    (new / "data" / "manifest.csv").write_text("name,source_file\na,/elsewhere/a.wav\n")
    run_folder.check_run_info(info, new / "logdir" / "run", "train.py", new / "data", None)
    (new / "data" / "manifest.csv").write_text("name,source_file\nb,/elsewhere/a.wav\n")
    with pytest.raises(UserError, match="prepro.py found other recordings"):
        run_folder.check_run_info(info, new / "logdir" / "run", "train.py", new / "data", None)


def test_a_recording_that_is_gone_is_called_missing(tmp_path):
    with pytest.raises(audio_files.BadAudio, match="gone.wav: does not exist"):
        utils.load_recording(tmp_path / "gone.wav", TINY)


COMMAND = """import os, pathlib, sys
from common import cli

def work():
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        assert file.fileno() > 2, "a file got the number of a standard stream"
        print("wört é \\u4e2d \\udce9")
        print("warning: é \\U0001f3a4", file=sys.stderr)
        os.write(2, b"a library's message\\n")
        assert sys.stdin.read() == ""
        file.write("done")
    print("wrote", os.path.basename(sys.argv[1]))

sys.exit(cli.run_main("x.py", work))
"""
NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def in_a_shell(tmp_path, redirection: str, **environment: str) -> subprocess.CompletedProcess:
    """Run COMMAND with its streams redirected."""
    (tmp_path / "x.py").write_text(COMMAND, encoding="utf-8")
    command = f'"{sys.executable}" "{tmp_path / "x.py"}" "{tmp_path / "œuvre"}" {redirection}'
    return subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                          env=os.environ | {"PYTHONPATH": os.path.dirname(utils.__file__)} | environment)


@pytest.mark.parametrize("redirection, environment", [
    ("", {}), ("2>&-", {}), (">&-", {}), ("<&-", {}), (">&- 2>&-", {}), ("<&- >&- 2>&-", NOT_UTF8), ("", NOT_UTF8),
    ("", {"PYTHONIOENCODING": "ascii"}), ("2>&-", {"PYTHONIOENCODING": "latin-1"}),
    ("<&-", {"PYTHONIOENCODING": "ascii:strict"})])
def test_closed_streams_and_foreign_encodings_keep_no_command_from_its_work(tmp_path, redirection, environment):
    done = in_a_shell(tmp_path, redirection, **environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "œuvre").read_text() == "done"
    if redirection in ("", "<&-"):
        assert b"wrote" in done.stdout and b"\\udce9" in done.stdout and b"a library's message" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is imitated by /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # output fails at the end, or before the work is done
def test_output_that_cannot_be_written_is_said_when_everything_is_done(tmp_path, unbuffered):
    done = in_a_shell(tmp_path, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (tmp_path / "œuvre").read_text() == "done" and done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.endswith(b"x.py: standard output cannot be written (No space left on device); all files are\n")
    done = in_a_shell(tmp_path, ">/dev/full 2>&1", PYTHONUNBUFFERED=unbuffered)
    assert (tmp_path / "œuvre").read_text() == "done" and done.returncode == 1
