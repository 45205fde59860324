"""The scripts as a user runs them: help texts, and all steps from recordings to converted speech."""
import contextlib
import html.parser
import importlib
import io
import json
import math
import pathlib
import re
import runpy
import shutil
import sys
import types
import urllib.parse

import eval as eval_script
import eval_gan
import hyperparams
import prepro
import train
import train_gan
from backend import checkpoints
from common import storage
from conftest import demo_wav, leftovers, let_graphs_go, no_workers, write
from conversion import base, inference
from conversion.chunks import CHUNK_SECONDS, Chunk, join, split_at_pauses

import numpy as np
import pytest
import soundfile
import soxr

ROOT = pathlib.Path(prepro.__file__).resolve().parent

FLAGS = {
    "prepro.py": ["--source", "--target", "--pairs", "--download", "--data", "--pattern", "--heldout",
                  "--unpaired", "--set"],
    "train.py": ["--data", "--logdir", "--preset", "--set", "--steps", "--init-from", "--no-resume"],
    "train_gan.py": ["--num-gpus", "--data", "--logdir", "--preset", "--set", "--steps", "--init-from",
                     "--no-resume"],
    "train_multi_gpus.py": ["--num-gpus", "--data", "--logdir", "--steps"],
    "eval.py": ["--data", "--logdir", "--out", "--checkpoint", "--source", "--set",
                "FILE_OR_FOLDER"],
    "eval_gan.py": ["--data", "--logdir", "--out", "--checkpoint", "--source", "--set",
                    "FILE_OR_FOLDER"],
}


@pytest.mark.parametrize("script", FLAGS)
def test_help_names_the_command_and_its_flags(script, capsys, monkeypatch):
    """test_elsewhere.py runs scripts in processes of their own, from another folder."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (0, "") and f"python {script}" in printed.out
    for flag in FLAGS[script]:
        assert flag in printed.out


@pytest.mark.parametrize("script", FLAGS)
def test_help_begins_with_three_commands_that_can_be_pasted(script, monkeypatch):
    """Nothing in them stands for something else, and what they read is in the repository or made by a script."""
    module = importlib.import_module(pathlib.Path(script).stem)
    commands = [line.split("  #")[0].split() for line in module.__doc__.splitlines() if line.startswith("    python ")]
    monkeypatch.chdir(ROOT)
    for python, name, *flags in commands[:3]:
        assert (python, name) == ("python", script) and not any(flag.isupper() or flag == "..." for flag in flags)
        module.parse_arguments(flags)
        assert all((ROOT / flag).exists() for flag in flags if flag.startswith("data/demo/"))


SETTINGS = ["width=16", "encoder_banks=2", "postnet_banks=2", "highway_layers=1", "batch_size=4", "postnet_window=32",
            "postnet_steps=60", "encoder_steps=20", "decoder_steps=15", "learning_rate=5e-3", "griffin_lim_iters=4"]
HELDOUT = ["demo_003", "demo_007"]


@pytest.fixture(scope="module")
def trained(demo_recordings, tmp_path_factory):
    """Prepare and train through the scripts' main functions; the model has only begun to learn."""
    folder = tmp_path_factory.mktemp("end to end")
    data, logdir = folder / "features of mine", folder / "run of mine"
    (folder / "heldout.txt").write_text("\n".join(HELDOUT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepro, "workers", no_workers)
        assert prepro.main(["--source", str(demo_recordings / "rms"), "--target", str(demo_recordings / "slt"),
                            "--data", str(data), "--heldout", str(folder / "heldout.txt")]) == 0
    settings = [f"--set={value}" for value in SETTINGS]
    assert train.main(["--data", str(data), "--logdir", str(logdir), *settings]) == 0
    for name in ("mean_loss.png", "mean_loss1.png", "mean_loss2.png"):
        assert (logdir / name).stat().st_size > 1000
    assert {path.suffix for path in (logdir / "samples").rglob("step-*/*")} == {".wav", ".png"}
    hp = hyperparams.HyperParams.from_json(logdir / "hparams.json")
    let_graphs_go()
    return types.SimpleNamespace(data=data, logdir=logdir, hp=hp)


class Links(html.parser.HTMLParser):
    """Collects the links of a page."""

    def __init__(self, page: pathlib.Path):
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found += [urllib.parse.unquote(value) for name, value in attrs if name in ("src", "href")
                       and not value.startswith("#")]


def check_page(out: pathlib.Path, n_rows: int, kinds: int) -> None:
    """The page refers to `kinds` recordings and a picture for each of its rows, and all of them exist."""
    links = Links(out / "index.html").found
    assert len(links) == len(set(links)) == n_rows * (kinds + 1)
    for link in links:
        assert (out / link).stat().st_size > 100, link
    assert leftovers(out) == []


def read_wav(path: pathlib.Path) -> np.ndarray:
    """(samples,) of a 16-bit mono wav at 16 kHz that is neither clipped nor silent."""
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, 16000), path
    samples = soundfile.read(path, dtype="int16")[0]
    assert 100 < np.abs(samples.astype(int)).max() < 32767, path
    return samples / 32768.0


