"""`run_folder.open_run`: what it decides from the flags and the run folder, and what it refuses."""
import dataclasses
import pathlib

import hyperparams
import train
import train_gan
from common import storage
from common.cli import UserError
from corpus import demo
from hyperparams import HyperParams
from training import run_folder

import pytest
import tensorflow as tf

WIDE = HyperParams(width=32)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder with features of two corpora and of the demo."""
    for name in ("mine", "other", "demo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.csv").write_text(name)
    monkeypatch.setattr(demo, "FEATURES", tmp_path / "demo")
    monkeypatch.setattr(demo, "prepare", lambda hp: tmp_path / "demo")
    monkeypatch.setattr(train_gan, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_run(*flags: str, script=train) -> run_folder.RunPlan:
    inherit_with = train_gan.GAN_SETTINGS if script is train_gan else None
    args = script.parse_arguments([*flags])
    args = train_gan.complete(args) if script is train_gan else args
    return run_folder.open_run(args, f"{script.__name__}.py", inherit_with)


def begin(logdir: str, *flags: str, script=train, checkpoint: int = 1, hp: HyperParams | None = None) -> None:
    """Write the files of a run started with these flags, with a checkpoint of step `checkpoint` unless that is 0."""
    plan = open_run("--logdir", logdir, *flags, script=script)
    run = run_folder.Run(plan.logdir, hp or plan.hp, {"generator": []})
    run_folder.write_run_info(plan.logdir, plan.script, plan.data, 9, plan.init_from, plan.initial_weights)
    if checkpoint:
        run.step.assign(checkpoint)
        run.save()


@pytest.mark.parametrize("flags, preset, data", [
    ([], "demo", "demo"), (["--data", "mine"], "default", "mine"), (["--preset", "2017"], "2017", "demo"),
    (["--data", "mine", "--preset", "demo"], "demo", "mine")])
def test_flags_decide_the_preset_and_corpus_of_a_new_run(folder, flags, preset, data):
    plan = open_run("--logdir", "run", *flags)
    assert not plan.is_resuming and (plan.checkpoint, plan.initial_weights, plan.init_from) == (None, None, None)
    assert plan.hp == hyperparams.PRESETS[preset] and plan.data.name == data and plan.script == "train.py"
    assert not (folder / "run").exists()  # it only decides, and writes nothing


def test_new_run_takes_overrides_and_seed(folder):
    asked = open_run("--logdir", "run", "--set", "width=32", "--set", "seed=3")
    assert asked.hp == hyperparams.PRESETS["demo"].replace(width=32, seed=3)


@pytest.mark.parametrize("text", ["validation=0.2", "max_seconds=9"])
def test_settings_that_only_preparation_reads_are_refused(folder, text):
    """They were accepted, written down, and changed nothing."""
    with pytest.raises(UserError, match=f"--set {text}: only prepro.py reads this"):
        open_run("--logdir", "run", "--set", "width=32", "--set", text)


def test_resumed_run_keeps_its_hyperparameters_and_corpus(folder):
    begin("run", "--data", "mine", "--set", "width=32")
    for flags in ([], ["--data", "mine"], ["--set", "width=32"], ["--preset", "default", "--set", "width=32"]):
        plan = open_run("--logdir", "run", *flags)
        assert plan.is_resuming and plan.hp == WIDE and plan.data.name == "mine"
        assert plan.checkpoint.endswith("step-1.npz") and not plan.initial_weights


def test_resuming_accepts_the_new_path_of_a_moved_corpus(folder):
    begin("run", "--data", "mine")
    (folder / "mine").rename(folder / "moved")
    assert open_run("--logdir", "run", "--data", "moved").data.name == "moved"


def test_no_resume_starts_a_new_run_with_the_corpus_of_the_previous_one(folder):
    begin("run", "--data", "mine", "--set", "width=32")
    plan = open_run("--logdir", "run", "--no-resume")
    assert not plan.is_resuming and plan.no_resume and plan.checkpoint is None
    assert plan.hp == hyperparams.PRESETS["default"] and plan.data == folder / "mine"
    assert open_run("--logdir", "run", "--no-resume", "--data", "other").data.name == "other"


def test_no_resume_removes_nothing_where_there_is_no_run(folder):
    """It emptied train/ and samples/ of whatever folder --logdir named."""
    assert not open_run("--logdir", "mine", "--no-resume", "--data", "mine").no_resume
    (folder / "mine" / "samples").mkdir()
    for flags in ([], ["--no-resume"]):
        with pytest.raises(UserError, match="samples is there and would be replaced"):
            open_run("--logdir", "mine", "--data", "mine", *flags)
    (folder / "mine" / "samples").rmdir()
    begin("mine", "--data", "mine")
    (folder / "mine" / "samples").mkdir()
    assert open_run("--logdir", "mine", "--no-resume").no_resume


@pytest.mark.parametrize("flags, script, message", [
    (["--data", "other"], train, "was begun with --data .*mine, not other: leave --data out"),
    ([], train_gan, "was begun by train.py, not train_gan.py: choose another --logdir"),
    (["--set", "width=64"], train, r"begun with other hyperparameters: width \(32 there, 64 asked for\)"),
    (["--preset", "2017"], train, "begun with other hyperparameters: .*attention"),
    (["--init-from", "other"], train, "was begun without --init-from: leave --init-from out"),
    (["--init-from", "other", "--logdir", "begun"], train, "was begun with --init-from .*run: leave --init-from out")])
def test_resuming_refuses_flags_that_differ_from_those_of_the_run(folder, flags, script, message):
    begin("run", "--data", "mine", "--set", "width=32")
    begin("begun", "--data", "mine", "--init-from", "run")
    with pytest.raises(UserError, match=message):
        open_run("--logdir", "run", *flags, script=script)


def test_resuming_refuses_a_corpus_that_was_prepared_again(folder):
    begin("run", "--data", "mine")
    (folder / "mine" / "manifest.csv").write_text("other recordings")
    with pytest.raises(UserError, match="mine has changed since run was begun"):
        open_run("--logdir", "run")


def test_init_from_gives_initial_weights_until_the_run_has_a_checkpoint(folder):
    begin("first", "--data", "mine", checkpoint=5)
    plan = open_run("--logdir", "run", "--data", "mine", "--init-from", "first")
    assert plan.initial_weights.endswith("step-5.npz") and not plan.checkpoint
    assert plan.init_from == pathlib.Path("first")
    begin("run", "--data", "mine", "--init-from", "first", checkpoint=0)
    plan = open_run("--logdir", "run")  # killed before its first checkpoint
    assert plan.is_resuming and plan.initial_weights.endswith("step-5.npz") and plan.init_from == folder / "first"
    begin("run", "--data", "mine", "--init-from", "first")
    plan = open_run("--logdir", "run")
    assert plan.checkpoint.endswith("step-1.npz") and plan.initial_weights is None
    assert open_run("--logdir", "run", "--no-resume", "--init-from", "first").initial_weights.endswith("step-5.npz")
    with pytest.raises(UserError, match="nothing holds no checkpoint"):
        open_run("--logdir", "new", "--data", "mine", "--init-from", "nothing")


def test_a_run_that_begins_anew_begins_with_what_it_began_with_before(folder):
    """It forgot the voice in front of it, and began with random weights."""
    begin("first", checkpoint=5)
    begin("run", "--data", "mine", "--init-from", "first", checkpoint=1)
    plan = open_run("--logdir", "run", "--no-resume")
    assert plan.init_from == folder / "first" and plan.initial_weights.endswith("step-5.npz") and not plan.is_resuming
    assert open_run("--logdir", "run", "--no-resume", "--data", "mine").init_from == folder / "first"
    for flags in (["--preset", "default"], ["--data", "other"]):
        assert open_run("--logdir", "run", "--no-resume", *flags).init_from is None


def test_adversarial_training_inherits_networks_and_features_from_the_run_of_init_from(folder):
    begin("paired", "--data", "mine", "--set", "width=32")
    plan = open_run("--logdir", "gan", "--init-from", "paired", "--set", "k=2", script=train_gan)
    assert plan.hp == WIDE.replace(**train_gan.GAN_SETTINGS, k=2) and plan.data == folder / "mine"
    flags = ["--logdir", "new", "--init-from", "paired", "--data", "other"]
    assert open_run(*flags, script=train_gan).data.name == "other"
    with pytest.raises(UserError, match="--init-from nothing is no run folder"):
        open_run("--logdir", "gan", "--init-from", "nothing", script=train_gan)


def test_adversarial_training_that_begins_anew_begins_with_what_it_began_with(folder):
    """It took the demo's run and features, and removed the checkpoints."""
    for name in ("logdir/demo", "paired"):
        begin(name, "--data", pathlib.Path(name).name.replace("paired", "mine"))
    begin("gan", "--init-from", "paired", script=train_gan)
    plan = open_run("--logdir", "gan", "--no-resume", script=train_gan)
    assert plan.init_from == folder / "paired" and plan.data == folder / "mine"
    begin("random", "--preset", "2017-gan", "--data", "mine", script=train_gan)
    with pytest.raises(UserError, match="say with --init-from which run"):
        open_run("--logdir", "random", "--no-resume", script=train_gan)


