"""Overrides are checked strictly, and the hyperparameters of a run are read back unchanged."""
import dataclasses
import json

import hyperparams
import utils
from common import storage
from common.cli import UserError
from conftest import words, write
from corpus import alignment, analysis
from hyperparams import HyperParams

import numpy as np
import pytest


def test_overrides_keep_their_type():
    hp = HyperParams().override(["width=64", "dropout=0.25", "norm=ln", "learning_rate=1", "decoder_steps=0"])
    assert (hp.width, hp.dropout, hp.norm, hp.learning_rate, hp.decoder_steps) == (64, 0.25, "ln", 1.0, 0)
    assert isinstance(hp.learning_rate, float)
    before, after = dataclasses.asdict(HyperParams()), dataclasses.asdict(hp)
    assert {name for name in before if before[name] != after[name]} == {
        "width", "dropout", "norm", "learning_rate", "decoder_steps"}


@pytest.mark.parametrize("wrong, right", [("witdh=3", "width"), ("batchsize=3", "batch_size"), ("lr=1", "r"),
                                          ("griffin_lim_iter=3", "griffin_lim_iters")])
def test_error_for_an_unknown_name_suggests_the_closest_name(wrong, right):
    with pytest.raises(UserError, match=f"no hyperparameter '{wrong.split('=')[0]}'.*closest is '{right}'"):
        HyperParams().override([wrong])


def test_name_unlike_any_other_still_gets_a_suggestion():
    with pytest.raises(UserError, match="no hyperparameter 'zzzzqq'; the closest is '") as caught:
        HyperParams().override(["zzzzqq=1"])
    assert hasattr(HyperParams(), str(caught.value).split("'")[-2])


@pytest.mark.parametrize("assignment, message", [
    ("width=wide", "width is of type int, 'wide' is not"), ("width=64.5", "width is of type int"),
    ("dropout=half", "dropout is of type float"), ("width=", "width is of type int"), ("width", "name=value")])
def test_value_of_the_wrong_type_is_reported(assignment, message):
    with pytest.raises(UserError, match=message) as caught:
        HyperParams().override([assignment])
    assert assignment in str(caught.value)


@pytest.mark.parametrize("assignments, message", [
    (["norm=batch"], "choose bn or ln or ins"), (["width=33"], "must be even"), (["n_fft=1023"], "must be even"),
    (["win_length=2048", "n_fft=1024"], "win_length=2048 is more than n_fft=1024"),
    (["hop_length=800"], "hop_length=800 is more than half of win_length=800"),
    (["slice_min_seconds=3", "slice_max_seconds=2"], "slice_min_seconds=3.0 is more than slice_max_seconds=2.0"),
    (["min_seconds=20", "max_seconds=12"], "min_seconds=20.0 is more than max_seconds=12.0"),
    (["slice_min_seconds=.01", "slice_max_seconds=.01"], "slice_min_seconds=0.01: must lie between 0.1 and 60"),
    (["preemphasis=1.5"], "preemphasis=1.5: must lie between 0 and 0.99"), (["trim_level=3"], "trim_level=3.0"),
    (["top_db=300"], "top_db=300.0"), (["top_db=60"], "loudness_db=-26.0: must be at most top_db=60.0 and 20 dB above"),
    (["pitch_min=900"], "pitch_max=1000.0: must be at least half as high again as pitch_min=900.0"),
    (["base=2"], "base=2: choose 1 or 0"), (["attention=luong"], "attention=luong: choose local or global"),
    (["test=0.6", "validation=0.5"], "leave nothing to train on"), (["learning_rate=nan"], "learning_rate=nan"),
    (["learning_rate=inf"], "learning_rate=inf")])
def test_contradicting_values_are_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        HyperParams().override(assignments)


NUMBERS = {field.name: field for field in dataclasses.fields(HyperParams) if "bounds" in field.metadata}


