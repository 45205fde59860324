"""Bad input to the real command lines: messages say what is wrong, in which file and what to do; no data is damaged.

A bad recording among good ones is named and skipped; a command that cannot work at all ends with 1 and leaves no files.
"""
import pathlib
import re
import shutil

import eval as eval_script
import eval_gan
import prepro
import train
from backend import checkpoints
from conftest import leftovers, untrained_run, words, write
from corpus import manifest
from training.run_folder import write_run_info

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.usefixtures("serial")
ROOT = pathlib.Path(prepro.__file__).resolve().parent
IDS = ["a", "b", "c", "d"]


def text(path):
    path.write_text("not a recording\n" * 100)


def zero_length(path):
    path.write_bytes(b"")


def no_samples(path):
    write(path, np.zeros(0, np.float32))


def uncounted(path):
    write(path, words(9))
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(4) + content[8:40] + bytes(4) + content[44:])


def silent(path):
    write(path, np.zeros(24000, np.float32))


def offset_only(path):
    write(path, np.full(24000, 0.3, np.float32))


def truncated(path):
    write(path, words(9, seconds=2.0))
    path.write_bytes(path.read_bytes()[:30001])


def not_a_number(path):
    wav = words(9)
    wav[5000] = np.nan
    write(path, wav, subtype="FLOAT")


def infinite(path):
    wav = words(9)
    wav[5000] = np.inf
    write(path, wav, subtype="FLOAT")


def no_wave(path):
    path.write_bytes(b"RIFF" + bytes(range(256)))


BAD = [(text, "is a text", "get the recording itself"), (no_wave, "cannot be read as audio", "convert it"),
       (zero_length, "is empty", "copy or record it again"),
       (no_samples, "holds no samples", "record it again"), (uncounted, "counts no samples", "ffmpeg -ignore_length 1"),
       (silent, "is silent", "check the recording level"),
       (offset_only, "is silent", "check the recording level"),
       (truncated, "is cut off, 34043 bytes", "copy or record it again"),
       (not_a_number, "samples that are not numbers", "export it again"),
       (infinite, "samples that are not numbers", "export it again")]


def stereo_44100(path, wav):
    write(path, np.stack([wav, 0.5 * wav], axis=1), 44100)


def bits_8(path, wav):
    write(path, wav, 44100, subtype="PCM_U8")


def flac_called_wav(path, wav):
    soundfile.write(path, wav, 44100, format="FLAC")


def piped(path, wav):
    """Write as a program that does not know the length: the header states the largest possible one."""
    write(path, wav, 44100)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at:at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


GOOD = [stereo_44100, bits_8, flac_called_wav, piped]


@pytest.fixture
def speakers(tmp_path):
    """Four sentences by each of two speakers."""
    for number, utterance in enumerate(IDS):
        for speaker, pitch in (("anna", 180.0), ("bert", 110.0)):
            write(tmp_path / speaker / f"{utterance}.wav", words(number, seconds=1.2, pitch=pitch))
    return tmp_path


