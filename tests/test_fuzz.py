"""Folders of arbitrary files: good recordings are converted and prepared, all others are named with the reason."""
import ast
import json
import os
import pathlib
import random
import threading

import data_load
import eval as eval_script
import hyperparams
import prepro
import utils
from common import audio_files, cli, storage
from common.audio_files import BadAudio
from common.cli import UserError
from conftest import leftovers, words, write
from corpus import manifest

import numpy as np
import pytest
import soundfile

ROOT = pathlib.Path(utils.__file__).resolve().parent
HP = hyperparams.HyperParams()
RATES = (4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)
FORMATS = [("wav", "PCM_U8"), ("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"),
           ("wav", "DOUBLE"), ("wav", "ULAW"), ("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"),
           ("aiff", "PCM_16"), ("aiff", "FLOAT"), ("au", "PCM_24"), ("mp3", "MPEG_LAYER_III")]
NAMES = ["two words", "it's", 'a "quote"', "line\nfeed", "\x1b[31mred\x1b[0m", "tab\tand\rreturn", "größe-日本語-🎤",
         "-rf", "--out", "$HOME", "$x$", r"\$y", "100%s %d", "a&b<i>", "#1", "?x=1", "up..", "long" * 62, "wide é" * 30,
         "\u202egnp", "not\udcfftext", "metrics", "index", "`id`", "a;b", "*", "x.source", "x.cost", "x"]


def speech(rng: random.Random, spoken: int, pitch: float, rate: int) -> np.ndarray:
    """(samples, channels) of 1.2 s, the same for the same `spoken`; sometimes with an offset or clipped."""
    wav = words(spoken, rate, 1.2, pitch)
    wav = np.clip(wav * rng.choice([0.1, 1.0, 1.0, 4.0]) + rng.choice([0.0, 0.0, 0.2]), -1.0, 1.0)
    return np.repeat(wav[:, None], rng.choice([1, 1, 2, 3, 8]), axis=1)


def good(path: pathlib.Path, rng: random.Random, spoken: int, pitch: float) -> pathlib.Path:
    """Write a recording in one of many formats; returns its path, whose suffix is that of the format."""
    ending, subtype = rng.choice(FORMATS)
    rate = 44100 if ending == "mp3" else rng.choice(RATES)
    wav = speech(rng, spoken, pitch, rate)
    path = path.with_name(f"{path.name}.{ending}")
    soundfile.write(os.fsencode(path), wav[:, :2] if ending == "mp3" else wav, rate, subtype, format=ending.upper())
    return path


def damaged(path: pathlib.Path, rng: random.Random, spoken: int, pitch: float) -> None:
    """Write a recording with wrong, missing or additional bytes; it may still be readable."""
    path = good(path, rng, spoken, pitch)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(rng.choice([64, len(content)])), rng.choice([1, 4, 100, 5000])
        change = rng.choice(["cut", "bytes", "length", "remove", "insert", "zero"])
        if change == "cut":
            del content[max(1, rng.choice([place, len(content) - length])):]
        elif change == "length":
            content[4:8] = rng.choice([bytes(4), b"\xff" * 4, b"\x00\x00\x00\x80", rng.randbytes(4)])
        else:
            content[place:place + (0 if change == "insert" else length)] = {
                "remove": b"", "zero": bytes(length)}.get(change, rng.randbytes(length))
    path.write_bytes(content)


def short(path: pathlib.Path, rng: random.Random, spoken: int, pitch: float) -> None:
    """Write one to ten samples, which may be too few for the sample rate."""
    wav = words(spoken)[1000:1000 + rng.randint(1, 10)]
    soundfile.write(os.fsencode(f"{path}.wav"), wav, rng.choice(RATES), "FLOAT", format="WAV")


def hopeless(path: pathlib.Path, rng: random.Random, spoken: int, pitch: float) -> None:
    """Write a file that cannot be read or heard."""
    wav, path = words(spoken, seconds=1.2), pathlib.Path(f"{path}.wav")
    number = rng.randrange(10)
    if number < 7:
        wav = [wav * 0, wav * 0 + 0.3, wav * 1e-40, wav[:0], wav * 1e36, wav, wav][number]
        if number > 4:
            wav[rng.randrange(len(wav))] = [np.nan, np.inf][number - 5]
        soundfile.write(os.fsencode(path), wav, rng.choice(RATES), rng.choice(["FLOAT", "DOUBLE"]), format="WAV")
    else:
        path.write_bytes([b"", b"no recording\n" * 50, rng.randbytes(5000)][number - 7])


