"""Folders of arbitrary files: good recordings are converted and prepared, all others are named with the reason."""
import ast
import os
import shutil
import threading

import numpy as np
import pytest
import stress_audio

import data_load
import eval as eval_script
import hyperparams
import prepro
import utils
from common import audio_files, storage
from corpus import manifest
from common.audio_files import BadAudio
from conftest import leftovers, untrained_run, words, write

HP = hyperparams.HyperParams()


def test_eval_converts_the_good_recordings_among_strange_files(tmp_path):
    must, must_not = stress_audio.make_files(tmp_path / "in", 32, 0)
    (tmp_path / "results").mkdir()
    logdir = untrained_run(tmp_path / "run")
    found = stress_audio.check_eval(tmp_path / "in", must, must_not, logdir, tmp_path / "results" / "out")
    assert found["good"] >= 8 and len(must_not) >= 6 and found["refused"] >= 10


def test_prepro_prepares_the_good_recordings_among_strange_files(tmp_path):
    found = stress_audio.check_prepro(tmp_path, 20, 1)
    assert found["usable"] >= 4 and found["dropped"] >= 4


@pytest.mark.parametrize("make, message", [
    (lambda path: os.mkfifo(path), "is a pipe or a device"), (lambda path: path.symlink_to(path), "symbolic links"),
    (lambda path: path.symlink_to("nowhere"), "No such file"), (lambda path: path.mkdir(), "is a folder")])
def test_path_that_is_not_a_regular_file_is_refused_at_once(tmp_path, make, message):
    make(tmp_path / "a.wav")
    refused = []

    def load():
        with pytest.raises(BadAudio, match=message) as error:
            utils.load_wav(tmp_path / "a.wav", HP)
        refused.append(error)
    thread = threading.Thread(target=load, daemon=True)  # reading a pipe would block forever
    thread.start()
    thread.join(10.0)
    assert refused


@pytest.mark.parametrize("most", [20000, 39000])
def test_recording_too_long_for_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, most):
    """It is too long at its own sample rate or at that of the model."""
    path = write(tmp_path / "a.wav", words(1, 8000, 2.5), 8000)
    monkeypatch.setattr(audio_files, "MOST_SAMPLES", 40000)
    utils.load_wav(path, HP)
    monkeypatch.setattr(audio_files, "MOST_SAMPLES", most)
    monkeypatch.setattr(utils.soundfile.SoundFile, "read", None)
    with pytest.raises(BadAudio, match="a.wav: is too long for the memory, 0 minutes at 8000 Hz; cut it"):
        utils.load_wav(path, HP)


