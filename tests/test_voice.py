"""A voice from recordings of it alone: composed maps, the base of a new voice, and training from end to end."""
import dataclasses
import re
import shutil
import types

import numpy as np
import pytest
from test_base_file import cut
from test_prepro import IDS, prepare, record
from test_training import kept
from test_unpaired import HP, other_voice, speak

import data_load
import eval as eval_script
import prepro
import train
import train_gan
from backend import checkpoints
from common import storage
from conversion import base, voice
from corpus import linear_map
from training import trainer
from common.cli import UserError
from conftest import TINY, leftovers, no_workers, plain_base
from corpus.analysis import Features
from networks import Generator


@pytest.mark.parametrize("first, second", [(1, 1), (9, 9), (3, 1), (1, 5)])
def test_composed_map_equals_one_map_after_the_other(first, second):
    rng, mel = np.random.default_rng(0), np.random.default_rng(1).uniform(size=(40, 6)).astype(np.float32)
    maps = [(rng.normal(0.0, 0.2, (6 * frames, 6)), rng.normal(size=6)) for frames in (first, second)]
    kernel, bias = voice.compose(*maps[0], *maps[1])
    assert kernel.dtype == bias.dtype == np.float32 and len(kernel) == 6 * (first + second - 1)
    expected = mel
    for one, constant in maps:
        expected = linear_map.splice(expected, len(one) // 6 // 2) @ one + constant
    base_of_both = plain_base(HP.replace(n_mels=6))._replace(kernels=kernel[None], biases=bias[None])
    inside = slice(first + second, -first - second)  # beyond the ends each map repeats its own nearest frame
    np.testing.assert_allclose(base.apply(base_of_both, mel, np.ones(1))[inside], expected[inside], atol=1e-4)


class Alone:
    """A corpus of one speaker who says `mels`, an octave above the middle of the pitch range."""

    def __init__(self, mels: list[np.ndarray]):
        self.hp, self.data, self.mels = HP, "somewhere", mels
        self.train = [types.SimpleNamespace(number=i, target_seconds=len(mel) / HP.frames_per_second)
                      for i, mel in enumerate(mels)]

    def target_features(self, pair, kind):
        return {"mel": self.mels}[kind][pair.number]

    def hertz(self, pair):
        return HP.pitch_middle * 2.0 ** (1.0 + 0.2 * np.sin(np.arange(len(self.mels[pair.number]))))


@pytest.fixture(scope="module")
def pretrained() -> base.Base:
    return plain_base(HP, ("anna", "carl"))._replace(warps=np.array([1.0, 1.1]), pitch=np.array(
        [[-0.5, 0.1], [0.3, 0.1], [0.0, 0.3]]))


def test_pretrained_base_is_adapted_to_a_new_voice(pretrained, monkeypatch):
    monkeypatch.setattr(voice, "ENOUGH_SECONDS", 8.0)
    speech, (_, said) = speak(1)[1], speak(2)
    found = voice.fit(pretrained, speech, Alone([other_voice(mel) for mel in said]))
    for mel in speak(3, 2)[1]:  # a source says sentences that are in neither of the two corpora
        for share in np.eye(2):
            errors = [np.abs(mapped - other_voice(mel)).mean() for mapped in (mel, base.apply(found, mel, share))]
            assert errors[1] < 0.5 * errors[0]
    for name in ("speakers", "centres", "floors", "radii"):
        np.testing.assert_array_equal(getattr(found, name), getattr(pretrained, name))
    np.testing.assert_allclose(found.warps / pretrained.warps, 1.2, atol=0.06)
    np.testing.assert_array_equal(found.pitch[:2], pretrained.pitch[:2])
    np.testing.assert_allclose(found.pitch[2], [1.0, 0.2 / 2 ** 0.5], atol=0.01)
    own = base.modulation_power([other_voice(mel) for mel in said])
    np.testing.assert_allclose(found.target_modulation, own, rtol=1e-5)
    smooth = [base.smooth(base.apply(found, mel, np.eye(2)[0])) for mel in speech]
    detail = pretrained.modulation - base.modulation_power([base.smooth(mel) for mel in speech])
    assert detail.max() > 0.1  # the modulation of the sources' own detail is kept
    np.testing.assert_allclose(found.modulation, base.modulation_power(smooth) + np.maximum(detail, 0.0), rtol=0.05)


def test_too_little_speech_is_refused(pretrained):
    mels = speak(2, 1)[1]
    with pytest.raises(UserError, match=f"somewhere: {len(mels[0]) / 80:.0f} s of speech .*a minute at least"):
        voice.fit(pretrained, mels, Alone(mels))


def save_speech(folder, mels: list[np.ndarray]) -> list[np.ndarray]:
    """Save the output of an identity base for two sources who each say `mels`; returns what it must be."""
    floors = np.array([0.0, 0.35])
    found = plain_base(HP, ("anna", "carl"))._replace(floors=np.repeat(floors[:, None], HP.n_mels, axis=1))
    pairs = [types.SimpleNamespace(source=source, number=i) for source in ("anna", "carl") for i in range(len(mels))]
    voice.save_speech(types.SimpleNamespace(hp=HP, base=found, train=pairs, recording=lambda pair: (
        Features(None, mels[pair.number], np.full(len(mels[pair.number]), 150.0, np.float32)))), folder)
    return [np.maximum(mel, floor) for floor in floors for mel in mels]


def test_speech_is_stored_in_8_bits(tmp_path, monkeypatch):
    expected = save_speech(tmp_path, speak(1, 3)[1])
    found = voice.load_speech(tmp_path)
    assert sorted(map(len, found)) == sorted(map(len, expected)) and leftovers(tmp_path) == []
    for mel in found:
        assert mel.dtype == np.float32
        assert min(np.abs(mel - own).max() for own in expected if len(own) == len(mel)) < 0.51 / 255
    monkeypatch.setattr(voice, "SENTENCES", 3)
    save_speech(tmp_path, speak(1, 3)[1])
    assert len(voice.load_speech(tmp_path)) == 4  # two of each source


def test_error_for_missing_or_damaged_speech_says_what_to_do(tmp_path):
    save_speech(tmp_path, speak(1, 1)[1])
    path = tmp_path / voice.FILE
    whole, message = path.read_bytes(), f"{path} is missing or damaged .*: get it again .* git checkout"
    for place in range(100, len(whole) - 200, 101):  # damage that zlib, zip or NumPy notices
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1:])
        with pytest.raises(UserError, match=message):
            voice.load_speech(tmp_path)
    for spoil in (cut, lambda path: np.savez(path, mel=np.zeros((3, 80))), lambda path: path.unlink()):
        spoil(path)
        with pytest.raises(UserError, match=message):
            voice.load_speech(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Features of bert alone, in data/, and a pretrained model."""
    folder = tmp_path_factory.mktemp("voice")
    record(folder, "bert", IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepro, "workers", no_workers)
        prepare(folder, "--target", folder / "bert", source=None)
    storage.write_json(folder / "pretrained" / "hparams.json", dataclasses.asdict(TINY))
    base.save(plain_base(TINY, ("anna",)), folder / "pretrained")
    checkpoints.write_weights(folder / "pretrained" / checkpoints.WEIGHTS, Generator(TINY).weights)
    save_speech(folder / "pretrained", speak(1, 4)[1])
    return folder


@pytest.fixture
def alone(prepared, tmp_path, eager, monkeypatch):
    """A copy of `prepared` for training."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(voice, "ENOUGH_SECONDS", 2.0)
    return tmp_path


def training(folder, *flags) -> int:
    tiny = [f"--set={name}={value}" for name, value in dataclasses.asdict(TINY).items()
            if value != getattr(HP, name)]
    return train.main(["--data", str(folder / "data"), "--logdir", str(folder / "run"), *tiny, *flags])


def test_single_voice_trains_its_postnet_resumes_and_prints_how_to_convert(alone, capsys):
    assert training(alone, "--steps", "2", "--init-from", str(alone / "pretrained")) == 0 and kept(alone / "run") == [2]
    assert training(alone, "--preset", "default") == 0 and kept(alone / "run") == [2, 3]  # and no step of "mel"
    assert re.search(r"trained to its last step, 3\. To convert recordings: python eval.py FILE_OR_FOLDER --logdir",
                     capsys.readouterr().out)
    found = eval_script.load_converter(alone / "run")
    first = checkpoints.read_weights(alone / "pretrained" / checkpoints.WEIGHTS)
    changed = {variable.path.split("/")[0] for i, variable in enumerate(found.generator.weights)
               if not np.array_equal(np.float16(variable), np.float16(first[f"generator/{i}"]))}
    assert len(changed) == 1 and "post" in changed.pop()
    corpus = data_load.Corpus(alone / "data", TINY)
    expected = trainer.find_base(corpus)
    assert all(map(np.array_equal, found.base, expected)) and found.base.kernels.shape[1] == 17 * TINY.n_mels
    with pytest.raises(UserError, match=f"{alone / 'data'} holds the target alone: there are no conversions"):
        train_gan.GANTrainer(TINY, corpus)


def test_unusable_data_or_model_for_a_single_voice_is_reported(alone, capsys, monkeypatch):
    monkeypatch.setattr(voice, "ENOUGH_SECONDS", 60.0)
    assert training(alone) == 1 and f"{alone / 'data'}: " in capsys.readouterr().err
    storage.write_json(alone / "pretrained" / "hparams.json", dataclasses.asdict(TINY.replace(top_db=30.0)))
    assert training(alone) == 1
    assert "does not fit" in (told := capsys.readouterr().err) and "top_db (30.0 there, 25.0 asked for)" in told
    (alone / "pretrained" / voice.FILE).unlink()
    assert training(alone) == 1 and "git checkout" in capsys.readouterr().err
    assert not checkpoints.checkpoints_in(alone / "run" / "checkpoints")