def test_adversarial_training_names_its_folder_after_that_of_init_from(folder, monkeypatch):
    begin("mine/a", "--data", "mine")
    monkeypatch.chdir(folder / "mine" / "a")
    for name in (".", "../a/", str(folder / "mine" / "a")):
        args = train_gan.complete(train_gan.parse_arguments(["--init-from", name]))
        assert args.logdir == folder / "logdir" / "a-gan"


def test_adversarial_training_asks_for_the_run_to_begin_with(folder):
    """Nobody's voice is taken just because it lies in the default folder, and random weights only if that is said."""
    def initial(*flags):
        plan = open_run(*flags, script=train_gan)
        return plan.logdir.name, plan.data.name, plan.initial_weights and pathlib.Path(plan.initial_weights).parts[-3]
    ask = "say with --init-from .* or with --preset"
    for flags in ([], ["--data", "mine"], ["--data", "mine", "--logdir", "run"], ["--set", "width=32"]):
        with pytest.raises(UserError, match=ask):
            initial(*flags)
    begin("logdir/demo")
    begin("logdir/paired", "--data", "mine")
    with pytest.raises(UserError, match="paired is no paired run of other: " + ask):
        initial("--data", "other")
    assert initial() == ("demo-gan", "demo", "demo") and initial("--data", "mine") == ("paired-gan", "mine", "paired")
    assert initial("--data", "other", "--init-from", "logdir/demo") == ("demo-gan", "other", "demo")
    assert initial("--data", "other", "--preset", "2017-gan") == ("gan", "other", None)
    begin("gan", "--data", "other", "--preset", "default", script=train_gan)
    assert open_run("--logdir", "gan", script=train_gan).is_resuming


