"""What the machine, its settings and other programs hand on does not stop a command."""
import base64
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

import utils
from common import audio_files, cli
from common.cli import UserError
from conftest import DEMO, TINY, untrained_run, words, write
from conversion import inference
from corpus import analysis
from training import run_folder

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?", "{x}"])
def test_any_path_holds_a_run(tmp_path, name):
    """Many functions take some of them for patterns."""
    assert inference.load_converter(untrained_run(tmp_path / name)).hp == TINY


def test_settings_of_a_notebook_or_of_another_keras_are_not_taken_over(tmp_path):
    # TensorBoard, which run_folder imports, reads tf.keras
    code = ("from training import run_folder; import keras, modules; from evaluation import figures; "
            "print(keras.backend.backend(), keras.config.floatx(), keras.config.image_data_format())")
    (tmp_path / "keras.json").write_text('{"floatx": "float64", "image_data_format": "channels_first"}')
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(utils.__file__), text=True,
                          capture_output=True, env=os.environ | {"KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1",
                                                                     "MPLBACKEND": "nonsense",
                                                                     "KERAS_HOME": str(tmp_path)})
    assert done.stdout.split() == ["tensorflow", "float32", "channels_last"] and not done.stderr


def test_a_name_in_another_script_is_drawn_without_warnings(tmp_path):
    code = (f"import sys; sys.argv = ['', '--verbose']; from evaluation import figures\n"
            f"figures.plot_curves('{tmp_path}/a.png', {{'日本語': ([1, 2], [1.0, 2.0])}}, 'a', 'b')")
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(utils.__file__), text=True,
                          capture_output=True, env=os.environ | {"PYTHONWARNINGS": "error::UserWarning"})
    assert not done.stderr and (tmp_path / "a.png").stat().st_size > 1000


def test_as_many_processes_as_cores_are_allowed(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert cli.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cli.cores() == os.cpu_count()


@pytest.mark.parametrize("group, files, allowed", [
    ("0::/", {}, 8e9), ("0::/", {"memory.max": "max"}, 8e9), ("0::/", {"memory.max": "1000000000"}, 1e9),
    ("0::/job/step", {"job/memory.max": "2000000000", "job/step/memory.max": "max"}, 2e9),
    ("4:memory:/docker/x", {"memory/memory.limit_in_bytes": "3000000000"}, 3e9),
    ("0::/", {"memory.max": "64000000000"}, 8e9)])
def test_memory_is_what_is_free_and_allowed(tmp_path, group, files, allowed):
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    7812500 kB\n", "proc/self/cgroup": group, **{
            f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cli.memory(tmp_path) == allowed and cli.memory(tmp_path / "nowhere") == float("inf")


@pytest.mark.parametrize("free, cores, processes", [(64e9, 3, 3), (1.3e9, 16, 2), (1e8, 16, 1)])
def test_no_more_processes_than_the_memory_holds(monkeypatch, free, cores, processes):
    started = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, at_once, *others):
            started.append(at_once)
            super().__init__(1)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(cli, "cores", lambda: cores)
    monkeypatch.setattr(cli, "memory", lambda: free)
    with cli.workers() as run:
        assert run(abs, [(-1,), (2,)], "absolute") == [1, 2] and started == [processes]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "session" / "a.wav", words(1))
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "link").symlink_to(tmp_path / "session")
    (tmp_path / "session" / "back").symlink_to(tmp_path / "speaker")
    assert [path.name for path in audio_files.list_audio(tmp_path / "speaker")] == ["a.wav"]


