"""Signal processing: scales are right, and spectrograms can be turned back into a recording."""
import errno
import json
import math
import pathlib

import utils
from common import audio_files, storage
from common.cli import UserError
from common.hum import subtract
from conftest import demo_wav, leftovers, tone, words, write
from corpus import analysis
from evaluation import metrics
from hyperparams import HyperParams

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr

HP = HyperParams()


def load(path, **options) -> np.ndarray:
    return utils.load_recording(path, HP, **options).wav


def slaney_band(hertz: float) -> int:
    """The mel band of a frequency by Slaney's formula: linear below 1 kHz, logarithmic above."""
    def mel(f):
        return 3 * f / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)
    return round(mel(hertz) / mel(HP.sample_rate / 2) * (HP.n_mels + 1)) - 1


def test_json_holds_null_for_what_is_no_number(tmp_path):
    storage.write_json(tmp_path / "a.json", {"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf, "d": True}})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "a": [None, 1.5, [None]], "b": {"c": None, "d": True}}
    assert storage.read_json(tmp_path / "a.json")["b"] == {"c": None, "d": True}


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1, 2]", b"7", b"\xff"])
def test_json_that_is_missing_or_damaged_is_read_as_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert storage.read_json(tmp_path / "a.json") == {}


@pytest.mark.parametrize("height, samples", [(20.0, 1), (1e3, 1), (1e5, 1), (1e3, 200)])
@pytest.mark.parametrize("speaker", ["rms", "slt"])
def test_a_click_is_silenced_and_said(speaker, height, samples):
    """One wild sample of a recording in floating point made five seconds of speech silent."""
    wav, rng = demo_wav(speaker, "demo_001", HP), np.random.default_rng(0)
    clicked = wav.copy()
    clicked[15000:15000 + samples] += height * (1.0 if samples == 1 else rng.normal(size=samples))
    plain, mended = (utils.normalise_recording(audio_files.Recording(each, HP.sample_rate, []), HP, True, "a.wav")
                     for each in (wav, clicked))
    assert not plain.warnings and len(mended.warnings) == 1
    assert mended.warnings[0].startswith("a.wav: a click at 0.9 s, ")
    assert abs(len(plain.wav) - len(mended.wav)) < 3 * HP.hop_length
    gain = np.sqrt(np.mean(mended.wav[:14000] ** 2) / np.mean(plain.wav[:14000] ** 2))
    assert 0.7 < gain < 1.1
    clicked = wav.copy()
    clicked[[9000, 9000 + round(0.05 * HP.sample_rate), 20000]] = height
    assert len(utils.find_clicks(clicked, HP.sample_rate, HP)) == 3  # also two after each other, as of a switch
    # A sound that lasts is no click, nor is the only sound in silence
    alone = np.pad(tone(1000, HP.sample_rate)[:400], 16000).astype(np.float32)
    beep = np.concatenate([wav, 30.0 * np.abs(wav).max() * tone(1000, HP.sample_rate)[:4000]]).astype(np.float32)
    for sound in (alone, beep):
        assert not any("click" in text for text in utils.normalise_recording(
            audio_files.Recording(sound, HP.sample_rate, []), HP, False, "a.wav").warnings)


@pytest.mark.parametrize("first, then", [("rms", "slt"), ("slt", "rms")])
def test_a_voice_that_is_much_louder_than_the_one_before_is_no_click(first, then):
    """Peaks of somebody near the microphone, after a minute of somebody far from it, were silenced one by one."""
    far = np.tile(np.concatenate([demo_wav(first, f"demo_{number:03d}", HP) for number in range(1, 6)]), 6)
    near, shout = demo_wav(then, "demo_009", HP), demo_wav(then, "demo_010", HP)[6000:12000]
    noise = 0.03 * np.random.default_rng(0).normal(size=30 * HP.sample_rate) * near.std()
    for gain in (0.2, 0.1, 0.03):
        for wav in (np.concatenate([gain * far, near]), np.concatenate([gain * far, shout]),
                    np.concatenate([noise, shout]), np.concatenate([near, gain * near])):
            assert not len(utils.find_clicks(wav.astype(np.float32), HP.sample_rate, HP)), gain


@pytest.mark.parametrize("hertz", [200, 440, 1000, 2500, 3800])
@pytest.mark.parametrize("sample_rate, channels", [(16000, 1), (44100, 2), (8000, 1)])
def test_tone_lands_in_its_mel_band(tmp_path, hertz, sample_rate, channels):
    wav = np.repeat(tone(hertz, sample_rate)[:, None], channels, axis=1)
    mel, linear = utils.spectrograms(load(write(tmp_path / "tone.wav", wav, sample_rate)), HP)
    assert abs(mel[10:-10].mean(axis=0).argmax() - slaney_band(hertz)) <= 1
    assert abs(linear[10:-10].mean(axis=0).argmax() - hertz * HP.n_fft / HP.sample_rate) <= 1


def test_channels_that_are_alike_are_mixed(tmp_path):
    wav = np.stack([tone(440) + 0.5 * tone(1000), 0.5 * tone(440) + tone(1000)], axis=1)
    linear = utils.spectrograms(load(write(tmp_path / "stereo.wav", wav)), HP)[1][10:-10].mean(axis=0)
    level = [HP.range_db * linear[round(hertz * HP.n_fft / HP.sample_rate)] for hertz in (440, 1000, 2000)]
    # Pre-emphasis makes the higher tone about 7 dB louder
    assert level[1] - level[0] == pytest.approx(7.0, abs=2.0) and level[0] > level[2] + 40.0


def test_mel_and_linear_spectrograms_have_the_same_level():
    magnitude = np.full((4, HP.n_linear), 2.0, np.float32)
    np.testing.assert_allclose(utils.mel_of_linear(utils.normalise(magnitude, HP), HP),
                               utils.normalise(magnitude[:, :HP.n_mels], HP), atol=1e-4)


def test_normalise_and_denormalise_are_inverse():
    spectrogram = np.linspace(0.0, 1.0, 101, dtype=np.float32)[:, None]
    np.testing.assert_allclose(utils.normalise(utils.denormalise(spectrogram, HP), HP), spectrogram, atol=1e-5)
    assert utils.denormalise(np.zeros((1, 1)), HP) == 0.0  # silence is silent
    assert utils.normalise(np.array([[10 ** (HP.top_db / 20)]]), HP) == pytest.approx(1.0)
    assert utils.normalise(np.array([[10 ** ((HP.top_db - HP.range_db / 4) / 20)]]), HP) == pytest.approx(0.75)


def test_speech_fits_into_the_range():
    mel, linear = utils.spectrograms(demo_wav("slt", "demo_001", HP), HP)
    assert mel.shape == (len(linear), HP.n_mels) and linear.shape[1] == HP.n_linear
    assert (linear == 1.0).mean() < 1e-3 and linear.max() > 0.7  # neither clipped nor far below the top
    assert (linear == 0.0).mean() < 0.25


def pitch_of(wav: np.ndarray) -> np.ndarray:
    return utils.octaves(analysis.pitch(wav, HP), HP)


def test_griffin_lim_reproduces_speech():
    wav = demo_wav("slt", "demo_002", HP)
    copy = utils.griffin_lim(utils.spectrograms(wav, HP)[1], pitch_of(wav), HP.replace(power=1.0))
    assert abs(len(copy) - len(wav)) <= HP.hop_length
    assert metrics.compare(metrics.analyse(copy, HP), metrics.analyse(wav, HP))["MCD dB"] < 1.0
    levels = [np.abs(utils.stft(x, HP)).mean(axis=1) for x in (copy, wav)]
    n = min(map(len, levels))
    assert np.corrcoef(levels[0][:n], levels[1][:n])[0, 1] > 0.95
    pitches = [pitch_of(x)[:n] for x in (copy, wav)]
    voiced = np.minimum(*(pitch[:, 1] for pitch in pitches)) > 0.5
    assert voiced.sum() > 50 and np.median(np.abs(pitches[0] - pitches[1])[voiced, 0]) < 0.01


def test_griffin_lim_converges_faster_from_the_right_pitch():
    """Five iterations from the right pitch come closer to the recording than five from noise."""
    wav = demo_wav("slt", "demo_002", HP)
    linear, pitch = utils.spectrograms(wav, HP)[1], pitch_of(wav)
    few = HP.replace(griffin_lim_iters=5, power=1.0)
    right, whispered = (metrics.compare(metrics.analyse(utils.griffin_lim(linear, x, few), HP),
                                        metrics.analyse(wav, HP))["MCD dB"] for x in (pitch, pitch * [1.0, 0.0]))
    assert right < 0.8 * whispered


def test_excitation_is_pulses_at_the_pitch_and_noise_elsewhere():
    octaves = np.log2(200.0 / HP.pitch_middle)
    pitch = np.array([[octaves, 1.0]] * 81 + [[octaves, 0.0]] * 80)
    wav = utils.excitation(pitch, HP)
    assert len(wav) == 160 * HP.hop_length
    voiced, unvoiced = wav[:80 * HP.hop_length], wav[81 * HP.hop_length:]
    places = np.flatnonzero(voiced > 3.0)
    assert set(np.diff(places)) <= {79, 80, 81} and len(places) == pytest.approx(200, abs=1)
    assert np.std(unvoiced) == pytest.approx(1.0, abs=0.05) and (unvoiced > 3.0).mean() < 0.01
    assert np.std(voiced) == pytest.approx(1.0, abs=0.1)


def test_excitation_clips_the_pitch_to_its_limits():
    wav = utils.excitation(np.array([[-2000.0, 1.0]] * 40 + [[2000.0, 1.0]] * 41), HP)
    low, high = (np.diff(np.flatnonzero(part > 3.0)) for part in (wav[:39 * HP.hop_length], wav[41 * HP.hop_length:]))
    assert np.median(low) == pytest.approx(HP.sample_rate / HP.pitch_min, abs=1)
    assert np.median(high) == pytest.approx(HP.sample_rate / HP.pitch_max, abs=1)


def test_griffin_lim_sharpens_each_frame_and_keeps_its_level():
    wav = demo_wav("slt", "demo_001", HP)
    linear = utils.spectrograms(wav, HP)[1]
    sharp, plain = (utils.denormalise(utils.spectrograms(utils.griffin_lim(
        linear, pitch_of(wav), HP.replace(power=power)), HP)[1], HP) for power in (1.5, 1.0))
    speech = plain.mean(axis=1) > 0.1 * plain.mean(axis=1).max()
    contrast = [(x.std(axis=1) / x.mean(axis=1))[speech] for x in (sharp, plain)]
    assert np.median(contrast[0] / contrast[1]) > 1.2
    levels = 20.0 * np.log10((sharp.mean(axis=1) / plain.mean(axis=1))[speech])
    assert np.abs(levels).mean() < 1.0  # dB; 2.2 if only the sum of all frames were kept


@pytest.mark.parametrize("peak", [0.1, 0.999, 5.0])
def test_save_wav_is_16_bit_and_never_clips(tmp_path, peak):
    path = tmp_path / "new" / "out.wav"
    wav = peak * 2 * tone(440)
    audio_files.save_wav(path, wav, HP)
    info = soundfile.info(path)
    assert (info.subtype, info.format, info.samplerate, info.channels) == ("PCM_16", "WAV", HP.sample_rate, 1)
    written = soundfile.read(path)[0]
    assert np.abs(written).max() <= 0.9901
    scale = min(1.0, 0.99 / np.abs(wav).max())  # attenuated as a whole, and neither clipped nor amplified
    np.testing.assert_allclose(written, wav * scale, atol=1e-4)


def test_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "out.wav"
    audio_files.save_wav(path, tone(440), HP)
    before = path.read_bytes()

    def disk_full(file, content):
        open(file, "wb").write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(pathlib.Path, "write_bytes", disk_full)
    with pytest.raises(UserError, match=r"out.wav: cannot be written \(No space left on device\); free some"):
        audio_files.save_wav(path, tone(880), HP)
    assert path.read_bytes() == before and leftovers(tmp_path) == []


def test_features_do_not_depend_on_the_level_of_a_recording(tmp_path):
    wav = words(3)
    loud, quiet = (utils.spectrograms(load(write(tmp_path / f"{gain}.wav", gain * wav, subtype="FLOAT")),
                                      HP)[0] for gain in (1.0, 0.1))
    assert loud.max() > 0.7
    np.testing.assert_allclose(quiet, loud, atol=1e-3)


def test_loudness_is_measured_on_speech_and_not_on_pauses():
    speech = words(4)
    alone, paused = utils.normalise_loudness(speech, HP), utils.normalise_loudness(
        np.concatenate([speech, np.zeros(3 * len(speech), np.float32)]), HP)
    assert 10 * np.log10(np.mean(alone ** 2)) == pytest.approx(HP.loudness_db, abs=0.5)
    np.testing.assert_allclose(paused[:len(speech)], alone, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("hertz", [50.0, 60.0])
def test_a_hum_that_is_louder_than_the_speech_is_removed_and_said(tmp_path, hertz):
    """By level and spectrum a recording with a hum of 18 dB above the speech was another recording."""
    speech = words(3, seconds=3.0, pitch=110.0)
    hum = 8.0 * np.sqrt(2.0) * np.sqrt(np.mean(speech ** 2)) * np.sin(
        2.0 * np.pi * hertz * np.arange(len(speech)) / HP.sample_rate)
    found = []
    for wav in (speech, speech + hum.astype(np.float32)):
        write(tmp_path / "a.wav", 0.05 * wav, subtype="FLOAT")
        found.append(utils.load_recording(tmp_path / "a.wav", HP, trim=False))
    assert not found[0].warnings and f"a hum of {hertz:.0f} Hz, 1" in found[1].warnings[0]
    assert "dB above the rest, is removed" in found[1].warnings[0]
    clean, noisy = (utils.spectrograms(each.wav, HP)[0] for each in found)
    spoken = clean.mean(axis=1) > np.percentile(clean.mean(axis=1), 50)
    assert np.abs(clean - noisy)[spoken, 8:].mean() < 0.06  # 4.8 dB, of 18


def test_wind_that_is_louder_than_the_speech_is_removed_and_said(tmp_path):
    speech = demo_wav("slt", "demo_001", HP)
    wind = scipy.signal.sosfilt(scipy.signal.butter(8, (45, 60), "bandpass", fs=HP.sample_rate, output="sos"),
                                np.random.default_rng(0).normal(size=len(speech)))
    write(tmp_path / "a.wav", 0.05 * (speech + 4.0 * speech.std() / wind.std() * wind), subtype="FLOAT")
    (said,) = utils.load_recording(tmp_path / "a.wav", HP).warnings
    assert "a hum, or pops of breath, are louder" in said


def sentences(speaker: str, first: int, last: int) -> np.ndarray:
    """Sentences of the demo with pauses between them."""
    return np.concatenate([np.pad(demo_wav(speaker, f"demo_{number:03d}", HP), 3000)
                           for number in range(first, last + 1)])


@pytest.mark.parametrize("speaker, first", [("rms", 1), ("rms", 7), ("slt", 4), ("slt", 7)])
@pytest.mark.parametrize("mains, overtones", [(60.02, range(2, 20, 2)), (49.97, range(1, 16)), (183.0, (1,))])
def test_a_hum_with_overtones_is_subtracted_and_leaves_the_voice(tmp_path, speaker, first, mains, overtones):
    """It was heard as a voice of 120 Hz that sings, and moved pitch and timbre of whoever spoke."""
    speech, rng = sentences(speaker, first, first + 2), np.random.default_rng(first)
    seconds = np.arange(len(speech)) / HP.sample_rate
    hum = sum(np.sin(2 * np.pi * mains * k * seconds + rng.uniform(0, 6)) / k ** 0.7 for k in overtones)
    for below in (10.0, 20.0):
        noise = speech.std() / hum.std() * 10.0 ** (-below / 20.0) * hum
        rest, said = subtract((speech + noise).astype(np.float32), HP.sample_rate)
        assert f"a hum of {mains:.0f} Hz, {below:.0f} dB below" in said
        assert np.mean((rest - speech) ** 2) < 0.05 * np.mean(noise ** 2)
    write(tmp_path / "a.wav", 0.3 * (speech + noise), subtype="FLOAT")
    assert f"a hum of {mains:.0f} Hz" in utils.load_recording(tmp_path / "a.wav", HP).warnings[0]


@pytest.mark.parametrize("speaker", ["rms", "slt"])
def test_speech_and_melodies_have_no_hum(speaker):
    for number in range(1, 13):
        speech = demo_wav(speaker, f"demo_{number:03d}", HP)
        assert subtract(speech, HP.sample_rate) == (pytest.approx(speech), "")
    seconds = np.arange(8 * HP.sample_rate) / HP.sample_rate
    for notes in ((220.0,), (220.0, 247.0, 262.0, 220.0)):  # a tone alone is the sound itself
        melody = np.sin(2 * np.pi * np.cumsum(np.repeat(notes, len(seconds) // len(notes))) / HP.sample_rate)
        assert subtract(melody.astype(np.float32), HP.sample_rate)[1] == ""


def test_a_fan_that_goes_on_half_way_is_subtracted_where_it_blows():
    speech = np.tile(sentences("slt", 1, 24), 3)[:125 * HP.sample_rate]
    fan = 0.2 * speech.std() * np.sin(2 * np.pi * 317.0 * np.arange(len(speech)) / HP.sample_rate).astype(np.float32)
    half = len(speech) // 2
    fan[:half] = 0.0
    rest, said = subtract(speech + fan, HP.sample_rate)
    assert "a hum of 317 Hz" in said
    np.testing.assert_array_equal(rest[:half], speech[:half])
    assert np.mean((rest - speech)[half:] ** 2) < 0.05 * np.mean(fan[half:] ** 2)


@pytest.mark.parametrize("speaker, first", [("rms", 1), ("rms", 7), ("slt", 4)])
@pytest.mark.parametrize("since", ["mp3", "ogg", "resampled"])
def test_a_recording_that_was_too_loud_and_encoded_since_is_remarked_on(tmp_path, speaker, first, since):
    """After an encoder or a resampler, peaks that were cut off are no longer flat, and nothing was said."""
    speech, ending = sentences(speaker, first, first + 2), {"mp3": "mp3", "ogg": "ogg", "resampled": "flac"}[since]
    for share in (0.0, 0.1):
        most = np.quantile(np.abs(speech), 1.0 - share)
        wav, rate = 0.9 * np.clip(speech, -most, most) / most, HP.sample_rate
        if since == "resampled":
            wav, rate = soxr.resample(0.5 * wav, rate, 22050), 22050
        soundfile.write(tmp_path / f"a.{ending}", wav, rate)
        told = utils.load_recording(tmp_path / f"a.{ending}", HP).warnings
        assert ["recorded too loud" in text for text in told] == [True] * (share > 0.0)


def test_what_is_even_by_nature_was_not_too_loud():
    seconds = np.arange(3 * HP.sample_rate) / HP.sample_rate
    assert not utils.was_clipped(np.sin(2 * np.pi * 440.0 * seconds).astype(np.float32), HP)
    speech = sentences("rms", 1, 3)
    level = np.sqrt(np.convolve(speech ** 2, np.ones(3200) / 3200, "same")) + 0.1 * speech.std()
    assert not utils.was_clipped(speech, HP) and not utils.was_clipped((speech / level).astype(np.float32), HP)
    assert not utils.was_clipped(speech[:3000], HP) and not utils.was_clipped(speech[:10], HP)


def test_a_low_voice_is_no_hum(tmp_path):
    write(tmp_path / "a.wav", words(3, seconds=3.0, pitch=65.0))
    assert not utils.load_recording(tmp_path / "a.wav", HP).warnings


@pytest.mark.parametrize("hertz, db", [(8.0, 10.0), (8.0, -10.0), (0.0, 20.0), (15.0, 0.0), (25.0, 0.0)])
def test_rumble_changes_nothing(tmp_path, hertz, db):
    """By level, pitch and trimming a recording with rumble was another recording."""
    speech = 0.2 * demo_wav("slt", "demo_001", HP)
    loud = np.sqrt(2.0 * np.mean(speech ** 2)) * 10 ** (db / 20)
    rumble = loud * np.cos(2 * np.pi * hertz * np.arange(len(speech)) / HP.sample_rate + 1.0)
    clean, found = (load(write(tmp_path / "a.wav", wav, subtype="FLOAT"))
                    for wav in (speech, speech + rumble.astype(np.float32)))
    middle = slice(2000, len(clean) - 2000)  # the filter needs a little at both ends
    assert len(found) == pytest.approx(len(clean), abs=400)
    n = min(len(found), len(clean))
    assert 10 * np.log10(np.mean((found[:n] - clean[:n])[middle] ** 2) / np.mean(clean[middle] ** 2)) < -15


@pytest.mark.parametrize("kind", ["beep", "knock", "buzzer"])
@pytest.mark.parametrize("db", [20.0, 30.0])
def test_a_noise_that_is_louder_than_the_speech_changes_neither_its_level_nor_its_ends(tmp_path, kind, db):
    rng, speech = np.random.default_rng(0), 0.02 * np.tile(demo_wav("slt", "demo_001", HP), 4)
    seconds = np.arange(8000) / HP.sample_rate
    noise = {"beep": np.sin(2 * np.pi * 1000 * seconds), "buzzer": np.sign(np.sin(2 * np.pi * 150 * seconds)),
             "knock": rng.normal(size=8000) * np.exp(-seconds / 0.03)}[kind]
    wav = np.concatenate([np.zeros(16000), speech])
    wav[4000:12000] += noise * np.sqrt(np.mean(speech ** 2) / np.mean(noise ** 2)) * 10 ** (db / 20)
    clean, found = (load(write(tmp_path / "a.wav", each, subtype="FLOAT")) for each in (speech, wav))
    assert len(found) >= len(clean) - 1600
    ratio = np.mean(found[-len(clean) // 2:] ** 2) / np.mean(clean[-len(clean) // 2:] ** 2)
    assert abs(10 * np.log10(ratio)) < 2.0


@pytest.mark.parametrize("kind", ["tone", "noise"])
@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("voice, sentence", [("slt", "demo_001"), ("rms", "demo_023"), ("rms", "demo_007")])
def test_a_steady_sound_that_is_louder_than_a_single_sentence_does_not_count_as_speech(voice, sentence, seconds, kind):
    """A beep of half a second before it made every second sentence nearly silent: it was a third of what is active."""
    speech = demo_wav(voice, sentence, HP)
    time = np.arange(round(seconds * HP.sample_rate)) / HP.sample_rate
    noise = np.sin(2 * np.pi * 440 * time) if kind == "tone" else np.random.default_rng(0).normal(size=len(time))
    loud = 30.0 * noise * np.sqrt(np.mean(speech ** 2) / np.mean(noise ** 2))
    pause = np.zeros(HP.sample_rate // 5)
    found = utils.normalise_loudness(np.concatenate([pause, loud, pause, speech]), HP)[-len(speech):]
    ratio = np.mean(found ** 2) / np.mean(utils.normalise_loudness(speech, HP) ** 2)
    assert abs(10 * np.log10(ratio)) < 1.0


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_held_vowels_are_no_steady_sounds_beside_speech(seconds):
    """Breath between sung notes was taken for the speech: they became a hundred times too loud."""
    time = np.arange(round(seconds * HP.sample_rate)) / HP.sample_rate
    rise = np.minimum(1.0, np.minimum(time, seconds - time) / 0.1)
    vowel = rise * sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
    breath = 0.05 * np.random.default_rng(0).normal(size=6000) * np.hanning(6000) * np.std(vowel)
    for gap in (np.zeros(8000), breath):
        found = utils.normalise_loudness(np.concatenate(3 * [gap, vowel]), HP)
        middle = found[len(gap) + 3200:len(gap) + len(vowel) - 3200]
        assert 20 * np.log10(np.std(middle)) == pytest.approx(HP.loudness_db, abs=3.0)


@pytest.mark.parametrize("seconds", [0.5, 5.0])
@pytest.mark.parametrize("noise", [0.0, 0.0003])
def test_offset_and_silence_at_both_ends_are_removed(tmp_path, seconds, noise):
    speech, silence = demo_wav("slt", "demo_001", HP), np.zeros(round(seconds * HP.sample_rate), np.float32)
    wav = np.concatenate([silence, speech, silence])
    wav += 0.1 + noise * np.random.default_rng(0).normal(size=len(wav))
    trimmed = load(write(tmp_path / "a.wav", wav, subtype="FLOAT"))
    assert len(trimmed) == pytest.approx(len(speech), abs=0.2 * HP.sample_rate) and abs(trimmed.mean()) < 1e-3
    assert len(load(tmp_path / "a.wav", trim=False)) == len(wav)


def test_cepstra_ignore_the_level_and_keep_the_shape():
    mel = utils.spectrograms(words(6), HP)[0]
    np.testing.assert_allclose(utils.cepstra(mel + 0.1, HP), utils.cepstra(mel, HP), atol=1e-3)
    bands = np.arange(HP.n_mels) + 0.5
    ripple = 3.0 / HP.range_db * np.cos(np.pi * 4 * bands / HP.n_mels)  # dB; its root mean square is 3 / sqrt(2)
    distance = np.linalg.norm(utils.cepstra(mel + ripple, HP) - utils.cepstra(mel, HP), axis=1)
    np.testing.assert_allclose(distance, 3.0 / np.sqrt(2.0), rtol=1e-3)


def test_octaves_are_counted_from_the_middle():
    found = utils.octaves(np.array([0.0, 0.5, 1.0, 2.0]) * HP.pitch_middle, HP)
    np.testing.assert_allclose(found, [[0, 0], [-1, 1], [0, 1], [1, 1]], atol=1e-6)


def test_mel_to_bins_interpolates_between_the_centres_of_bands():
    spread = utils.mel_to_bins(HP.sample_rate, HP.n_fft, HP.n_mels)
    np.testing.assert_allclose(spread.sum(axis=0), 1.0, atol=1e-6)
    hertz = np.arange(HP.n_linear) * HP.sample_rate / HP.n_fft
    centres = utils.mel_centres(HP.sample_rate, HP.n_mels)
    inside = (hertz > centres[0]) & (hertz < centres[-1])
    np.testing.assert_allclose((centres @ spread)[inside], hertz[inside], rtol=1e-5)


@pytest.mark.parametrize("pauses", [0.0, 1e-3])
@pytest.mark.parametrize("loud_first", [True, False])
def test_speech_that_trimming_cuts_off_is_said_to_be(tmp_path, pauses, loud_first):
    """Between digital silence, and where most of the recording is loud, nobody was told."""
    near, far = (wav / np.abs(wav).max() for wav in (demo_wav("slt", "demo_004", HP), demo_wav("rms", "demo_002", HP)))
    pause, parts = np.zeros(HP.sample_rate // 2), [0.9 * near, 0.02 * far]
    parts = parts if loud_first else parts[::-1]
    wav = np.concatenate([pause, parts[0], pause, parts[1], pause])
    wav += pauses * 0.1 * np.random.default_rng(0).standard_normal(len(wav))
    soundfile.write(tmp_path / "a.wav", wav, HP.sample_rate)
    kept, _, warnings = utils.load_recording(tmp_path / "a.wav", HP)
    assert len(kept) < 1.2 * len(near) and "s of sound are cut off as silence" in warnings[0]
    soundfile.write(tmp_path / "b.wav", parts[0], HP.sample_rate)
    assert not utils.load_recording(tmp_path / "b.wav", HP).warnings