@pytest.mark.parametrize("field", dataclasses.fields(HyperParams), ids=lambda field: field.name)
def test_each_setting_has_bounds_or_choices_and_values_beyond_them_are_refused(field):
    assert field.metadata, "write it with number() or choice()"
    low, high = field.metadata.get("bounds", (0, 0))
    for value in (low - 1, high + 1) if field.name in NUMBERS else (2, "others"):
        with pytest.raises(UserError, match=f"^{field.name}={value}: "):
            HyperParams().replace(**{field.name: value}).check()
    for preset in hyperparams.PRESETS.values() if field.name in NUMBERS else ():
        assert low <= getattr(preset, field.name) <= high


# What else has to change so that a bound does not contradict another setting
WITH = {"n_fft=64": ["win_length=64", "hop_length=16", "pitch_min=300"], "win_length=32": ["hop_length=8"],
        "win_length=4096": ["n_fft=4096"], "hop_length=1024": ["win_length=2048", "n_fft=2048"],
        "pitch_min=1000": ["pitch_max=2000"], "loudness_db=-60": ["range_db=110"],
        "top_db=60": ["range_db=120"], "range_db=40": ["top_db=-10", "loudness_db=-20"],
        "slice_min_seconds=60": ["slice_max_seconds=60"], "slice_max_seconds=0.1": ["slice_min_seconds=0.1"]}


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize("assignment", [
    f"{name}={bound}" for name in (*hyperparams.SIGNAL, "slice_min_seconds", "slice_max_seconds", "power")
    for bound in NUMBERS[name].metadata["bounds"]])
def test_signal_at_the_bounds_of_a_setting_is_analysed_aligned_and_synthesized(tmp_path, assignment):
    hp = HyperParams().override([assignment, *WITH.get(assignment, []), "griffin_lim_iters=1"])
    found = []
    for pitch in (120.0, 190.0):
        wav = utils.load_recording(write(tmp_path / "a.wav", words(1, pitch=pitch, seconds=0.6)), hp).wav
        found.append(analysis.extract(wav, hp))
        assert len({len(array) for array in found[-1]}) == 1 and all(np.isfinite(array).all() for array in found[-1])
        assert np.std(found[-1].linear) > 0.02
    features = [alignment.alignment_features(each.mel.astype(np.float32), hp) for each in found]
    positions, cost = alignment.warp(*features)
    assert np.isfinite(cost) and alignment.make_slices(len(positions), "a", hp)
    voice = utils.griffin_lim(found[0].linear.astype(np.float32), utils.octaves(found[0].hertz, hp), hp)
    assert np.isfinite(voice).all() and np.abs(voice).max() > 1e-5


@pytest.mark.parametrize("name", hyperparams.PRESETS)
def test_presets_are_consistent(name):
    assert hyperparams.PRESETS[name].override(["width=32"]).width == 32


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
    with pytest.raises(UserError, match=r"hparams.json is of another version.*unknown \['deviation'\].*\['sigma'\]"):
        HyperParams.from_json(path)


def test_what_an_earlier_version_did_not_know_of_synthesis_has_its_default(tmp_path):
    values = dataclasses.asdict(HyperParams(width=64, power=1.1))
    del values["texture"], values["pace"]
    (tmp_path / "hparams.json").write_text(json.dumps(values))
    assert HyperParams.from_json(tmp_path / "hparams.json") == HyperParams(width=64, power=1.1)


@pytest.mark.parametrize("text", ["", "[]", '{"width": ', "null"])
def test_error_for_a_damaged_file_names_it(tmp_path, text):
    path = tmp_path / "hparams.json"
    path.write_text(text)
    with pytest.raises(UserError, match="hparams.json"):
        HyperParams.from_json(path)


@pytest.mark.parametrize("name, value", [("width", "256"), ("width", 64.0), ("norm", 1), ("dropout", None)])
def test_error_for_a_wrong_type_in_a_file_names_the_hyperparameter(tmp_path, name, value):
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(dataclasses.asdict(HyperParams()) | {name: value}))
    with pytest.raises(UserError, match=f"hparams.json.*{name}"):
        HyperParams.from_json(path)