def test_voice_messages_are_decoded_by_ffmpeg_or_refused_with_the_command(tmp_path, monkeypatch):
    source, message = write(tmp_path / "a.wav", words(1)), tmp_path / "my message.m4a"
    message.write_bytes(b"not audio")
    assert message in audio_files.list_audio(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(audio_files.BadAudio, match="only ffmpeg .* ffmpeg -i .*my message.m4a' '.*my message.wav'"):
        utils.load_recording(message, TINY)
    ffmpeg = tmp_path / "ffmpeg"  # a stand-in, which copies a recording to its last argument
    ffmpeg.write_text(f"#!/bin/sh\nfor last; do :; done\ncp {source} \"$last\"\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(ffmpeg))
    assert (utils.load_recording(message, TINY).wav == utils.load_recording(source, TINY).wav).all()
    with pytest.raises(audio_files.BadAudio, match="my message.m4a: is silent"):
        write(source, np.zeros(16000)) and utils.load_recording(message, TINY)
    with pytest.raises(audio_files.BadAudio, match="my message.m4a: has 2 channels, --channel 3"):
        write(source, np.zeros((16000, 2))) and utils.load_recording(message, TINY, channel=3)
    ffmpeg.write_text("#!/bin/sh\necho moov atom not found >&2; exit 1\n")
    with pytest.raises(audio_files.BadAudio, match="my message.m4a: cannot be decoded by ffmpeg .moov atom"):
        utils.load_recording(message, TINY)


@pytest.mark.parametrize("ending", ["m4a", "aac", "webm", "amr", "tta"])
def test_real_voice_messages_are_decoded(tmp_path, monkeypatch, ending):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    source, message = DEMO / "rms" / "demo_001.ogg", tmp_path / f"-my [message] 1.{ending}"
    sample_rate = {"amr": "8000", "webm": "48000"}.get(ending, "44100")
    subprocess.run([ffmpeg, "-v", "error", "-i", source, "-ar", sample_rate, f"file:{message}"], check=True)
    sent, heard = (utils.mel_in_blocks(utils.load_recording(path, TINY).wav, TINY)[:, :30]
                   for path in (source, message))
    assert len(heard) == pytest.approx(len(sent), abs=10)
    middle = slice(20, len(sent) - 20)  # codecs delay speech by up to 60 ms
    best = max(np.corrcoef(sent[middle].ravel(), np.roll(heard, lag, axis=0)[middle].ravel())[0, 1]
               for lag in range(-6, 7))
    assert best > 0.95
    content = message.read_bytes()
    message.write_bytes(content[:len(content) * 6 // 10])
    if ending == "m4a":  # its index is at its end
        with pytest.raises(audio_files.BadAudio, match=r"-my \[message\] 1.m4a: cannot be decoded by ffmpeg"):
            utils.load_recording(message, TINY)
    else:
        assert "ffmpeg found it damaged or cut off" in audio_files.read_audio(message, TINY).warnings[0]


def test_sound_that_begins_late_or_is_louder_than_full_scale_is_read_as_it_is(tmp_path, monkeypatch):
    """Of a video whose sound begins after its picture the silence was left out; 16 bits cut the peaks."""
    ffmpeg, message = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "late.mkv"
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    wav = 3.0 * words(1) / np.abs(words(1)).max()
    write(tmp_path / "a.wav", wav, subtype="FLOAT")
    picture = ["-f", "lavfi", "-i", "color=size=16x16:rate=5:duration=4"]
    subprocess.run([ffmpeg, "-v", "error", *picture, "-itsoffset", "2", "-i", tmp_path / "a.wav", "-map", "0:v",
                    "-map", "1:a", "-c:a", "pcm_f32le", "-c:v", "mpeg4", message], check=True)
    found = audio_files.read_audio(message, TINY).wav
    assert len(found) == pytest.approx(48000, abs=400) and not found[:31500].any()
    assert np.abs(found).max() == pytest.approx(3.0, rel=1e-3)


def test_joined_messages_of_ffmpeg_are_read_to_their_end(tmp_path, monkeypatch):
    """Their time stamps begin anew."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    write(tmp_path / "a.wav", np.tile(words(1), 2))
    subprocess.run([ffmpeg, "-v", "error", "-i", tmp_path / "a.wav", tmp_path / "a.webm"], check=True)
    (tmp_path / "b.webm").write_bytes(2 * (tmp_path / "a.webm").read_bytes())
    found = audio_files.read_audio(tmp_path / "b.webm", TINY)
    assert len(found.wav) / found.sample_rate == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("ending, seconds", [("ogg", 4), ("opus", 4), ("ogg", 30), ("mp3", 30)])
def test_a_file_that_is_damaged_in_the_middle_is_said_to_be(tmp_path, ending, seconds):
    """What could not be decoded was left out, or replaced by silence, without a word."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.tile(words(1), seconds), 16000, format="MP3" if ending == "mp3" else "OGG",
                    subtype={"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}[ending])
    whole = path.read_bytes()
    middle, missing = len(whole) // 2, len(whole) // 32
    others = [whole[:len(whole) - missing], whole[:middle] + whole[middle + missing:]]
    others += [whole[:middle] + bytes(missing) + whole[middle + missing:]] if ending != "mp3" else []
    for content in others:
        path.write_bytes(content)
        assert "seems to be damaged or cut off" in audio_files.read_audio(path, TINY).warnings[0]
    path.write_bytes(whole + b"TAG" + bytes(125))
    assert not audio_files.read_audio(path, TINY).warnings
    if ending == "mp3":  # with a picture in its title
        path.write_bytes(b"ID3\4\0\0\0\0\3\2" + bytes(386) + whole[:-missing])
        assert "seems to be damaged or cut off" in audio_files.read_audio(path, TINY).warnings[0]


def test_ffmpeg_reads_what_begins_like_other_recordings(tmp_path, monkeypatch):
    """An aac file with a title, as an mp3 has it, and Speex, which lies in ogg files."""
    ffmpeg, message = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "message.aac"
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    subprocess.run([ffmpeg, "-v", "error", "-i", DEMO / "rms" / "demo_001.ogg", message], check=True)
    message.write_bytes(b"ID3\4\0\0\0\0\0\4" + bytes(4) + message.read_bytes())
    assert len(audio_files.read_audio(message, TINY).wav) > 16000
    for codec, is_read in ((b"Speex   ", False), (b"OpusHead", True)):
        (tmp_path / "first page.spx").write_bytes(b"OggS" + bytes(24) + codec)
        assert audio_files.begins_as(audio_files.MAGIC, tmp_path / "first page.spx") == is_read


@pytest.mark.parametrize("ending, codec", [("m4a", "aac"), ("webm", "libopus"), ("wma", "wmav2")])
def test_a_recording_that_only_ffmpeg_reads_is_known_by_what_it_holds(tmp_path, monkeypatch, ending, codec):
    """Without an ending a folder's were left out, and as .wav they were refused."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    made, *others = (tmp_path / name for name in (f"a.{ending}", "b", "c.wav", "d.3gpp", "e.awb", "f.m4r"))
    subprocess.run([ffmpeg, "-v", "error", "-i", DEMO / "rms" / "demo_001.ogg", "-c:a", codec, made], check=True)
    for path in others:
        shutil.copy(made, path)
    assert audio_files.list_audio(tmp_path) == [made, *others]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        for path in (made, *others):
            wav = path.with_name("c_2.wav" if path.stem == "c" else f"{path.stem}.wav")
            with pytest.raises(audio_files.BadAudio, match=f"only ffmpeg .* ffmpeg -i {path} {wav}$"):
                audio_files.read_audio(path, TINY)
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    heard = audio_files.read_audio(made, TINY)
    assert len(heard.wav) > 16000 and all(
        np.array_equal(audio_files.read_audio(path, TINY).wav, heard.wav) for path in others)


@pytest.mark.parametrize("made, codec", [("a.caf", "alac"), ("a.wav", "g722"), ("a.aac", "aac")])
def test_ffmpeg_reads_what_libsndfile_does_not_know_in_its_own_containers(tmp_path, monkeypatch, made, codec):
    """They were refused with the command of ffmpeg, though it was there; the last is called .mp3."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-i", DEMO / "rms" / "demo_001.ogg", "-c:a", codec, tmp_path / made],
                   check=True)
    path = (tmp_path / made).rename(tmp_path / made.replace(".aac", ".mp3"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(audio_files.BadAudio, match="convert it to wav|ffmpeg -i"):
        audio_files.read_audio(path, TINY)
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    assert len(audio_files.read_audio(path, TINY).wav) > 16000


@pytest.mark.parametrize("name, subtype", [("a.flac", "PCM_16"), ("a.caf", "PCM_16"), ("a.wav", "G722")])
def test_ffmpeg_reads_nothing_that_is_cut_off(tmp_path, monkeypatch, name, subtype):
    """What libsndfile refuses as damaged, ffmpeg reads in part, and says nothing."""
    ffmpeg, path = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / name
    monkeypatch.setattr(shutil, "which", lambda name: ffmpeg)
    if subtype == "G722":
        subprocess.run([ffmpeg, "-v", "error", "-i", DEMO / "rms" / "demo_001.ogg", "-c:a", "g722", path], check=True)
    else:
        soundfile.write(path, np.tile(words(1), 20), 16000, subtype=subtype)
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.75):
        path.write_bytes(content[:int(share * len(content))])
        with pytest.raises(audio_files.BadAudio, match="cannot be read|cut off"):
            audio_files.read_audio(path, TINY)


@pytest.mark.parametrize("content", ["<!DOCTYPE html>\n<html>", "version https://git-lfs.github.com/spec/v1\noid"])
@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "m4a", "webm"])
def test_a_text_in_the_place_of_a_recording_is_called_a_text(tmp_path, content, ending):
    (tmp_path / f"a.{ending}").write_text(content)
    with pytest.raises(audio_files.BadAudio, match="is a text, .* get the recording itself"):
        audio_files.read_audio(tmp_path / f"a.{ending}", TINY)


def test_a_link_to_a_folder_that_is_gone_is_named(tmp_path):
    """Half of the recordings, on a disk that is not there, were left out without a word."""
    write(tmp_path / "here" / "a.wav", words(1))
    (tmp_path / "here" / "session 2").symlink_to(tmp_path / "disk")
    assert audio_files.list_audio(tmp_path) == [tmp_path / "here" / "a.wav", tmp_path / "here" / "session 2"]
    with pytest.raises(audio_files.BadAudio, match="session 2: does not exist"):
        audio_files.read_audio(tmp_path / "here" / "session 2", TINY)


def test_onnxruntime_does_not_report_its_use():
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1" and analysis.swift_f0


@pytest.mark.parametrize("seconds", [1, 30])
@pytest.mark.parametrize("form, subtype, title", [("ogg", "VORBIS", b""), ("ogg", "OPUS", b""), ("flac", "PCM_16", b""),
                                                  ("mp3", "MPEG_LAYER_III", b""),
                                                  ("mp3", "MPEG_LAYER_III", b"ID3\4\0\0\0\0\1\4" + bytes(132))])
def test_joined_files_are_said_to_be(tmp_path, form, subtype, title, seconds):
    """As after `cat a.ogg b.ogg`: libsndfile reads the first, and knows no length of long ogg files then."""
    joined = b""
    for name, seed in (("a", 1), ("b", 2)):
        path = tmp_path / f"{name}.{form}"
        soundfile.write(path, np.tile(words(seed), seconds), 16000, format=form, subtype=subtype)
        path.write_bytes(title + path.read_bytes())
        assert not audio_files.read_audio(path, TINY).warnings
        joined += path.read_bytes()
        (tmp_path / f"c.{form}").write_bytes(joined)
    assert f"c.{form}: holds several recordings" in audio_files.read_audio(tmp_path / f"c.{form}", TINY).warnings[0]


@pytest.mark.parametrize("name", ["memo", "memo.m4a"])
def test_recordings_are_known_by_what_they_hold(tmp_path, name, monkeypatch):
    """Without an ending they were left out, and under a name of ffmpeg's they were not read without it."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for form in ("WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "RF64", "W64", "NIST"):
        soundfile.write(tmp_path / name, words(1), 16000, format=form)
        assert audio_files.list_audio(tmp_path) == [tmp_path / name]
        assert len(utils.load_recording(tmp_path / name, TINY, trim=False).wav) == 16000
    (tmp_path / "LICENSE").write_text("no recording")
    (tmp_path / "FORMULAS").write_text("FORM A: no recording")
    (tmp_path / "RIFFS").write_text("RIFF and chords")
    os.mkfifo(tmp_path / "pipe")
    assert audio_files.list_audio(tmp_path) == [tmp_path / name]


def test_a_file_that_cannot_be_rewound_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", words(1), 8000, subtype="GSM610")
    read = audio_files.read_audio(tmp_path / "a.wav", TINY)
    assert len(read.wav) / read.sample_rate == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("ending", ["ogg", "opus", "mp3"])
def test_a_file_that_is_cut_off_is_said_to_be(tmp_path, ending):
    """libsndfile reads what is there of it without an error."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.tile(words(1), 4), 16000, format=ending.upper() if ending == "mp3" else "OGG",
                    subtype={"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}[ending])
    assert not audio_files.read_audio(path, TINY).warnings
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    read = audio_files.read_audio(path, TINY)
    assert re.search(rf"a.{ending}: seems to be damaged or cut off: \d.\d s are read", read.warnings[0])
    assert 0.5 < len(read.wav) / read.sample_rate < 3.0


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "RF64", "NIST"])
def test_a_file_whose_header_promises_more_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, np.tile(words(1), 4), 16000, format=kind, subtype="PCM_16")
    assert not audio_files.read_audio(path, TINY).warnings
    missing = path.stat().st_size // 3
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(audio_files.BadAudio, match=r"is cut off, \d+ bytes that its header promises are missing"):
        audio_files.read_audio(path, TINY)
    assert abs(audio_files.missing_bytes(path) - missing) < 100


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_wav_file_that_goes_on_after_its_header_says_so(tmp_path, share):
    """The rest was left out without a word; other chunks may follow."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(words(1), 4), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole + b"LIST" + (5000).to_bytes(4, "little") + bytes(5000))
    assert not audio_files.read_audio(path, TINY).warnings
    path.write_bytes(whole[:40] + round(128000 * share / 2 * 2).to_bytes(4, "little") + whole[44:])
    read = audio_files.read_audio(path, TINY)
    assert f"a.wav: goes on after the {4 * share:.1f} s that its header counts" in read.warnings[0]
    assert len(read.wav) == round(64000 * share)


@pytest.mark.parametrize("gain, told", [(1.0, False), (2.5, True), (10.0, True)])
def test_speech_that_was_recorded_too_loud_is_said_to_be(gain, told):
    for seed, pitch in ((1, 110.0), (2, 210.0)):
        wav = words(seed, pitch=pitch)
        for offset, highest in ((0.0, 1.0), (-3.0, 1.0), (0.0, 100.0)):  # or cut off below alone
            loud = np.clip(gain * wav / np.abs(wav).max(), -1.0, highest) + offset
            loud = audio_files.from_array(loud, 16000, TINY)
            found = utils.normalise_recording(loud, TINY, False, "a.wav").warnings
            assert any("a.wav: was recorded too loud" in text for text in found) == told


def test_the_crests_of_rumble_are_not_cut_off():
    speech, time = words(1), np.arange(16000) / 16000
    for hertz in (5.0, 20.0):
        rumble = audio_files.from_array(0.1 * speech + 0.8 * np.sin(2 * np.pi * hertz * time), 16000, TINY)
        assert not any("too loud" in text for text in utils.normalise_recording(rumble, TINY, False, "a.wav").warnings)


def test_mp2_and_the_spheres_of_speech_corpora_are_read_or_refused_with_the_command(tmp_path):
    frame = base64.b85decode(
        '|Me)uQ!)sG3Mv2q02NhLT5-{TbC=om_8<Ya+kAWtYgzyR18uhW_!`!<000KtZSn9mt!MxM4Yu3k;A>jY000|px5vQNwV(h1Hrs'
        'EHfvsym003>a-yZ{7)_?#2+iku+2DPmK00Fk!e0&XSS^xk8ZMOLM8rHM`00!G_@$faRXaE2Ww%g<2Yg*6%')  # a tone of 1 kHz
    (tmp_path / "a.mp2").write_bytes(12 * frame)
    wav, sample_rate, _ = audio_files.read_audio(tmp_path / "a.mp2", TINY)
    assert np.abs(np.fft.rfft(wav)).argmax() * sample_rate / len(wav) == pytest.approx(1000.0, abs=2.0)
    soundfile.write(tmp_path / "a.sph", wav, sample_rate, format="NIST", subtype="PCM_16")
    np.testing.assert_allclose(audio_files.read_audio(tmp_path / "a.sph", TINY).wav, wav, atol=1e-3)
    content = (tmp_path / "a.sph").read_bytes()
    shorter = content.replace(b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00", 1)
    (tmp_path / "my a.sph").write_bytes(shorter)
    (tmp_path / "b.mp2").write_bytes(bytes(range(200)))
    for name, cure in (("my a.sph", "sph2pipe -f wav '{0}/my a.sph' '{0}/my a.wav'"),
                       ("b.mp2", "ffmpeg -i {0}/b.mp2 {0}/b.wav")):
        with pytest.raises(audio_files.BadAudio, match=re.escape(f"convert it to wav: {cure.format(tmp_path)}")):
            audio_files.read_audio(tmp_path / name, TINY)


@pytest.mark.parametrize("home", [True, False])
def test_alignment_finds_a_place_for_numba_where_neither_packages_nor_home_can_be_written(tmp_path, home):
    """As in a container. A stand-in for librosa, which compiles for long, asks numba for a place."""
    code = f"""import os, tempfile
