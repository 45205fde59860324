"""weights.npz, a small file without code that holds a generator in place of checkpoints, and export.py."""
import shutil

import data_load
import eval as eval_script
import prepro
from backend import checkpoints
from common.cli import UserError
from conftest import TINY, leftovers, no_workers, plain_base, untrained_run, words, write
from conversion import base, export, voice
from conversion.inference import Converter
from networks import Generator
from training import run_folder

import numpy as np
import pytest
from test_base_file import cut, flipped
from test_networks import make_generator, randomise
from test_prepro import IDS, prepare, record


@pytest.fixture(scope="module")
def generator() -> Generator:
    return randomise(make_generator(TINY))


@pytest.fixture
def path(generator, tmp_path):
    checkpoints.write(tmp_path / "some" / checkpoints.WEIGHTS, {"generator": generator.weights}, in_8_bits=True)
    return tmp_path / "some" / checkpoints.WEIGHTS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with features of two speakers in data/, of one speaker in alone/, and an untrained run on data/."""
    folder = tmp_path_factory.mktemp("exported")
    for speaker in ("anna", "bert"):
        record(folder, speaker, IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepro, "workers", no_workers)
        prepare(folder)
        prepare(folder, "--target", folder / "bert", source=None, data="alone")
    untrained_run(folder / "run")
    base.save(plain_base(TINY), folder / "run")
    return folder


def values(generator: Generator) -> list[np.ndarray]:
    return [np.array(variable) for variable in generator.weights]


def assert_near(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Check that each output of a matrix is kept in 255 steps and that vectors are kept exactly."""
    assert any(array.ndim > 1 for array in expected) and any(array.ndim == 1 for array in expected)
    for array, own in zip(found, expected, strict=True):
        step = np.abs(own).max(axis=tuple(range(own.ndim - 1))) / 127.0 if own.ndim > 1 else 0.0
        assert array.shape == own.shape and (np.abs(array - own) <= 0.501 * step).all()


def test_weights_are_read_without_pickle_and_take_a_quarter_of_the_size(generator, path):
    own = values(generator)
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[f"generator/{i}"].dtype == (np.int8 if array.ndim > 1 else np.float32)
                   for i, array in enumerate(own))
    found = checkpoints.read(path)
    assert sorted(found) == sorted(f"generator/{i}" for i in range(len(own)))
    assert all(array.dtype == np.float32 for array in found.values())
    assert_near([found[f"generator/{i}"] for i in range(len(own))], own)
    assert leftovers(path.parent) == []
    array = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
    checkpoints.write(path, {"generator": [array, np.zeros((3, 2))]}, in_8_bits=True)
    assert path.stat().st_size < 0.26 * 4 * 400 * 300 and not checkpoints.read(path)["generator/1"].any()


def test_stored_weights_hardly_change_a_conversion(generator, path, run):
    corpus = data_load.Corpus(run / "data", TINY)
    recording, again = corpus.recording(corpus.train[0]), Generator(TINY)
    converter = Converter(again, plain_base())

    def linear():
        return converter([recording], [converter.find_voice(recording)])[0].linear
    before = linear()
    checkpoints.load_generator(again, checkpoints.best_checkpoint(path.parent))
    after = linear()
    assert_near(values(again), values(generator))
    again.set_weights(values(generator))
    exact = linear()
    assert len(after) == pytest.approx(len(exact), rel=0.05)
    n = min(map(len, (before, after, exact)))
    errors = [np.abs(linear[:n] - exact[:n]).mean() for linear in (before, after)]
    assert errors[1] < 0.25 * errors[0] and errors[1] < 0.04, errors


