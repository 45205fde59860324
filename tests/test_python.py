"""From Python in three lines: load, convert a file or an array, save."""
import pathlib

import eval as eval_script
import utils
from backend import checkpoints
from common import audio_files
from common.cli import UserError
from conftest import DEMO, tone, words, write
from conversion import inference
from corpus import analysis

import numpy as np
import pytest
import soundfile

RECORDING = DEMO / "rms" / "demo_001.ogg"


@pytest.fixture(scope="module")
def made(converter):
    return converter.convert(RECORDING)


def test_a_file_becomes_what_eval_writes(converter, made, tmp_path):
    assert eval_script.convert_files([RECORDING], tmp_path / "out", converter, "t") == 0
    converter.save(tmp_path / "own.wav", made.wav)
    assert (tmp_path / "own.wav").read_bytes() == (tmp_path / "out" / "demo_001.wav").read_bytes()
    info = soundfile.info(tmp_path / "own.wav")
    assert (info.samplerate, info.subtype, info.frames) == (converter.hp.sample_rate, "PCM_16", len(made.wav))
    assert made.wav.dtype == np.float32 and len(made.wav) >= soundfile.info(RECORDING).duration * info.samplerate


def test_an_array_of_any_scale_and_rate_is_converted_as_the_file_is_and_not_changed(converter, made):
    samples, sample_rate = soundfile.read(RECORDING, dtype="float32")
    for array in (1024.0 * samples, 2.0 ** -20 * samples, list(map(float, samples))):
        before = np.array(array)
        again = converter.convert(array, sample_rate)
        np.testing.assert_array_equal(array, before)
        np.testing.assert_allclose(again.wav, made.wav, atol=1e-5)
    wav = words(1)
    slow, plain = converter.convert(np.repeat(wav, 2), 2 * converter.hp.sample_rate), converter.convert(wav)
    assert len(slow.wav) == pytest.approx(len(plain.wav), rel=0.05)


@pytest.mark.parametrize("array, sample_rate, said", [
    (np.zeros((4, 2)), None, r"shape \(4, 2\): give one channel"), (np.zeros(0), None, "holds 0 samples"),
    (np.full(9000, np.nan), None, "not numbers"), (np.zeros(9000), 8000, "the array: is silent"),
    (np.ones(9000), 0, "sample_rate is 0: give it in Hz"), (np.ones(9000), 16.0, "16.0: give it in Hz"),
    (np.ones(9000), "16000", "give it in Hz"), (b"a.wav", None, "holds no samples"), (["a"], None, "holds no samples"),
    ([[1.0], [1.0, 2.0]], None, "holds no samples"), (np.ones(9000, complex), None, "its type is complex128")])
def test_an_array_without_sound_is_refused(converter, array, sample_rate, said):
    with pytest.raises(audio_files.BadAudio, match=said):
        converter.convert(array, sample_rate)


def test_a_file_has_its_own_rate_and_must_exist(converter):
    with pytest.raises(UserError, match="a file says its own"):
        converter.convert(RECORDING, 16000)
    with pytest.raises(UserError, match="does not exist"):
        converter.convert("missing.wav")


def test_what_looks_odd_is_warned_of(converter, tmp_path):
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    with pytest.warns(UserWarning, match="the array: 0 % of it are voiced"):
        made = converter.convert(noise)
    assert any("the array: 0 % of it are voiced" in text for text in made.remarks)
    stereo = np.stack([tone(200.0), 0.3 * noise], axis=1)
    with pytest.warns(UserWarning, match="two.wav: "):
        made = converter.convert(write(tmp_path / "two.wav", stereo))
    assert all("two.wav: " in text for text in made.remarks) and any("channel" in text for text in made.remarks)


@pytest.mark.parametrize("keep", [True, False])
def test_an_octave_stays_an_octave_if_intervals_are_kept(converter, monkeypatch, keep):
    """A melody from 220 to 440 Hz, for a target whose pitch moves by a quarter of an octave around 3 octaves."""
    monkeypatch.setattr(converter, "base", converter.base._replace(octaves=np.array([0.2, 3.0, 0.25])))
    monkeypatch.setattr(converter, "keep_intervals", keep)
    sung = np.concatenate([words(3, seconds=1.5, pitch=pitch) for pitch in (220.0, 440.0)])
    made = converter.convert(sung)
    octaves = made.first.pitch[:, 0]
    low, high = (float(np.median(part)) for part in np.array_split(octaves, 2))
    assert (high - low == pytest.approx(1.0, abs=0.03)) is keep
    if keep:
        voiced = made.heard.hertz[made.heard.hertz > 0.0]
        moved = np.log2(440.0 / converter.hp.pitch_middle) - np.log2(voiced / converter.hp.pitch_middle).mean() + 3.0
        assert high == pytest.approx(moved, abs=0.03)


def test_voices_have_names_and_runs_have_folders(run_folder, monkeypatch):
    assert inference.load(run_folder, power=1.1).hp.power == 1.1
    asked = []
    monkeypatch.setattr(inference, "load_converter", lambda *arguments: asked.append(arguments))
    for voice in ("bdl", pathlib.Path("bdl")):
        inference.load(voice, power=1, detail=0.5)
    inference.load()
    assert asked == [(checkpoints.PRETRAINED.with_name("bdl"), None, ["power=1", "detail=0.5"]),
                     (pathlib.Path("bdl"), None, ["power=1", "detail=0.5"]), (checkpoints.PRETRAINED, None, [])]
    monkeypatch.undo()
    with pytest.raises(UserError, match="nobody is no run folder and no voice .*the voices are slt, bdl"):
        inference.load("nobody")
    with pytest.raises(UserError, match="width .*the model was trained with it"):
        inference.load(run_folder, width=8)


@pytest.mark.parametrize("usual", [1.25, 0.5])
def test_decoding_ends_early_and_gives_what_it_would_give_later(converter, monkeypatch, usual):
    """A second attempt decodes up to the limit, if the first was too short."""
    recording = analysis.extract(utils.load_recording(RECORDING, converter.hp).wav, converter.hp)
    voice, steps, convert = converter.find_voice(recording), [], converter._convert

    def counted(*arguments):
        steps.append(arguments[3] * converter.hp.r / len(recording.mel))
        return convert(*arguments)
    monkeypatch.setattr(converter, "_convert", counted)
    monkeypatch.setattr(inference, "USUAL_RATIO", inference.MAX_RATIO)
    expected, = converter.predict([recording], [voice])
    monkeypatch.setattr(inference, "USUAL_RATIO", usual)
    found, = converter.predict([recording], [voice])
    assert [round(ratio, 1) for ratio in steps[1:]] == pytest.approx([usual, inference.MAX_RATIO][:1 + (usual < 1)],
                                                                     abs=0.15)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(np.zeros(0) if one is None else one, np.zeros(0) if other is None else other,
                                   atol=1e-5)