def no_file(path: pathlib.Path, rng: random.Random, spoken: int, pitch: float) -> None:
    """Make a broken link, a pipe or an unreadable file, named like a recording."""
    path, number = pathlib.Path(f"{path}.wav"), rng.randrange(3 if os.access("/", os.W_OK) else 4)  # root can read all
    if number < 2:
        path.symlink_to(path if number else path.with_name("nowhere"))
    elif number == 2:
        os.mkfifo(path)
    else:
        write(path, words(spoken))
        path.chmod(0)


def make_files(folder: pathlib.Path, count: int, seed: int, pitch: float = 120.0) -> tuple[list, list]:
    """Fill `folder` with recordings and other files; returns those to be converted and those to be refused.

    The names and words are the same for each seed and pitch, so two folders of different seeds are two speakers.
    """
    folder.mkdir(parents=True)
    rng, must, must_not = random.Random(seed), [], []
    for number in range(count):
        path = folder / (NAMES[number] if number < len(NAMES) else f"{number:04d}")
        make = rng.choices([good, damaged, short, hopeless, no_file], [5, 4, 1, 3, 1])[0]
        if number in (1, 3, 4, 18, 20):  # these are good for any seed
            make = good
        before = set(folder.iterdir())
        make(path, rng, number, pitch)
        written = min(set(folder.iterdir()) - before)
        if make is good:
            must.append(written)
        elif make in (hopeless, no_file):
            must_not.append(written)
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav" / "circle.wav").symlink_to(folder)
    return must, must_not


def errors(capfd) -> list[str]:
    """The lines of standard error; no traceback and no characters that garble a terminal were printed."""
    out, error = capfd.readouterr()
    assert "Traceback" not in error, error
    for line in (out + error).splitlines():
        assert line.isprintable(), repr(line)
    return error.splitlines()


def test_eval_converts_the_good_recordings_among_strange_files(tmp_path, run_folder, capfd, monkeypatch):
    monkeypatch.setattr(cli, "cores", lambda: 1)
    must, must_not = make_files(tmp_path / "in", 32, 0)
    out = tmp_path / "results" / "out"
    assert eval_script.main([str(tmp_path / "in"), "--logdir", str(run_folder), "--out", str(out)]) == 1
    refused = [line for line in errors(capfd) if line.startswith("refused ")]
    assert len(must) >= 8 and len(must_not) >= 6 and len(refused) >= 10
    assert {path.name for path in tmp_path.iterdir()} == {"in", "results"}
    assert list((tmp_path / "results").iterdir()) == [out]
    rows = json.loads((out / "metrics.json").read_text())["utterances"]
    assert len(rows) + len(refused) == len(audio_files.list_audio(tmp_path / "in")) and leftovers(out) == []
    for path in must_not:
        assert any(line.startswith(f"refused {storage.printable(path)}: ") for line in refused), path
    for path in must:
        assert not any(line.startswith(f"refused {storage.printable(path)}: ") for line in refused), path
    for name in rows:
        for file in eval_script.outputs(name):
            assert (out / file).resolve().parent == out.resolve()
            if file.endswith(".wav"):
                wav, rate = soundfile.read(out / file)
                assert rate == 16000 and len(wav) and np.isfinite(wav).all()


@pytest.mark.usefixtures("serial")
def test_prepro_prepares_the_good_recordings_among_strange_files(tmp_path, capfd):
    sides = [make_files(tmp_path / name, 20, 1 + n, 110.0 + 50 * n) for n, name in enumerate(("anna", "bert"))]
    assert prepro.main([word for name, folder in (("source", "anna"), ("target", "bert"), ("data", "data"))
                        for word in (f"--{name}", str(tmp_path / folder))]) == 0
    errors(capfd)
    assert {path.name for path in tmp_path.iterdir()} == {"anna", "bert", "data"} and not leftovers(tmp_path)
    pairs = {pair.name: pair for pair in manifest.read_manifest(tmp_path / "data")}
    keys = [[{storage.file_name(path.stem) for path in paths} for paths in side] for side in sides]
    for name in keys[0][0] & keys[1][0]:
        assert not pairs[name].reason or pairs[name].reason.startswith("DTW cost"), pairs[name]
    for name in keys[0][1] | keys[1][1]:
        assert pairs[name].reason, name
    usable = sum(not pair.reason for pair in pairs.values())
    assert usable >= 4 and len(pairs) - usable >= 4


@pytest.mark.parametrize("make, message", [
    (lambda path: os.mkfifo(path), "is a pipe or a device"), (lambda path: path.symlink_to(path), "symbolic links"),
    (lambda path: path.symlink_to("nowhere"), "does not exist"), (lambda path: path.mkdir(), "is a folder")])
