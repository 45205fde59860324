"""Overrides are checked strictly, and the hyperparameters of a run are read back unchanged."""
import dataclasses
import json

import pytest

import hyperparams
from common import storage
from hyperparams import HyperParams


def test_overrides_keep_their_type():
    hp = HyperParams().override(["width=64", "dropout=0.25", "norm=ln", "learning_rate=3", "decoder_steps=0"])
    assert (hp.width, hp.dropout, hp.norm, hp.learning_rate, hp.decoder_steps) == (64, 0.25, "ln", 3.0, 0)
    assert isinstance(hp.learning_rate, float)
    before, after = dataclasses.asdict(HyperParams()), dataclasses.asdict(hp)
    assert {name for name in before if before[name] != after[name]} == {
        "width", "dropout", "norm", "learning_rate", "decoder_steps"}


@pytest.mark.parametrize("wrong, right", [("witdh=3", "width"), ("batchsize=3", "batch_size"), ("lr=1", "r"),
                                          ("griffin_lim_iter=3", "griffin_lim_iters")])
def test_error_for_an_unknown_name_suggests_the_closest_name(wrong, right):
    with pytest.raises(ValueError, match=f"no hyperparameter '{wrong.split('=')[0]}'.*closest is '{right}'"):
        HyperParams().override([wrong])


def test_name_unlike_any_other_still_gets_a_suggestion():
    with pytest.raises(ValueError, match="no hyperparameter 'zzzzqq'; the closest is '") as caught:
        HyperParams().override(["zzzzqq=1"])
    assert hasattr(HyperParams(), str(caught.value).split("'")[-2])


@pytest.mark.parametrize("assignment, message", [
    ("width=wide", "width is of type int, 'wide' is not"), ("width=64.5", "width is of type int"),
    ("dropout=half", "dropout is of type float"), ("width=", "width is of type int"), ("width", "name=value")])
def test_value_of_the_wrong_type_is_reported(assignment, message):
    with pytest.raises(ValueError, match=message) as caught:
        HyperParams().override([assignment])
    assert assignment in str(caught.value)


@pytest.mark.parametrize("assignments, message", [
    (["norm=batch"], "choose bn, ln or ins"), (["width=33"], "must be even"),
    (["win_length=2048", "n_fft=1024"], "win_length=2048 is more than n_fft=1024"),
    (["batch_size=0"], "must be positive"), (["decoder_steps=-1"], "decoder_steps=-1"),
    (["hop_length=1000", "win_length=800"], "hop_length=1000 is more than win_length=800"),
    (["slice_min_seconds=3", "slice_max_seconds=2"], "slice_min_seconds=3.0 is more than slice_max_seconds=2.0"),
    (["min_seconds=20", "max_seconds=12"], "min_seconds=20.0 is more than max_seconds=12.0"),
    (["dropout=1"], "dropout=1.0"), (["frame_dropout=1.5"], "frame_dropout=1.5"),
    (["whole_utterances=-0.1"], "whole_utterances=-0.1"),
    (["advance_smoothing=1.1"], "advance_smoothing=1.1"),
    (["correction=-0.5"], "correction=-0.5: must not be negative"),
    (["base=2"], "base=2: choose 0 or 1"), (["harmonics=-1"], "harmonics=-1: choose 0 or 1"),
    (["attention=luong"], "attention=luong: choose local or global"), (["joint_steps=-1"], "joint_steps=-1"),
    (["lowest_rate=0"], "lowest_rate=0.0"), (["lowest_rate=1.5"], "lowest_rate=1.5"),
    (["postfilter=-0.1"], "postfilter=-0.1: must not be negative"),
    (["test=0.6", "validation=0.5"], "leave nothing to train on"), (["learning_rate=nan"], "learning_rate=nan"),
    (["range_db=-80"], "range_db=-80")])
def test_contradicting_values_are_refused(assignments, message):
    with pytest.raises(ValueError, match=message):
        HyperParams().override(assignments)


@pytest.mark.parametrize("name", hyperparams.PRESETS)
def test_presets_are_consistent(name):
    assert hyperparams.get(name, []) == hyperparams.PRESETS[name].check()
    assert hyperparams.get(name, ["width=32"]).width == 32


def test_error_for_an_unknown_preset_lists_all_presets():
    with pytest.raises(ValueError, match="--preset papper: choose one of default, demo, 2017"):
        hyperparams.get("papper", [])


def test_derived_values():
    hp = HyperParams(n_fft=512, win_length=400, sample_rate=8000, hop_length=100)
    assert (hp.n_linear, hp.frames_per_second) == (257, 80.0)


def test_round_trip_through_hparams_json(tmp_path):
    hp = HyperParams(width=64, norm="ins", learning_rate=1 / 3, seed=7)
    storage.write_json(tmp_path / "hparams.json", dataclasses.asdict(hp))
    assert HyperParams.from_json(tmp_path / "hparams.json") == hp


def test_file_of_another_version_is_refused(tmp_path):
    values = dataclasses.asdict(HyperParams())
    values["deviation"] = values.pop("sigma")
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"hparams.json is of another version.*unknown \['deviation'\].*\['sigma'\]"):
        HyperParams.from_json(path)


@pytest.mark.parametrize("text", ["", "[]", '{"width": ', "null"])
def test_error_for_a_damaged_file_names_it(tmp_path, text):
    path = tmp_path / "hparams.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="hparams.json"):
        HyperParams.from_json(path)


@pytest.mark.parametrize("name, value", [("width", "256"), ("width", 64.0), ("norm", 1), ("dropout", None)])
def test_error_for_a_wrong_type_in_a_file_names_the_hyperparameter(tmp_path, name, value):
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(dataclasses.asdict(HyperParams()) | {name: value}))
    with pytest.raises(ValueError, match=f"hparams.json.*{name}"):
        HyperParams.from_json(path)
