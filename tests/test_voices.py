"""The voices of pretrained/: recordings of synthetic people, whom no training knew, come out in that voice."""
import utils
from backend import checkpoints
from conftest import DEMO
from conversion import base, inference, voice
from corpus import alignment, analysis
from corpus.linear_map import interpolate

import numpy as np
import pytest

HERTZ = {"slt": 173.0, "bdl": 120.0}  # medians of their own recordings in CMU Arctic
CORRECTION = {"slt": 0.0271, "bdl": 0.0315}  # mean absolute change of the map's mel on RECORDINGS
RECORDINGS = [DEMO / "rms" / f"demo_00{n}.ogg" for n in (1, 2, 3)] + [DEMO / "slt" / f"demo_00{n}.ogg" for n in (4, 5)]


def shape(mels: list[np.ndarray], hp) -> np.ndarray:
    """Mean spectrum (M,) of speech in dB, less its level."""
    mean = np.mean([mel[base.is_speech(mel, hp)].mean(axis=0, dtype=np.float32) for mel in mels], axis=0)
    return hp.range_db * (mean - mean.mean())


@pytest.fixture(scope="module", params=checkpoints.VOICES)
def converted(request):
    """Name and converter of a voice, and the features of recordings and of their conversions."""
    converter = inference.load(request.param)
    heard = [analysis.extract(utils.load_recording(path, converter.hp).wav, converter.hp) for path in RECORDINGS]
    made = [analysis.extract(converter.convert(path).wav, converter.hp) for path in RECORDINGS]
    return request.param, converter, heard, made


def test_pitch_and_colour_are_those_of_the_voice(converted):
    name, converter, _, made = converted
    hertz = np.concatenate([each.hertz[each.hertz > 0.0] for each in made])
    assert np.median(hertz) == pytest.approx(HERTZ[name], rel=0.08)
    own = shape([each.mel for each in made], converter.hp)
    distances = {voice_name: float(np.sqrt(np.mean(np.square(own - shape(voice.load_speech(
        checkpoints.PRETRAINED.with_name(voice_name)), converter.hp))))) for voice_name in checkpoints.VOICES}
    assert distances.pop(name) < 2.0 < min(distances.values()), "dB from its own speech, and from that of others"


def test_what_is_said_stays(converted):
    """Along the best path a conversion is nearer to its own source than to any but one of the other recordings."""
    _, converter, heard, made = converted
    sources, outputs = ([alignment.alignment_features(each.mel.astype(np.float32), converter.hp) for each in group]
                        for group in (heard, made))
    for i, output in enumerate(outputs):
        costs = [alignment.warp(source - source.mean(axis=0), output - output.mean(axis=0))[1] for source in sources]
        assert np.argsort(costs).tolist().index(i) < 2


def read(converter: inference.Converter, heard: analysis.Features) -> tuple[inference.Converted, np.ndarray]:
    """What the networks write for a recording, and what the map says where they read it (T, M + 2)."""
    found = converter.find_voice(heard)
    _, mapped = base.network_input(converter.base, heard, found, converter.hp)
    written = converter.predict([heard], [found])[0]
    return written, interpolate(mapped, np.clip(written.positions, 0.0, len(mapped) - 1.0))


def test_the_networks_correct_the_map_as_much_as_when_they_were_exported(converted):
    """Weights of the other voice, an encoder without its head, or another map change more or less. A new training
    changes the numbers."""
    name, converter, heard, _ = converted
    changes = []
    for each in heard:
        written, mapped = read(converter, each)
        changes.append(np.abs(written.mel - np.clip(mapped[:, :converter.hp.n_mels], 0.0, 1.0)).mean())
    assert np.mean(changes) == pytest.approx(CORRECTION[name], abs=0.001)


@pytest.mark.parametrize("keep", [True, False])
def test_intervals_are_kept_whatever_the_networks_say(converted, monkeypatch, keep):
    _, converter, heard, _ = converted
    monkeypatch.setattr(converter, "keep_intervals", keep)
    written, mapped = read(converter, heard[0])
    assert bool(np.std(written.pitch[:, 0] - mapped[:, converter.hp.n_mels]) < 1e-4) is keep