KINDS = " (of the (source|copy|target))$"


class Terminal(io.StringIO):
    """A standard error stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_evaluation_of_the_heldout_sentences(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert eval_script.main(["--data", str(trained.data), "--logdir", str(trained.logdir), "--source", "rms"]) == 0
    out, printed = trained.logdir / "results", capsys.readouterr().out
    check_page(out, len(HELDOUT), 3)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    summary, utterances = metrics["summary"], metrics["utterances"]
    check_summary(summary, utterances)
    for doing in ("recordings of the source", "recordings of the target", "retrieval", "drawing"):
        assert re.search(rf"{doing}: 100%.* (2/2|10/10) ", sys.stderr.getvalue())
    for name in HELDOUT:
        wavs = {kind: read_wav(out / "audio" / f"rms-{name}.{kind}.wav") for kind in ("source", "converted", "target")}
        # A hardly trained model advances through the source at about its pace
        assert len(wavs["converted"]) == pytest.approx(len(wavs["source"]), rel=0.2)
    assert "index.html" in printed and re.search("^ +converted +source +copy", printed, re.MULTILINE)
    for name in summary:
        assert "\n" + re.sub(KINDS, "", name) + "  " in f"\n{printed}", name


def check_summary(summary: dict, utterances: dict) -> None:
    """All kinds of audio were measured."""
    assert sorted(utterances) == [f"rms-{name}" for name in HELDOUT]
    for values in utterances.values():
        assert all(math.isfinite(value) for name, value in values.items() if "F0" not in name)  # speech may be unvoiced
        assert 0 <= values["duration difference s"] < 1.0
    assert summary["utterances"] == len(HELDOUT)
    assert 0 < summary["MCD dB of the copy"] < summary["MCD dB of the source"]
    assert any(re.fullmatch(r"content retrieval among \d+", name) for name in summary)


@pytest.fixture(scope="module")
def converter(trained):
    """The trained model, loaded once for all tests that are not about loading it."""
    return inference.load_converter(trained.logdir)


def test_unknown_source_is_refused(trained, capsys):
    assert eval_script.main(["--logdir", str(trained.logdir), "--source", "anna"]) == 1
    assert "no held-out sentence of source 'anna'; there are rms" in capsys.readouterr().err


@pytest.mark.usefixtures("eager_steps", "loaded_once")
def test_adversarial_training_starts_from_a_paired_run(trained, tmp_path, capsys, monkeypatch):
    """It uses networks, features and base of that run, and its samples get their own names."""
    monkeypatch.setattr(base, "solve", None)
    logdir = tmp_path / "gan"
    small = ["--set=dis_pretrain_steps=1", "--set=gan_steps=1", "--set=k=1"]
    assert train_gan.main(["--init-from", str(trained.logdir), "--logdir", str(logdir), *small]) == 0
    printed = capsys.readouterr()
    assert "accuracy_real" in printed.out + printed.err
    assert hyperparams.HyperParams.from_json(logdir / "hparams.json").width == trained.hp.width
    began_with = json.loads((logdir / "run.json").read_text())["initial_weights"]
    assert began_with == storage.content_hash(pathlib.Path(checkpoints.best_checkpoint(trained.logdir)))
    assert (logdir / "gan_loss.png").stat().st_size > 1000
    assert any((logdir / "samples").rglob("step-000002/*.wav"))
    assert eval_gan.main(["--logdir", str(logdir)]) == 0
    found = {path.name for path in (logdir / "results" / "audio").glob("*.wav")}
    assert found == {f"gan_{i}_{kind}.wav" for i in range(len(HELDOUT)) for kind in ("org", "act", "gen")}
    check_page(logdir / "results", len(HELDOUT), 3)
    recording = logdir / "results" / "audio" / "gan_0_org.wav"
    assert eval_gan.main([str(recording), "--logdir", str(logdir), "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "gan_0_org.wav").exists()


def test_stereo_recording_at_44_kHz_is_converted(trained, converter, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_script, "load_converter", lambda *_: converter)
    wav = demo_wav("rms", "demo_002", trained.hp)
    stereo = np.stack([0.4 * wav, 0.1 * wav], axis=1)
    path = write(tmp_path / "my recording #1.wav", soxr.resample(stereo, 16000, 44100), 44100)
    out = tmp_path / "out" / "deeper"
    assert eval_script.main([str(path), "--logdir", str(trained.logdir), "--out", str(out)]) == 0
    check_page(out, 1, 2)
    assert len(read_wav(out / "my recording #1.wav")) == pytest.approx(len(wav), rel=0.2)
    assert len(read_wav(out / "my recording #1.source.wav")) == pytest.approx(len(wav), rel=0.02)
    rows = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["utterances"]
    assert rows["my recording #1"]["converted s"] == pytest.approx(len(wav) / 16000, rel=0.2)


@pytest.fixture(scope="module")
def converted_folder(trained, converter, tmp_path_factory):
    """Convert a folder with a recording of 20 s with pauses, one in a subfolder, and files that are no recordings."""
    folder, hp = tmp_path_factory.mktemp("folder of recordings"), trained.hp
    parts = []
    for i in range(2, 8):
        parts += [demo_wav("rms", f"demo_{i:03d}", hp), np.zeros(round((0.4 + 0.1 * i) * 16000), np.float32)]
    long = np.concatenate(parts)
    assert 18 * 16000 < len(long) < 22 * 16000
    write(folder / "long.wav", long)
    shutil.copy(folder / "long.wav", folder / "notes.txt")
    write(folder / "more" / "long.flac", demo_wav("rms", "demo_008", hp))
    (folder / "broken.wav").write_bytes(b"RIFF, but not really")
    joined, errors, said = [], io.StringIO(), io.StringIO()
    with (pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors),
          contextlib.redirect_stdout(said)):
        patch.setattr(eval_script, "load_converter", lambda *_: converter)
        patch.setattr(inference, "join", lambda chunks, voices, *more: joined.append((chunks, voices))
                      or join(chunks, voices, *more))
        code = eval_script.main([str(folder), "--logdir", str(trained.logdir), "--out", str(folder / "out")])
    return types.SimpleNamespace(out=folder / "out", code=code, errors=errors.getvalue(), said=said.getvalue(),
                                 joined=joined, length=len(long))


def test_folder_is_converted_and_a_broken_file_is_reported(converted_folder):
    assert converted_folder.code == 1 and "broken.wav: is a text" in converted_folder.errors
    check_page(converted_folder.out, 2, 2)
    results = json.loads((converted_folder.out / "metrics.json").read_text(encoding="utf-8"))
    assert sorted(results["utterances"]) == ["long", "long_2"] and results["summary"]["refused"] == 1
    assert "long.flac (as long_2.wav): " in converted_folder.said and "long.wav: " in converted_folder.said


def test_long_recording_keeps_its_length_and_its_pauses(converted_folder):
    voice = read_wav(converted_folder.out / "long.wav")
    source = read_wav(converted_folder.out / "long.source.wav")
    assert len(voice) == pytest.approx(converted_folder.length, rel=0.15)
    assert len(voice) == pytest.approx(len(source), rel=0.15)
    chunks, voices = max(converted_folder.joined, key=lambda joined: len(joined[0]))
    assert len(chunks) >= 3 and max(len(chunk.wav) for chunk in chunks) <= CHUNK_SECONDS * 16000 + 400
    for before, after in zip(chunks, chunks[1:]):
        assert after.start - before.start - len(before.wav) > 0.2 * 16000  # cut at a pause
    assert sum(map(len, voices)) < len(voice)


def check_joints(wav: np.ndarray, chunks: list, voices: list[np.ndarray]) -> None:
    """No jump from sample to sample at a joint is larger than those inside the pieces."""
    jumps = np.abs(np.diff(wav, prepend=0.0, append=0.0))
    assert len(jumps) == len(wav) + 1
    at_joints, end = np.zeros(len(jumps), bool), 0
    for chunk, voice in zip(chunks, voices):
        start = max(chunk.start, end)
        end = start + len(voice)
        for edge in (start, end):
            at_joints[max(0, edge - 2):edge + 3] = True
    assert end <= len(wav) and at_joints.sum() >= 5 * len(chunks)
    assert jumps[at_joints].max() < 0.5 * jumps[~at_joints].max()


def test_joining_chunks_makes_no_clicks(converted_folder):
    check_joints(read_wav(converted_folder.out / "long.wav"), *max(
        converted_folder.joined, key=lambda joined: len(joined[0])))


def test_chunks_with_loud_ends_are_joined_without_clicks(trained):
    hp, rng = trained.hp, np.random.default_rng(1)
    voices = [0.5 + 0.1 * rng.normal(size=n).astype(np.float32) for n in (9000, 300, 12000)]
    chunks = [Chunk(np.zeros(n, np.float32), start) for n, start in ((8000, 100), (500, 8100), (9000, 8700))]
    wav = join(chunks, voices, hp)
    check_joints(wav, chunks, voices)
    assert len(wav) == 100 + 9000 + 300 + 12000 and len(join(chunks, voices, hp, 30000)) == 30000
    np.testing.assert_array_equal(wav[100 + 200:100 + 8800], voices[0][200:8800])  # the rest is unchanged


def test_recording_without_pauses_is_cut_at_its_quietest_point(trained):
    hp = trained.hp
    seconds = np.arange(20 * 16000) / 16000
    level = 0.3 - 0.25 * np.exp(-0.5 * ((seconds - 6.0) / 0.2) ** 2)  # a dip, but no silence, at 6 s
    noise = np.random.default_rng(2).normal(size=len(seconds))
    chunks = split_at_pauses((level * noise).astype(np.float32), hp)
    assert sum(len(chunk.wav) for chunk in chunks) == pytest.approx(len(seconds), abs=len(chunks) * 2 * hp.hop_length)
    assert max(len(chunk.wav) for chunk in chunks) <= CHUNK_SECONDS * 16000 + 2 * hp.hop_length
    assert chunks[1].start / 16000 == pytest.approx(6.0, abs=0.2)


def test_best_checkpoint_is_loaded_by_default(trained, monkeypatch):
    loaded = []
    monkeypatch.setattr(inference.checkpoints, "load_generator", lambda generator, prefix: loaded.append(prefix))
    monkeypatch.setattr(inference, "Generator", lambda hp: types.SimpleNamespace(convert=None, postnet=None, hp=hp))
    inference.load_converter(trained.logdir)
    newest = min((trained.logdir / "checkpoints").glob("step-*.npz"))
    inference.load_converter(trained.logdir, str(newest))
    assert pathlib.Path(loaded[0]).parent.name == "best" and loaded[1] == str(newest)


@pytest.mark.parametrize("arguments, message", [
    (["--logdir", "nowhere"], "nowhere is no run folder"),
    (["missing.wav", "--out", "out"], "missing.wav does not exist"),
    (["empty", "--out", "out"], "no recordings"),
    (["--data", "nowhere"], "run prepro.py"),
    (["--data", "other"], "hop_length"),
    (["--checkpoint", "nothing"], "nothing"),
])
def test_errors_are_messages_without_a_traceback(trained, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(trained.data, tmp_path / "other", ignore=shutil.ignore_patterns("*.npy"))
    settings = json.loads((tmp_path / "other" / "prepro.json").read_text())
    storage.write_json(tmp_path / "other" / "prepro.json", {**settings, "hop_length": 160})
    if not {"--logdir", "--checkpoint"} & set(arguments):  # these are about the model, the others need none
        monkeypatch.setattr(eval_script, "load_converter", lambda *_: types.SimpleNamespace(hp=trained.hp))
    if "--logdir" not in arguments:
        arguments = [*arguments, "--logdir", str(trained.logdir)]
    assert eval_script.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("eval.py: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