def encrypted(path):
    """Set the bit that marks the file as encrypted, for which Python raises an error of its own."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b""), cut, flipped,
                                   encrypted, lambda path: np.savez(path, **{"generator/0": np.array({}, object)})])
def test_error_for_damaged_weights_says_what_to_do_and_nothing_is_loaded(path, spoil):
    spoil(path)
    again = Generator(TINY)
    before = values(again)
    with pytest.raises(UserError, match=f"{path} is missing or damaged .*git checkout"):
        checkpoints.read(path)
    with pytest.raises(UserError, match=f"{path} is missing or damaged .*: get it again from its source"):
        checkpoints.load_generator(again, str(path))
    assert all(np.array_equal(*pair) for pair in zip(before, values(again)))


def test_weights_of_another_network_are_refused(path, tmp_path):
    other = untrained_run(tmp_path / "other", TINY.replace(width=8))
    shutil.copy(other / "hparams.json", path.parent)
    again = Generator(TINY)
    with pytest.raises(UserError, match=f"{path} does not fit this .* width \\(8 there, 16 asked for\\)"):
        checkpoints.write(path, {"generator": Generator(TINY.replace(width=8)).weights})
        checkpoints.load_generator(again, str(path))
    checkpoints.write(path, {"generator": again.weights[1:]})
    with pytest.raises(UserError, match=f"{len(again.weights) - 1} arrays of generator in the file"):
        checkpoints.load_generator(again, str(path))


def exported(folder, out: str, data: str = "data") -> int:
    run_folder.write_run_info(folder / "run", "train.py", folder / data, 6)
    return export.main(["--logdir", str(folder / "run"), "--out", str(folder / out)])


def test_exported_folder_can_convert_and_holds_speech_for_new_voices(run, capsys):
    assert exported(run, "out") == 0 and "out: 0." in capsys.readouterr().out
    assert {path.name for path in (run / "out").iterdir()} == {".lock", base.FILE, checkpoints.WEIGHTS, voice.FILE,
                                                               "hparams.json"}
    found, expected = eval_script.load_converter(run / "out"), eval_script.load_converter(run / "run")
    assert_near(values(found.generator), values(expected.generator))
    assert found.hp == expected.hp and all(map(np.array_equal, found.base, expected.base))
    corpus = data_load.Corpus(run / "data", TINY)
    corpus.use_base(expected.base)
    spoken = [expected.predict([corpus.recording(pair)], [corpus.voice(pair)])[0].mel for pair in corpus.train]
    speech = voice.load_speech(run / "out")
    assert sorted(map(len, speech)) == sorted(map(len, spoken)) and len(speech) == 3
    for mel in speech:
        assert min(np.abs(mel - own).max() for own in spoken if len(own) == len(mel)) < 0.6 / 255 + 1e-3


def test_single_voice_is_exported_without_speech_and_cannot_be_exported_again(run, capsys):
    assert exported(run, "other") == 0 and exported(run, "other", "alone") == 1  # it would keep the other one's speech
    assert "other holds an exported model already" in capsys.readouterr().err
    assert exported(run, "voice", "alone") == 0 and not (run / "voice" / voice.FILE).exists()
    assert eval_script.load_converter(run / "voice").hp == TINY
    assert export.main(["--logdir", str(run / "voice"), "--out", str(run / "again")]) == 1
    assert "does not say what it was trained on" in capsys.readouterr().err and not (run / "again").exists()


def test_no_model_is_exported_into_a_run_folder(run, capsys):
    (run / "another" / "checkpoints").mkdir(parents=True)
    for out in ("run", "another"):
        assert exported(run, out) == 1 and not (run / out / checkpoints.WEIGHTS).exists()
        assert f"{out} is a run folder, where the weights would be read instead" in capsys.readouterr().err


def test_pretrained_model_converts_recordings_by_default(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run / "run", run / "slt")
    monkeypatch.setattr(checkpoints, "PRETRAINED", run / "slt")
    recording = write(tmp_path / "a.wav", words(1))
    assert eval_script.main([str(recording), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a.wav").stat().st_size > 10_000
    assert f"the model is that of {run / 'slt'}" in capsys.readouterr().out
    for flags in (["a.wav", "--out", "x", "--data", "d"], ["--data", "d"], []):
        assert eval_script.parse_arguments(flags).logdir != checkpoints.PRETRAINED
    assert eval_script.parse_arguments(["a.wav", "--out", "x", "--logdir", "mine"]).logdir.name == "mine"
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "slt")
    with pytest.raises(UserError, match=f"git checkout {tmp_path / 'slt'} brings it back"):
        checkpoints.best_checkpoint(tmp_path / "slt")