def test_initial_weights_need_features_to_train_on(folder):
    """They are not trained on the demo just because no features are named."""
    begin("first", "--data", "mine")
    for flags in (["--logdir", "new"], ["--logdir", "new", "--preset", "default"]):
        with pytest.raises(UserError, match="--init-from first gives the first weights: say with --data"):
            open_run(*flags, "--init-from", "first")
    (folder / "first" / "run.json").unlink()  # as in an exported model
    with pytest.raises(UserError, match="say with --data"):
        open_run("--logdir", "new", "--init-from", "first", script=train_gan)


@pytest.mark.parametrize("flags", [[], ["--no-resume"]])
def test_exported_model_is_no_run_to_train(folder, flags):
    """Its weights would be random or another corpus', and evaluation would still read weights.npz."""
    begin("model", "--data", "mine", checkpoint=0)
    (folder / "model" / "weights.npz").touch()
    for script in (train, train_gan):
        with pytest.raises(UserError, match="model is an exported model.*--init-from model begins with its weights"):
            open_run("--logdir", "model", "--data", "mine", *flags, "--preset", "default", script=script)


@pytest.mark.parametrize("name, text, message", [
    ("run.json", "{", "run has no run.json that can be read: say with --data"),
    ("hparams.json", "{", "hparams.json is damaged"),
    ("hparams.json", None, "another version of this project: unknown .'hidden'")])
def test_damaged_run_files_are_refused(folder, name, text, message):
    begin("run", "--data", "mine")
    path = folder / "run" / name
    if text is None:
        storage.write_json(path, dataclasses.asdict(WIDE) | {"hidden": 3})
    else:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        open_run("--logdir", "run")


def test_newest_readable_checkpoint_is_used(folder, capsys):
    begin("run", "--data", "mine")
    run = run_folder.Run(folder / "run", WIDE, {"generator": [tf.Variable(1.0)]})
    for step in (2, 3):
        run.step.assign(step)
        run.save()
    (folder / "run" / "checkpoints" / "step-3.npz").write_bytes(b"")
    plan = open_run("--logdir", "run")
    assert plan.checkpoint.endswith("step-2.npz")
    assert "step-3.npz is missing or damaged" in capsys.readouterr().err


def test_a_run_that_lost_one_of_its_files_is_refused(folder):
    begin("run", "--data", "mine")
    (folder / "run" / "run.json").unlink()
    with pytest.raises(UserError, match="run has no run.json that can be read: say with --data"):
        open_run("--logdir", "run")
    assert open_run("--logdir", "run", "--data", "mine").is_resuming
    (folder / "run" / "hparams.json").unlink()
    with pytest.raises(UserError, match="run holds checkpoints but no hparams.json"):
        open_run("--logdir", "run", "--data", "mine")
    assert not open_run("--logdir", "run", "--data", "mine", "--no-resume").is_resuming


@pytest.mark.parametrize("later, told", [(4, False), (7, True)])
def test_a_run_that_goes_on_says_if_the_run_it_began_with_has_other_weights(folder, capsys, later, told):
    begin("paired", "--data", "mine", checkpoint=4)
    begin("gan", "--init-from", "paired", script=train_gan)
    begin("paired", checkpoint=later)
    assert open_run("--logdir", "gan", script=train_gan).is_resuming
    said = f"warning: {folder / 'paired'} has other weights than those that gan began with: --no-resume --init-from "
    assert (said in capsys.readouterr().err) is told
    begin("gan", script=train_gan)  # going on keeps what it began with
    assert (said in capsys.readouterr().err) is told
    checkpoint = next((folder / "paired" / "checkpoints").glob("*.npz"))  # trained anew, it has the same name
    checkpoint.write_bytes(checkpoint.read_bytes() + b" ")
    assert open_run("--logdir", "gan", script=train_gan).is_resuming and said in capsys.readouterr().err


@pytest.mark.parametrize("step, told", [(3, True), (9, False)])
def test_adversarial_training_warns_of_a_run_that_is_not_finished(folder, monkeypatch, capsys, step, told):
    """It began with what thirty steps had taught, and said nothing."""
    begin("logdir/demo", checkpoint=step)
    monkeypatch.setattr(train_gan.trainer, "train", lambda *_: None)
    assert train_gan.main([]) == 0
    assert ("demo is trained to step 3 of 9 only" in capsys.readouterr().err) is told