def test_path_that_is_not_a_regular_file_is_refused_at_once(tmp_path, make, message):
    make(tmp_path / "a.wav")
    refused = []

    def load():
        with pytest.raises(BadAudio, match=message) as error:
            utils.load_recording(tmp_path / "a.wav", HP)
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
    utils.load_recording(path, HP)
    monkeypatch.setattr(audio_files, "MOST_SAMPLES", most)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(BadAudio, match="a.wav: is too long for the memory, 0 minutes at 8000 Hz; cut it"):
        utils.load_recording(path, HP)


def test_a_recording_is_read_in_blocks(tmp_path, monkeypatch):
    said = np.tile(words(1), 70)
    path = write(tmp_path / "a.wav", np.repeat(said[:, None], 8, axis=1))
    most, read = [], soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read",
                        lambda file, frames, **more: most.append(frames) or read(file, frames, **more))
    wav, rate, _ = audio_files.read_audio(path, HP)
    assert rate == 16000 and len(wav) == 70 * 16000 and max(most) * 8 <= 2 ** 20
    np.testing.assert_allclose(wav, said, atol=1e-4)


def test_features_computed_in_blocks_equal_those_of_the_whole_recording(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", np.concatenate([words(i) for i in range(6)]))
    prepro.compute_features(path, tmp_path / "whole", HP)
    monkeypatch.setattr(utils, "BLOCK_FRAMES", 100)
    prepro.compute_features(path, tmp_path / "blocks", HP)
    for kind, tolerance in (("mel", 1e-3), ("linear", 1e-3), ("pitch", 0.0)):
        whole, blocks = (np.load(tmp_path / f"{name}.{kind}.npy") for name in ("whole", "blocks"))
        np.testing.assert_allclose(blocks, whole, atol=tolerance)


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
    # Not even in two commands: the second wrote its source over the first one's conversion
    (alone,), (other,) = (eval_script.unique_names([path]) for path in (tmp_path / "x.SOURCE.wav", tmp_path / "x.wav"))
    assert {file.casefold() for file in eval_script.outputs(alone)}.isdisjoint(eval_script.outputs(other))


def test_recordings_are_found_except_for_earlier_results(tmp_path):
    for name in ("a.wav", "deep/er/b.flac", "out/c.wav", "out/deeper/d.wav", "out/mine.wav", "other/x.wav", "f.txt"):
        write(tmp_path / name, words(1), subtype="PCM_16") if not name.endswith("txt") else (tmp_path / name).touch()
    (tmp_path / "deep" / "circle").symlink_to(tmp_path)

    def found() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in eval_script.find_recordings([tmp_path])}
    everything = {"a.wav", "deep/er/b.flac", "out/c.wav", "out/deeper/d.wav", "out/mine.wav", "other/x.wav"}
    assert found() == everything
    noted = {"model": "m", "wav": storage.content_hash(tmp_path / "out" / "c.wav")}
    storage.write_json(tmp_path / "out" / "conversions.json", {"c": noted, "mine": noted | {"wav": "another"}})
    storage.write_json(tmp_path / "other" / "conversions.json", {"x": {"currency": "EUR"}})  # somebody else's
    assert found() == everything - {"out/c.wav"}
    named = ["a.wav", "other", "other/x.wav", "other/../a.wav"]
    assert len(eval_script.find_recordings([tmp_path / name for name in named])) == 2  # each once


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
        utils.load_recording(found[1], HP)


def test_recording_without_read_permission_is_named(tmp_path):
    path = write(tmp_path / "a.wav", words(1))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(BadAudio, match=r"a.wav: cannot be read as audio \(Permission denied\)"):
        utils.load_recording(path, HP)


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
    (tmp_path / "features").mkdir()
    bomb = tmp_path / "features" / "bomb.linear.npy"
    np.save(bomb, np.array([Bomb(tmp_path / "ran")], dtype=object), allow_pickle=True)
    assert not storage.intact(bomb)
    for load in (data_load.open_array, lambda _: prepro.load_mel(tmp_path, "", "bomb")):
        with pytest.raises((UserError, ValueError), match="allow_pickle|Python objects"):
            load(bomb)
    assert not (tmp_path / "ran").exists()


def test_scripts_neither_unpickle_nor_execute_what_they_read():
    found = []
    packages = [ROOT, *(path.parent for path in ROOT.glob("*/__init__.py"))]
    for path in (path for folder in packages for path in folder.glob("*.py")):
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
    assert len(found) >= 4 and set(found) == {"False"}