writes, access = tempfile.TemporaryFile, os.access
def write(*arguments, dir=None, **others):
    if dir is not None and not str(dir).startswith(tempfile.gettempdir()):
        raise PermissionError(13, "Read-only", str(dir))
    return writes(*arguments, dir=dir, **others)
tempfile.TemporaryFile = write
os.access = lambda path, mode: str(path) != {str(tmp_path / "home")!r} and access(path, mode)
import imageio_ffmpeg
import numpy as np
from corpus import alignment
print(alignment.dtw(np.zeros((3, 1)), np.zeros((3, 1)))[0])"""
    for folder in ("packages", "tmp", *["home"] * home):
        (tmp_path / folder).mkdir()
    (tmp_path / "packages" / "librosa.py").write_text("""import numba, numpy, types
@numba.njit(cache=True)
def compiled(): pass
sequence = types.SimpleNamespace(dtw=lambda C: (C, numpy.array([[0, 1]])))""")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    paths = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp", "PYTHONPATH": tmp_path / "packages"}
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(utils.__file__), text=True,
                          capture_output=True, env=environment | {name: str(path) for name, path in paths.items()})
    assert done.stdout == "[[0 1]]\n", done.stderr
    assert list((tmp_path / "tmp").glob("numba-*"))


def test_a_run_and_its_features_move_together(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "data").mkdir(parents=True)
    (old / "data" / "manifest.csv").write_text("name,source_file\na,/somewhere/a.wav\n")
    run_folder.write_run_info(old / "logdir" / "run", "train.py", old / "data", 1)
    old.rename(new)
    info = run_folder.read_run_info(new / "logdir" / "run")
    assert info["data"] == new / "data"
    (new / "data" / "manifest.csv").write_text("name,source_file\na,/elsewhere/a.wav\n")
    run_folder.check_run_info(info, new / "logdir" / "run", "train.py", new / "data", None)
    (new / "data" / "manifest.csv").write_text("name,source_file\nb,/elsewhere/a.wav\n")
    with pytest.raises(UserError, match="prepro.py found other recordings"):
        run_folder.check_run_info(info, new / "logdir" / "run", "train.py", new / "data", None)


def test_a_recording_that_is_gone_is_called_missing(tmp_path):
    with pytest.raises(audio_files.BadAudio, match="gone.wav: does not exist"):
        utils.load_recording(tmp_path / "gone.wav", TINY)


COMMAND = """import os, pathlib, sys
from common import cli