def run(capsys, main, *arguments) -> tuple[int, str, str]:
    """Run a command line; returns its exit status and what it printed to stdout and stderr."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return status, printed.out, printed.err


def preparation(capsys, folder, *more):
    return run(capsys, prepro.main, "--source", folder / "anna", "--target", folder / "bert", "--data", folder / "data",
               *more)


@pytest.mark.parametrize("speaker", ["anna", "bert"])
def test_prepro_names_bad_recordings_and_skips_them(speakers, capsys, speaker):
    for number, (make, _, _) in enumerate(BAD):
        for name, pitch in (("anna", 180.0), ("bert", 110.0)):
            write(speakers / name / f"{make.__name__}.wav", words(20 + number, seconds=1.2, pitch=pitch))
        make(speakers / speaker / f"{make.__name__}.wav")
    status, _, warned = preparation(capsys, speakers)
    assert status == 0
    pairs = {pair.name: pair for pair in manifest.read_manifest(speakers / "data")}
    assert {name for name, pair in pairs.items() if not pair.reason} == set(IDS)
    for make, reason, cure in BAD:
        path = str(speakers / speaker / f"{make.__name__}.wav")
        line = next(line for line in warned.splitlines() if line.startswith(f"dropped anna/{make.__name__}: "))
        assert all(part in line and part in pairs[make.__name__].reason for part in (path, reason, cure))
        assert not list((speakers / "data" / "features" / speaker).glob(f"{make.__name__}.*"))
    assert leftovers(speakers) == []


def test_prepro_accepts_common_audio_formats(speakers, capsys):
    for number, make in enumerate(GOOD):
        make(speakers / "anna" / f"{make.__name__}.wav", words(10 + number, 44100, seconds=1.2, pitch=180.0))
        write(speakers / "bert" / f"{make.__name__}.wav", words(10 + number, seconds=1.2, pitch=110.0))
    assert preparation(capsys, speakers)[0] == 0
    pairs = {pair.name: pair for pair in manifest.read_manifest(speakers / "data")}
    for make in GOOD:
        pair = pairs[make.__name__]
        assert not pair.reason and pair.source_seconds == pytest.approx(1.2, abs=0.03)
        assert pair.dtw_cost < 2.5 * max(pairs[name].dtw_cost for name in IDS)  # other words cost six times as much


def test_prepro_gives_the_reasons_when_all_recordings_are_bad(speakers, capsys):
    for utterance in IDS:
        silent(speakers / "bert" / f"{utterance}.wav")
    status, _, error = preparation(capsys, speakers)
    assert status == 1 and "prepro.py: no pair is left to train on" in error
    assert f"{speakers / 'bert' / 'a.wav'}: is silent" in error
    assert leftovers(speakers) == [] and not (speakers / "data" / "manifest.csv").exists()


def test_prepro_reports_that_names_without_a_match_form_no_pairs(speakers, capsys):
    for utterance in IDS:
        (speakers / "bert" / f"{utterance}.wav").rename(speakers / "bert" / f"bert_{utterance}.wav")
    status, printed, _ = preparation(capsys, speakers)
    assert status == 0 and "anna and bert: no pairs of sentences" in printed


@pytest.mark.parametrize("arguments, status, message", [
    (["--source", "empty", "--target", "bert", "--data", "data"], 1, "empty holds no recordings (.wav, "),
    (["--source", "anna", "--target", "texts", "--data", "data"], 1, "texts holds no recordings (.wav, "),
    (["--source", "nowhere", "--target", "bert", "--data", "data"], 1, "nowhere is not a folder; give the folder"),
    (["--source", "anna/a.wav", "--target", "bert", "--data", "data"], 1, "a.wav is not a folder"),
    (["--source", "anna", "--target", "anna", "--data", "data"], 1, "the same folder is given twice"),
    (["--source", "anna", "--data", "data"], 2, "--source needs --target, the speaker whose voice"),
    (["--target", "bert"], 2, "--data OUT says where"),
    (["--target", "bert", "--pairs", "pairs.csv", "--data", "data"], 2, "choose one of"),
    (["--source", "anna", "--target", "bert"], 2, "--data OUT says where"),
    (["--source", "anna", "--target", "bert", "--data", "data", "--set", "hop_lenght=3"], 1,
     "no hyperparameter 'hop_lenght'; the closest is 'hop_length'"),
    (["--source", "anna", "--target", "bert", "--data", "data", "--set", "pitch_max=9000"], 1,
     "pitch_max=9000.0: must lie between 100 and 2000"),
    (["--source", "anna", "--target", "bert", "--data", "data", "--set", "n_fft=900", "--set", "sample_rate=48000",
      "--set", "pitch_min=50"], 1, "must lie between 53.4 Hz, whose period fits into n_fft=900, and 24000 Hz"),
    (["--source", "anna", "--target", "bert", "--data", "data", "--set", "n_mels=many"], 1,
     "n_mels is of type int, 'many' is not"),
    (["--source", "anna", "--target", "bert", "--data", "data", "--heldout", "nowhere.txt"], 1,
     "nowhere.txt cannot be read (No such file or directory)"),
    (["--source", "anna", "--target", "bert", "--data", "data", "--heldout", "anna/a.wav"], 1,
     "a.wav is no text in UTF-8"),
    (["--pairs", "nowhere.csv", "--data", "data"], 1, "nowhere.csv cannot be read (No such file or directory)"),
    (["--pairs", "nowhere.csv", "--source", "anna", "--target", "bert", "--data", "data"], 2, "choose one of"),
    (["--source", "anna", "--target", "bert", "--data", "anna/a.wav"], 1, "a.wav")])
def test_prepro_refuses_bad_arguments_and_writes_nothing(speakers, capsys, monkeypatch, arguments, status, message):
    (speakers / "empty").mkdir()
    (speakers / "texts").mkdir()
    (speakers / "texts" / "a.txt").write_text("a")
    monkeypatch.chdir(speakers)
    before = sorted(speakers.rglob("*"))
    result, _, error = run(capsys, prepro.main, *arguments)
    assert result == status and message in error and "prepro.py: " in error or status == 2 and message in error
    assert sorted(speakers.rglob("*")) == before


@pytest.mark.parametrize("arguments, status, message", [
    (["--set", "widht=3"], 1, "no hyperparameter 'widht'; the closest is 'width'"),
    (["--set", "width=33"], 1, "width=33: must be even"), (["--preset", "papre"], 2, "invalid choice: 'papre'")])
def test_train_refuses_bad_hyperparameters_and_writes_nothing(tmp_path, demo_data, capsys, arguments, status, message):
    result, _, error = run(capsys, train.main, "--data", demo_data, "--logdir", tmp_path / "run", "--steps", 1,
                           *arguments)
    assert result == status and message in error
    assert not (tmp_path / "run").exists()


def test_train_names_features_that_are_missing_or_have_other_signal_settings(tmp_path, demo_data, capsys):
    status, _, error = run(capsys, train.main, "--data", tmp_path / "nowhere", "--logdir", tmp_path / "run",
                           "--steps", 1)
    assert status == 1 and f"{tmp_path / 'nowhere' / 'manifest.csv'} does not exist: run prepro.py" in error
    assert not (tmp_path / "run" / "hparams.json").exists()  # this file would block the next start
    status, _, error = run(capsys, train.main, "--data", demo_data, "--logdir", tmp_path / "other", "--set",
                           "hop_length=160", "--steps", 1)
    assert status == 1 and "prepared with hop_length=200, not 160" in error and "run prepro.py again" in error


@pytest.fixture
def recordings(tmp_path):
    write(tmp_path / "in" / "good.wav", words(3, seconds=1.2))
    return tmp_path / "in"


def test_eval_names_bad_recordings_and_converts_the_good_ones(recordings, run_folder, tmp_path, capsys):
    for make, _, _ in BAD:
        make(recordings / f"{make.__name__}.wav")
    for make in GOOD:
        make(recordings / f"{make.__name__}.wav", words(4, 44100))
    (recordings / ".hidden.wav").write_bytes(b"left by a file manager")
    (recordings / "folder.wav").mkdir()
    (recordings / "notes.txt").write_text("left out")
    status, printed, error = run(capsys, eval_script.main, recordings, "--out", tmp_path / "out", "--logdir",
                                 run_folder)
    assert status == 1
    refused = [line for line in error.splitlines() if line.startswith("refused")]
    assert len(refused) == len(BAD)
    for make, reason, cure in BAD:
        path = str(recordings / f"{make.__name__}.wav")
        assert any(all(part in line for part in (path, reason, cure)) for line in refused)
    good = ["good", *(make.__name__ for make in GOOD)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lock", "conversions.json", "index.html", "metrics.json",
        *(f"{name}{end}" for name in good for end in (".wav", ".source.wav", ".png"))}
    for name in good:
        assert soundfile.info(tmp_path / "out" / f"{name}.wav").duration > 0.3
    assert str(tmp_path / "out" / "index.html") in printed


@pytest.mark.usefixtures("loaded")
def test_eval_counts_what_this_command_did_apart_from_earlier_ones(recordings, run_folder, tmp_path, capsys):
    def counted(what) -> dict[str, str]:
        _, printed, _ = run(capsys, eval_script.main, what, "--out", tmp_path / "out", "--logdir", run_folder)
        return {key: line.split()[-1] for line in printed.splitlines() for key in (
            "converted now", "skipped", "refused", "of earlier commands") if line.startswith(key)}
    assert counted(recordings) == {"converted now": "1"}
    write(recordings / "better.wav", words(4))
    silent(recordings / "silent.wav")
    assert counted(recordings) == {"converted now": "1", "skipped": "1", "refused": "1"}
    assert counted(recordings / "silent.wav") == {"converted now": "0", "refused": "1", "of earlier commands": "2"}


@pytest.mark.usefixtures("loaded")
def test_eval_tells_the_pitch_before_and_after(recordings, run_folder, tmp_path, capsys):
    _, printed, _ = run(capsys, eval_script.main, recordings, "--out", tmp_path / "out", "--logdir", run_folder)
    assert re.search(r"good.wav: \d\.\d s of speech, pitch 1\d\d Hz, becomes (\d+ Hz|none)\n", printed)


def test_eval_looks_for_recordings_before_it_loads_the_model(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(eval_script, "load_converter", None)
    status, _, error = run(capsys, eval_script.main, "--logdir", run_folder, tmp_path / "nowhere.wav")
    assert status == 1 and "nowhere.wav does not exist" in error


@pytest.mark.usefixtures("loaded")
def test_eval_converts_recordings_shorter_than_a_window(tmp_path, run_folder, capsys):
    """A segment between two pauses can be as short; the exit status is 0 when no recording is refused."""
    for samples in (10, 300, 900):
        write(tmp_path / "in" / f"{samples}.wav", words(3)[:samples], subtype="FLOAT")
    status, _, error = run(capsys, eval_script.main, tmp_path / "in", "--out", tmp_path / "out", "--logdir", run_folder)
    assert status == 0 and "refused" not in error and leftovers(tmp_path) == []


@pytest.mark.usefixtures("loaded")
def test_eval_warns_of_a_recording_without_voice(tmp_path, run_folder, capsys):
    """Its conversion is a whisper; a recording that is half noise is converted without a warning."""
    whisper = 0.1 * np.random.default_rng(0).normal(size=16000)
    write(tmp_path / "whisper.wav", whisper), write(tmp_path / "spoken.wav", np.append(whisper, words(3)))
    status, _, error = run(capsys, eval_script.main, tmp_path / "whisper.wav", tmp_path / "spoken.wav", "--out",
                           tmp_path / "out", "--logdir", run_folder)
    assert status == 0 and "whisper.wav: 0 % of it are voiced, so the conversion is a whisper" in error
    assert error.count("of it are voiced") == 1


@pytest.mark.usefixtures("loaded")
def test_eval_of_only_bad_recordings_writes_nothing(tmp_path, run_folder, capsys):
    silent(tmp_path / "silent.wav")
    (tmp_path / "headerless.raw").write_bytes(bytes(1000))
    status, _, error = run(capsys, eval_script.main, tmp_path / "silent.wav", tmp_path / "headerless.raw", "--out",
                           tmp_path / "out", "--logdir", run_folder)
    assert status == 1 and "silent.wav: is silent" in error and "headerless.raw: cannot be read as audio" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock"}


@pytest.mark.parametrize("what, message", [
    ("in/nowhere.wav", "nowhere.wav does not exist; give a recording or a folder"), ("empty", "no recordings (.wav, ")])
@pytest.mark.usefixtures("loaded")
def test_eval_without_recordings_is_refused(recordings, run_folder, tmp_path, capsys, what, message):
    (tmp_path / "empty").mkdir()
    status, _, error = run(capsys, eval_script.main, tmp_path / what, "--out", tmp_path / "out", "--logdir", run_folder)
    assert status == 1 and error.startswith("eval.py: ") and message in error and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("loaded")
def test_recordings_are_converted_into_out_unless_another_folder_is_named(recordings, run_folder, monkeypatch, capsys):
    monkeypatch.chdir(recordings.parent)
    status, printed, _ = run(capsys, eval_script.main, recordings, "--logdir", run_folder)
    assert status == 0 and f"open {recordings.parent / 'out' / 'index.html'}" in printed
    assert soundfile.info(recordings.parent / "out" / "good.wav").duration > 0.3


def test_eval_without_a_run_says_which_command_makes_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(eval_script, "HERE", tmp_path)
    for main, arguments, named in ((eval_script.main, [], "demo holds no trained model: python train.py makes one"),
                                   (eval_gan.main, [], "demo-gan holds no trained model: python train_gan.py makes"),
                                   (eval_gan.main, ["--data", "d"], "paired-gan holds no trained model: python "
                                                                    "train_gan.py --data d makes one")):
        status, _, error = run(capsys, main, *arguments)
        assert status == 1 and named in error and "--logdir" in error


@pytest.mark.usefixtures("loaded")
def test_eval_gan_says_whether_adversarial_training_shaped_the_model(recordings, run_folder, tmp_path, monkeypatch,
                                                                     capsys):
    monkeypatch.setattr(eval_script, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    args = eval_gan.parse_arguments([str(recordings)])
    assert (args.logdir, args.out) == (checkpoints.PRETRAINED, pathlib.Path("out"))
    _, printed, _ = run(capsys, eval_gan.main, recordings)
    assert "shaped the model" not in printed and (tmp_path / "out/good.wav").exists()
    logdir = shutil.copytree(run_folder, tmp_path / "run")
    for script, told in (("train.py", "has not shaped"), ("train_gan.py", "has shaped")):
        write_run_info(logdir, script, tmp_path, 0)
        _, printed, _ = run(capsys, eval_gan.main, recordings, "--logdir", logdir)
        assert f"{told} the model of {logdir}" in printed


def no_folder(folder):
    shutil.rmtree(folder)
    return "hparams.json does not exist", "train first, or give --logdir"


def no_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints")
    return "holds no checkpoint", "train first"


def damaged_hyperparameters(folder):
    (folder / "hparams.json").write_text("{")
    return "hparams.json is damaged", "restore it"


def other_widths(folder):
    text = (folder / "hparams.json").read_text()
    (folder / "hparams.json").write_text(text.replace('"width": 16', '"width": 24'))
    return "best-1.npz does not fit this network", "hparams.json and the code it was trained with"


def fewer_layers(folder):
    text = (folder / "hparams.json").read_text()
    (folder / "hparams.json").write_text(text.replace('"encoder_banks": 2', '"encoder_banks": 1'))
    return "best-1.npz does not fit this network", "hparams.json and the code it was trained with"


def cut_checkpoint(folder):
    path = folder / "checkpoints" / "best" / "best-1.npz"
    path.write_bytes(path.read_bytes()[:1000])
    return "best-1.npz is missing or damaged", "--checkpoint"


@pytest.mark.parametrize("spoil", [
    no_folder, no_checkpoint, damaged_hyperparameters, other_widths, fewer_layers, cut_checkpoint])
def test_eval_names_the_cause_when_a_run_cannot_be_loaded(recordings, run_folder, tmp_path, capsys, spoil):
    folder = tmp_path / "spoiled"
    shutil.copytree(run_folder, folder)
    message, cure = spoil(folder)
    before = sorted(tmp_path.rglob("*"))
    status, _, error = run(capsys, eval_script.main, recordings, "--out", tmp_path / "out", "--logdir", folder)
    assert status == 1 and error.startswith("eval.py: ") and message in error and cure in error
    assert str(folder) in error and sorted(tmp_path.rglob("*")) == before


def test_eval_refuses_to_change_hyperparameters_of_training(recordings, run_folder, tmp_path, capsys):
    status, _, error = run(capsys, eval_script.main, recordings, "--out", tmp_path / "out", "--logdir", run_folder,
                           "--set", "postfilter=1.1", "--set", "sigma=2")
    assert status == 1 and "--set sigma (1.5 there, 2.0 asked for): the model was trained with it" in error
    assert "griffin_lim_iters, correction, pace, detail, postfilter, texture, power" in error
    assert not (tmp_path / "out").exists()
    assert eval_script.load_converter(run_folder, None, ["postfilter=1.1", "power=1.2"]).hp.postfilter == 1.1


@pytest.mark.usefixtures("loaded")
def test_eval_warns_of_an_unfinished_run(tmp_path, capsys):
    untrained_run(tmp_path / "run")
    for step, n_warnings in ((3, 1), (9, 0)):
        write_run_info(tmp_path / "run", "train.py", tmp_path, 9)
        (tmp_path / "run" / "checkpoints" / f"step-{step}.npz").touch()
        write(tmp_path / "in.wav", words(1))
        status, _, error = run(capsys, eval_script.main, tmp_path / "in.wav", "--out", tmp_path / "out", "--logdir",
                               tmp_path / "run")
        assert status == 0 and error.count("is trained to step 3 of 9 only") == n_warnings


def test_eval_warns_of_a_corpus_changed_since_training(demo_data, run_folder, tmp_path, monkeypatch, capsys):
    """The model may have been trained on sentences that are held out now."""
    shutil.copytree(run_folder, tmp_path / "run"), shutil.copytree(demo_data, tmp_path / "data")
    write_run_info(tmp_path / "run", "train.py", tmp_path / "data", 0)
    monkeypatch.setattr(eval_script.heldout, "evaluate", lambda *_: None)
    for warned in (False, True):
        assert eval_script.main(["--logdir", str(tmp_path / "run")]) == 0
        assert ("may have been trained on sentences that are held out now" in capsys.readouterr().err) == warned
        table = (tmp_path / "data" / "manifest.csv").read_text(encoding="utf-8")
        (tmp_path / "data" / "manifest.csv").write_text(table.replace(",test,", ",train,"), encoding="utf-8")


@pytest.mark.usefixtures("loaded")
def test_results_of_earlier_commands_are_no_recordings(recordings, run_folder, tmp_path, capsys):
    """Conversions in a folder within the folder of recordings were converted, too, by the next command."""
    flags = ["--logdir", run_folder, "--out"]
    assert run(capsys, eval_script.main, recordings, *flags, recordings / "results")[0] == 0
    write(recordings / "results" / "mine.wav", words(5, seconds=1.2))
    assert run(capsys, eval_script.main, recordings, *flags, tmp_path / "other")[0] == 0
    assert sorted(path.name for path in (tmp_path / "other").glob("*.source.wav")) == [
        "good.source.wav", "mine.source.wav"]
    assert run(capsys, eval_script.main, recordings / "results" / "good.wav", *flags, tmp_path / "again")[0] == 0


def test_eval_of_a_missing_checkpoint_is_refused(recordings, run_folder, tmp_path, capsys):
    status, _, error = run(capsys, eval_script.main, recordings, "--out", tmp_path / "out", "--logdir", run_folder,
                           "--checkpoint", run_folder / "checkpoints" / "step-7")
    assert status == 1 and "step-7" in error and not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_run_is_refused(recordings, run_folder, tmp_path, capsys):
    """Its networks were combined with the base of this run, and measured."""
    shutil.copytree(run_folder, tmp_path / "other")
    for checkpoint, expected in ((tmp_path / "other" / "checkpoints" / "best" / "best-1.npz", 1),
                                 (run_folder / "checkpoints" / "best" / "best-1.npz", 0)):
        status, _, error = run(capsys, eval_script.main, recordings, "--out", tmp_path / "out", "--logdir", run_folder,
                               "--checkpoint", checkpoint)
        assert status == expected and ("name the run that it is of as --logdir" in error) == bool(expected)


@pytest.mark.usefixtures("loaded")
def test_eval_of_an_unprepared_corpus_is_refused(run_folder, tmp_path, capsys):
    status, _, error = run(capsys, eval_script.main, "--data", tmp_path, "--out", tmp_path / "out", "--logdir",
                           run_folder)
    assert status == 1 and "manifest.csv does not exist: run prepro.py" in error and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("loaded")
def test_heldout_sentences_are_not_guessed(run_folder, tmp_path, capsys):
    """An exported model, or a run without run.json, was measured on the demo's voices of the same name."""
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink(missing_ok=True)
    assert eval_script.main(["--logdir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
    assert "does not say what it was trained on" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_eval_never_overwrites_a_recording(run_folder, tmp_path, capsys):
    path = write(tmp_path / "new.wav", words(1))
    before = path.read_bytes()
    assert eval_script.main([str(path), "--logdir", str(run_folder), "--out", str(tmp_path)]) == 1
    assert "would be overwritten" in capsys.readouterr().err and path.read_bytes() == before
