"""A voice from recordings of it alone: the base of a new voice, and training from end to end."""
import dataclasses
import re
import shutil
import types

import data_load
import eval as eval_script
import prepro
import train
import train_gan
from backend import checkpoints
from common import storage
from common.cli import UserError
from conftest import TINY, leftovers, no_workers, plain_base, words, write
from conversion import base, voice
from corpus import linear_map
from corpus.analysis import Features
from networks import Generator
from training import run_folder, trainer

import numpy as np
import pytest
from test_base_file import cut
from test_prepro import IDS, prepare, record
from test_training import kept
from test_unpaired import HP, other_voice, speak


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
    return plain_base(HP)._replace(octaves=np.array([0.1, 0.0, 0.3]))


def test_pretrained_base_is_followed_by_a_map_to_the_new_voice(pretrained, monkeypatch):
    monkeypatch.setattr(voice, "ENOUGH_SECONDS", 8.0)
    speech, (_, said) = speak(1)[1], speak(2)
    found = voice.fit(pretrained, speech, Alone([other_voice(mel) for mel in said]))
    for mel in speak(3, 2)[1]:  # a source says sentences that are in neither of the two corpora
        errors = [np.abs(heard - other_voice(mel)).mean()
                  for heard in (mel, base.apply(found.onward_kernel, found.onward_bias, mel))]
        assert errors[1] < 0.5 * errors[0]
    for name in set(base.Base._fields) - {"onward_kernel", "onward_bias", "octaves", "modulation"}:
        np.testing.assert_array_equal(getattr(found, name), getattr(pretrained, name))
    np.testing.assert_allclose(found.octaves, [0.1, 1.0, 0.2 / 2 ** 0.5], atol=0.01)
    np.testing.assert_allclose(found.modulation, base.modulation_power([other_voice(mel) for mel in said]), rtol=1e-5)


class Pairs(Alone):
    """Pairs of sources that say `mels` and a target who says the same in another voice, at two thirds of the pace."""

    def __init__(self, mels: list[np.ndarray]):
        super().__init__(mels)
        self.target_pairs = self.train

    def recording(self, pair):
        return Features(np.ones((len(self.mels[pair.number]), HP.n_linear)), self.mels[pair.number], self.hertz(pair))

    def path(self, pair):
        return np.arange(0.0, len(self.mels[pair.number]) - 1.0, 2.0 / 3.0)

    def target_features(self, pair, kind):
        return linear_map.interpolate(other_voice({"mel": self.mels}[kind][pair.number]), self.path(pair))


@pytest.mark.parametrize("at_once", [3, 64])
def test_with_pairs_the_map_to_the_new_voice_follows_what_a_model_writes_along_their_paths(
        pretrained, monkeypatch, at_once):
    """What the model writes is not what the source said: here it is turned upside down."""
    monkeypatch.setattr(voice, "AT_ONCE", at_once)
    writes = types.SimpleNamespace(base=pretrained, predict=lambda sources, voices: [
        types.SimpleNamespace(mel=1.0 - source.mel) for source in sources])
    corpus = Pairs(speak(2)[1])
    found = voice.fit_to_pairs(writes, corpus)
    for mel in speak(3, 2)[1]:
        heard = base.apply(found.onward_kernel, found.onward_bias, 1.0 - mel)
        assert np.abs(heard - other_voice(mel)).mean() < 0.25 * np.abs(mel - other_voice(mel)).mean()
    for name in set(base.Base._fields) - {"onward_kernel", "onward_bias", "octaves", "modulation"}:
        np.testing.assert_array_equal(getattr(found, name), getattr(pretrained, name))
    np.testing.assert_allclose(found.octaves, [0.1, 1.0, 0.2 / 2 ** 0.5], atol=0.01)
    said = [corpus.target_features(pair, "mel") for pair in corpus.train]
    np.testing.assert_allclose(found.modulation, base.modulation_power(said), rtol=1e-5)


def test_too_little_speech_is_refused(pretrained):
    mels = speak(2, 1)[1]
    with pytest.raises(UserError, match=f"somewhere: {len(mels[0]) / 80:.0f} s of speech .*a minute at least"):
        voice.fit(pretrained, mels, Alone(mels))