def test_a_recording_is_read_in_blocks(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", np.repeat(words(1, 16000, 70.0)[:, None], 8, axis=1))
    most, read = [], utils.soundfile.SoundFile.read
    monkeypatch.setattr(utils.soundfile.SoundFile, "read",
                        lambda file, frames, **more: most.append(frames) or read(file, frames, **more))
    wav, rate = audio_files.read_audio(path, HP)
    assert rate == 16000 and len(wav) == 70 * 16000 and max(most) * 8 <= 2 ** 20
    np.testing.assert_allclose(wav, words(1, 16000, 70.0), atol=1e-4)


def test_features_computed_in_blocks_equal_those_of_the_whole_recording(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", np.concatenate([words(i) for i in range(6)]))
    prepro.compute_features(path, tmp_path / "whole", HP)
    monkeypatch.setattr(utils, "BLOCK_FRAMES", 100)
    prepro.compute_features(path, tmp_path / "blocks", HP)
    for kind, tolerance in (("mel", 1e-3), ("linear", 1e-3), ("pitch", 0.0)):
        whole, blocks = (np.load(tmp_path / f"{name}.{kind}.npy") for name in ("whole", "blocks"))
        np.testing.assert_allclose(blocks, whole, atol=tolerance)
    monkeypatch.setattr(utils, "PITCH_FRAMES", 200)
    prepro.compute_features(path, tmp_path / "pitch", HP)
    pitch = np.load(tmp_path / "pitch.pitch.npy")
    assert len(pitch) == len(whole) and np.mean(np.abs(pitch - whole) < 2.0) > 0.98


def test_file_names_are_printable_short_and_distinct():
    names = ["a\nb", "a\tb", "a b", "é" * 100, "é" * 101, "\udcff", "\udcfe", "a/b", "../b", ".."]
    found = [storage.file_name(name) for name in names]
    assert len(set(found)) == len(names) and found[2] == "a b" and found[-1] == ".."
    assert all(name.isprintable() and len(name.encode()) <= storage.LONGEST_NAME and "/" not in name for name in found)
    assert found == [storage.file_name(name) for name in names]
    assert storage.printable("a b.wav") == "a b.wav" and storage.printable("a\n\udcff.wav") == r"'a\n\udcff.wav'"


def test_outputs_of_different_recordings_have_different_names(tmp_path):
    paths = [tmp_path / name for name in ("x.wav", "x.flac", "x.source.wav", "X.wav", "x_2.wav", "x.source.flac",
                                          "y.wav")]
    names = eval_script.unique_names(paths)
    files = [file for name in names for file in eval_script.outputs(name)]
    assert len({file.casefold() for file in files}) == len(files) and names[0] == "x" and names[-1] == "y"


def test_recordings_are_found_except_for_earlier_results(tmp_path):
    for name in ("a.wav", "deep/er/b.flac", "out/c.wav", "out/deeper/d.wav", "outer/e.wav", "f.txt"):
        write(tmp_path / name, words(1), subtype="PCM_16") if not name.endswith("txt") else (tmp_path / name).touch()
    (tmp_path / "deep" / "circle").symlink_to(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in eval_script.find_recordings([tmp_path], tmp_path / "out")}
    assert found == {"a.wav", "deep/er/b.flac", "outer/e.wav"}
    assert len(eval_script.find_recordings([tmp_path / "out"], tmp_path / "out")) == 2  # the folder is given explicitly


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.wav", words(1))
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)
    monkeypatch.setattr(os, "scandir", locked)
    found = audio_files.list_audio(tmp_path)
    assert found == [tmp_path / "a.wav", tmp_path / "locked"]
    with pytest.raises(BadAudio, match="locked: is a folder that cannot be looked into; check its permissions"):
        utils.load_wav(found[1], HP)


def test_recording_without_read_permission_is_named(tmp_path):
    path = write(tmp_path / "a.wav", words(1))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(BadAudio, match=r"a.wav: cannot be read as audio \(Permission denied\)"):
        utils.load_wav(path, HP)


def test_manifest_preserves_names_that_are_not_valid_text(tmp_path):
    pair = manifest.Pair("a", "a", "b", source_file="/x/\udcff.wav", reason="'line\nfeed', \"quoted\"")
    manifest.write_csv(tmp_path / "manifest.csv", list(vars(pair)), [vars(pair).values()])
    assert manifest.read_manifest(tmp_path) == [pair]
    assert leftovers(tmp_path) == []


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_loading_an_array_runs_no_code(tmp_path):
    bomb = tmp_path / "bomb.mel.npy"
    np.save(bomb, np.array([Bomb(tmp_path / "ran")], dtype=object), allow_pickle=True)
    assert not prepro.intact(bomb)
    for load in (data_load.open_array, lambda path: prepro.load_mel(tmp_path, "", path.name.split(".")[0])):
        (tmp_path / "features").mkdir(exist_ok=True)
        shutil.copy(bomb, tmp_path / "features" / bomb.name)
        with pytest.raises(ValueError, match="allow_pickle|Python objects"):
            load(bomb)
    assert not (tmp_path / "ran").exists()


def test_scripts_neither_unpickle_nor_execute_what_they_read():
    found = []
    for path in stress_audio.ROOT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [name.name for name in node.names] + [getattr(node, "module", None)]
                assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names), path
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                if call in ("np.load", "numpy.load"):
                    found.append({word.arg: ast.unparse(word.value) for word in node.keywords}.get("allow_pickle"))
                assert call not in ("eval", "exec", "os.system"), path
                assert not call.endswith(("extractall", "load_model")), path
    assert len(found) >= 5 and set(found) == {"False"}