def work():
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        assert file.fileno() > 2, "a file got the number of a standard stream"
        print("wört é \\u4e2d \\udce9")
        print("warning: é \\U0001f3a4", file=sys.stderr)
        os.write(2, b"a library's message\\n")
        assert sys.stdin.read() == ""
        file.write("done")
    print("wrote", os.path.basename(sys.argv[1]))

sys.exit(cli.run_main("x.py", work))
"""
NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def in_a_shell(tmp_path, redirection: str, **environment: str) -> subprocess.CompletedProcess:
    """Run COMMAND with its streams redirected."""
    (tmp_path / "x.py").write_text(COMMAND, encoding="utf-8")
    command = f'"{sys.executable}" "{tmp_path / "x.py"}" "{tmp_path / "œuvre"}" {redirection}'
    return subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                          env=os.environ | {"PYTHONPATH": os.path.dirname(utils.__file__)} | environment)


@pytest.mark.parametrize("redirection, environment", [
    ("", {}), ("2>&-", {}), (">&-", {}), ("<&-", {}), (">&- 2>&-", {}), ("<&- >&- 2>&-", NOT_UTF8), ("", NOT_UTF8),
    ("", {"PYTHONIOENCODING": "ascii"}), ("2>&-", {"PYTHONIOENCODING": "latin-1"}),
    ("<&-", {"PYTHONIOENCODING": "ascii:strict"})])
def test_closed_streams_and_foreign_encodings_keep_no_command_from_its_work(tmp_path, redirection, environment):
    done = in_a_shell(tmp_path, redirection, **environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "œuvre").read_text() == "done"
    if redirection in ("", "<&-"):
        assert b"wrote" in done.stdout and b"\\udce9" in done.stdout and b"a library's message" in done.stderr


def test_who_reads_no_warnings_gets_the_files(tmp_path):
    """As with `2>&1 >/dev/null | true`."""
    (tmp_path / "x.py").write_text(COMMAND, encoding="utf-8")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, tmp_path / "x.py", tmp_path / "œuvre"], stderr=write, timeout=60,
                          stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.path.dirname(utils.__file__)})
    os.close(write)
    assert done.returncode == 0 and (tmp_path / "œuvre").read_text() == "done"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is imitated by /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # output fails at the end, or before the work is done
def test_output_that_cannot_be_written_is_said_when_everything_is_done(tmp_path, unbuffered):
    done = in_a_shell(tmp_path, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (tmp_path / "œuvre").read_text() == "done" and done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.endswith(
        b"x.py: standard output cannot be written (No space left on device); all files are written\n")
    done = in_a_shell(tmp_path, ">/dev/full 2>&1", PYTHONUNBUFFERED=unbuffered)
    assert (tmp_path / "œuvre").read_text() == "done" and done.returncode == 1