def save_speech(folder, mels: list[np.ndarray]) -> None:
    """Save the output of networks that write `mels`."""
    corpus = types.SimpleNamespace(hp=HP, train=[*range(len(mels))], recording=lambda pair: pair,
                                   voice=lambda pair: None)
    voice.save_speech(corpus, types.SimpleNamespace(predict=lambda recordings, voices: [
        types.SimpleNamespace(mel=mels[number]) for number in recordings]), folder)


def test_speech_is_stored_in_8_bits(tmp_path, monkeypatch):
    expected = speak(1, 3)[1]
    save_speech(tmp_path, expected)
    found = voice.load_speech(tmp_path)
    assert sorted(map(len, found)) == sorted(map(len, expected)) and leftovers(tmp_path) == []
    for mel in found:
        assert mel.dtype == np.float32
        assert min(np.abs(mel - own).max() for own in expected if len(own) == len(mel)) < 0.51 / 255
    monkeypatch.setattr(voice, "SENTENCES", 2)
    save_speech(tmp_path, expected)
    assert len(voice.load_speech(tmp_path)) == 2


def test_error_for_missing_or_damaged_speech_says_what_to_do(tmp_path):
    save_speech(tmp_path, speak(1, 1)[1])
    path = tmp_path / voice.FILE
    whole, message = path.read_bytes(), f"{path} is missing or damaged .*conversion.export makes it .* git checkout"
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
    """Features of bert alone, who says short words, in data/, and a pretrained model."""
    folder = tmp_path_factory.mktemp("voice")
    for seed, utterance in enumerate(IDS):
        write(folder / "bert" / f"{utterance}.wav", words(seed, seconds=0.6 + 0.05 * seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepro, "workers", no_workers)
        prepare(folder, "--target", folder / "bert", source=None)
    storage.write_json(folder / "pretrained" / "hparams.json", dataclasses.asdict(TINY))
    base.save(plain_base(TINY), folder / "pretrained")
    checkpoints.write(folder / "pretrained" / checkpoints.WEIGHTS, {"generator": Generator(TINY).weights}, True)
    save_speech(folder / "pretrained", speak(1, 4)[1])
    return folder


@pytest.fixture
def alone(prepared, tmp_path, eager, monkeypatch):
    """A copy of `prepared` for training."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(voice, "ENOUGH_SECONDS", 2.0)
    return tmp_path


@pytest.fixture
def without_validation(monkeypatch):
    """Leave out the conversions of the validation sentences, most of the time of a training of two steps."""
    monkeypatch.setattr(train.PairedTrainer, "validate", lambda self, run, stage: {})


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
    first = checkpoints.read(alone / "pretrained" / checkpoints.WEIGHTS)
    learnt = {id(variable) for network in (found.generator.encoder, found.generator.decoder)
              for variable in network.weights}
    for i, variable in enumerate(found.generator.weights):
        same = np.array_equal(np.float16(variable), np.float16(first[f"generator/{i}"]))
        assert same or id(variable) not in learnt, variable.path
    corpus = data_load.Corpus(alone / "data", TINY)
    expected = trainer.find_base(corpus, alone / "pretrained")
    assert all(map(np.array_equal, found.base, expected)) and len(found.base.onward_kernel) == 9 * TINY.n_mels
    assert np.asarray(found.generator.movement).any()
    # The pretrained voice's pace is not hers
    assert (found.hp.pace, eval_script.load_converter(alone / "run", overrides=["pace=0.5"]).hp.pace) == (0.0, 0.5)


def test_a_discriminator_shapes_the_postnet_of_a_voice_and_nothing_else(alone, capsys, monkeypatch):
    assert training(alone, "--set=postnet_steps=1") == 0
    monkeypatch.setattr(train_gan.GANTrainer, "validate", lambda self, run, stage: {})
    convert, paces = train_gan.GANTrainer.convert_sources, []
    monkeypatch.setattr(train_gan.GANTrainer, "convert_sources",
                        lambda self: paces.append(self.hp.pace) or convert(self))
    shutil.copytree(alone / "run", alone / "hers")  # as if learnt from other features
    info = storage.read_json(alone / "run" / "run.json")
    storage.write_json(alone / "hers" / "run.json", info | {"manifest": "hers"})
    flags, small = ["--logdir", str(alone / "gan")], ["--set=dis_pretrain_steps=1", "--set=gan_steps=1"]
    shaped = [*flags, "--init-from", str(alone / "run")]
    for more in (["--data", str(alone / "data"), "--preset", "default"], ["--data", str(alone / "data"), "--preset",
                 "2017-gan"], [*shaped, "--set=gan_networks=all"], *(["--init-from", str(alone / other), "--data",
                 str(alone / "data")] for other in ("pretrained", "hers"))):  # not the post-net alone; another voice
        assert train_gan.main([*flags, *small, *more]) == 1
        assert "holds the target alone: train.py learns such a voice; give its run" in capsys.readouterr().err
    shutil.rmtree(alone / "gan")
    assert train_gan.main([*shaped, *small, "--steps", "1"]) == 0, capsys.readouterr().err
    (alone / "run").rename(alone / "moved")  # a run that goes on does not need what it began with
    assert train_gan.main([*flags, *small]) == 0, capsys.readouterr().err
    (alone / "moved").rename(alone / "run")
    assert paces == [0.0, 0.0]
    before, after = (eval_script.load_converter(alone / name) for name in ("run", "gan"))
    assert all(map(np.array_equal, after.base, before.base)) and after.hp.pace == 0.0
    for part, same in (("encoder", True), ("decoder", True), ("postnet", False)):
        pairs = zip(*(getattr(each.generator, part).trainable_variables for each in (before, after)))
        assert all(np.array_equal(*pair) for pair in pairs) == same, part


@pytest.mark.usefixtures("without_validation")
def test_a_voice_that_is_killed_before_its_first_checkpoint_keeps_the_pretrained_networks(alone, capsys):
    """It went on with random ones."""
    assert training(alone, "--steps", "1") == 0
    shutil.rmtree(alone / "run" / "checkpoints")
    assert training(alone, "--steps", "2") == 0 and kept(alone / "run") == [2]
    assert capsys.readouterr().out.count(f"begins with {alone / 'pretrained'}") == 2
    found = eval_script.load_converter(alone / "run").generator
    first = checkpoints.read(alone / "pretrained" / checkpoints.WEIGHTS)
    number = {id(variable): i for i, variable in enumerate(found.weights)}
    for variable in (*found.encoder.weights, *found.decoder.weights):
        np.testing.assert_array_equal(np.float16(variable), np.float16(first[f"generator/{number[id(variable)]}"]))
    assert np.asarray(found.movement).any()


@pytest.mark.usefixtures("without_validation")
def test_init_from_chooses_base_speech_and_networks_of_one_model(alone):
    """It chose the networks alone, and the rest came from the default voice."""
    other = alone / "other"
    networks = Generator(TINY.replace(seed=5))
    base.save(plain_base(TINY)._replace(mel_floor=np.full(TINY.n_mels, -0.75, np.float32)), other)
    storage.write_json(other / "hparams.json", dataclasses.asdict(TINY))
    checkpoints.write(other / checkpoints.WEIGHTS, {"generator": networks.weights}, in_8_bits=True)
    save_speech(other, speak(2, 4)[1])
    assert training(alone, "--steps", "1", "--init-from", str(other)) == 0
    found, corpus = eval_script.load_converter(alone / "run"), data_load.Corpus(alone / "data", TINY)
    assert (found.base.mel_floor == -0.75).all()
    assert all(map(np.array_equal, found.base, trainer.find_base(corpus, other)))
    assert not np.array_equal(found.base.onward_kernel, trainer.find_base(corpus, alone / "pretrained").onward_kernel)
    for own, its in zip(found.generator.encoder.weights, networks.encoder.weights, strict=True):
        np.testing.assert_allclose(own, its, atol=0.02)


@pytest.mark.usefixtures("without_validation")
def test_pairs_go_on_from_a_pretrained_voice_which_a_map_follows(alone, capsys):
    """Its encoder learns the new voice through the map; decoder and pace stay."""
    record(alone, "anna", IDS)
    record(alone, "carl", IDS)
    prepare(alone, source="carl", target="anna", data="pairs")
    flags = ["--data", str(alone / "pairs"), "--init-from", str(alone / "pretrained")]
    assert training(alone, *flags, "--steps", "2") == 0
    assert training(alone, *flags[:2]) == 0
    assert "trained to its last step, 4. To convert its held-out" in capsys.readouterr().out
    found, corpus = eval_script.load_converter(alone / "run"), data_load.Corpus(alone / "pairs", TINY)
    expected = trainer.find_base(corpus, alone / "pretrained")
    assert all(map(np.array_equal, found.base, expected)) and len(found.base.onward_kernel) == 9 * TINY.n_mels
    assert not np.array_equal(expected.onward_kernel, trainer.find_base(corpus, None).onward_kernel)
    first = checkpoints.read(alone / "pretrained" / checkpoints.WEIGHTS)
    number = {id(variable): i for i, variable in enumerate(found.generator.weights)}
    for part, same in (("encoder", False), ("decoder", True), ("postnet", False)):
        assert all(np.array_equal(np.float16(variable), np.float16(first[f"generator/{number[id(variable)]}"]))
                   for variable in getattr(found.generator, part).trainable_variables) == same, part
    assert found.hp.pace == 0.0 and np.asarray(found.generator.movement).any()
    assert training(alone, *flags, "--logdir", str(alone / "new"), "--set=width=8") == 1
    assert "width (16 there, 8 asked for)" in capsys.readouterr().err
    storage.write_json(alone / "pretrained" / "hparams.json", dataclasses.asdict(TINY.replace(top_db=30.0)))
    assert training(alone, *flags, "--logdir", str(alone / "new")) == 1
    assert "top_db (30.0 there, 25.0 asked for); run prepro.py again" in (told := capsys.readouterr().err)
    assert "or leave --init-from out" in told
    assert train_gan.main(["--logdir", str(alone / "gan"), "--init-from", str(alone / "run"),
                           "--set=gan_networks=all"]) == 1
    assert "only its post-net can learn from a discriminator" in capsys.readouterr().err
    # A run gives its weights only
    assert training(alone, "--data", str(alone / "pairs"), "--logdir", str(alone / "other"), "--init-from",
                    str(alone / "run"), "--steps", "1") == 0
    assert len(base.load(alone / "other").onward_kernel) == TINY.n_mels


def test_training_hears_the_map_that_follows_as_conversion_does():
    rng, kernel = np.random.default_rng(0), np.zeros((9 * HP.n_mels, HP.n_mels), np.float32)
    kernel[:] = 0.05 * rng.normal(size=kernel.shape)
    mel, bias = rng.random((1, 40, HP.n_mels)).astype(np.float32), rng.random(HP.n_mels).astype(np.float32)
    task = types.SimpleNamespace(hp=HP, corpus=types.SimpleNamespace(
        base=plain_base(HP)._replace(onward_kernel=kernel, onward_bias=bias)))
    heard = np.asarray(trainer.Trainer.onward(task, mel))[0]
    np.testing.assert_allclose(heard, base.apply(kernel, bias, mel[0]), atol=1e-4)
    task.corpus.base = plain_base(HP)
    assert trainer.Trainer.onward(task, mel) is mel


def test_unusable_data_or_model_for_a_single_voice_is_reported(alone, capsys, monkeypatch):
    monkeypatch.setattr(voice, "ENOUGH_SECONDS", 60.0)
    assert training(alone) == 1 and f"{alone / 'data'}: " in capsys.readouterr().err
    storage.write_json(alone / "pretrained" / "hparams.json", dataclasses.asdict(TINY.replace(top_db=30.0)))
    assert training(alone) == 1
    assert "does not fit" in (told := capsys.readouterr().err) and "top_db (30.0 there, 25.0 asked for)" in told
    (alone / "pretrained" / voice.FILE).unlink()
    assert training(alone) == 1 and "git checkout" in capsys.readouterr().err
    assert not checkpoints.checkpoints_in(alone / "run" / "checkpoints")


@pytest.mark.parametrize("checkpoint, floor", [(None, -0.75), ("step-1.npz", -0.25)])
def test_a_run_killed_before_its_first_checkpoint_takes_base_and_weights_from_one_run(tmp_path, checkpoint, floor):
    """The run it began with was trained anew, and its new weights got the old base."""
    for name, value in (("gan", -0.25), ("run", -0.75)):
        base.save(plain_base(TINY)._replace(mel_floor=np.full(TINY.n_mels, value, np.float32)), tmp_path / name)
    plan = run_folder.RunPlan(tmp_path / "gan", "train_gan.py", True, False, TINY, tmp_path, tmp_path / "run",
                              checkpoint, None if checkpoint else "best-6.npz")
    assert (trainer.choose_base(plan, None).mel_floor == floor).all()
