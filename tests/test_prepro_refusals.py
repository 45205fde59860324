"""What preparation does not take: files of somebody else, recordings of the target among a source's, flags in vain."""
import shutil

import prepro
from conftest import demo_wav, write
from corpus import analysis, manifest, mismatch, people
from hyperparams import HyperParams

import numpy as np
import pytest
from test_prepro import IDS, fails, prepare, record

pytestmark = pytest.mark.usefixtures("serial")


@pytest.fixture
def folder(tmp_path):
    """Recordings of IDS by anna and bert."""
    record(tmp_path, "anna", IDS)
    record(tmp_path, "bert", IDS)
    return tmp_path


@pytest.mark.parametrize("name", ["manifest.csv", "slices.csv"])
def test_a_table_of_somebody_else_is_not_replaced(folder, capsys, name):
    (folder / "data").mkdir()
    (folder / "data" / name).write_text("file|text")
    assert f"{name} is there and would be replaced" in fails(capsys, folder)
    assert (folder / "data" / name).read_text() == "file|text"


def test_recordings_of_the_target_among_those_of_a_source_are_left_out(folder, capsys):
    """With the target's folder inside the source's, all pairs were the target with itself."""
    assert not [pair for pair in prepare(folder).values() if pair.reason]
    for name in "bd":
        (folder / "anna" / f"{name}.wav").write_bytes((folder / "bert" / f"{name}.wav").read_bytes())
    found = prepare(folder)
    capsys.readouterr()
    told = "wav is a recording of bert, too: remove it from those of anna"
    assert {name for (_, name), pair in found.items() if told in pair.reason} == {"b", "d"} == {
        name for (_, name), pair in found.items() if pair.split == "dropped"}
    for name in IDS:
        (folder / "anna" / f"{name}.wav").write_bytes((folder / "bert" / f"{name}.wav").read_bytes())
    assert "no pair is left to train on" in (told := fails(capsys, folder)) and "is a recording of bert, too" in told
    assert "no recording of anna is left to learn from" in fails(capsys, folder, "--unpaired", data="other")


def test_a_recording_with_two_names_is_used_once(folder, capsys):
    """It was trained on by one name and tested with by the other."""
    for speaker in ("anna", "bert"):
        (folder / speaker / "z.wav").write_bytes((folder / speaker / "b.wav").read_bytes())
    found = prepare(folder)
    assert {name for (_, name), pair in found.items() if pair.reason} == {"z"}
    assert found["anna", "z"].reason.endswith(f"z.wav is the same recording as {folder / 'anna' / 'b.wav'}: remove one")


def test_of_two_copies_the_one_with_a_partner_is_used(folder, capsys):
    for name in IDS:
        (folder / "anna" / f"{name} (1).wav").write_bytes((folder / "anna" / f"{name}.wav").read_bytes())
    found = prepare(folder)
    assert {name for (_, name), pair in found.items() if not pair.reason} == {*IDS}


def test_voices_of_one_constant_pitch_are_no_copies():
    steady, moving = np.full(100, 150.0), 150.0 * 1.2 ** np.sin(np.arange(100) / 9)
    assert not mismatch.is_copy(steady, steady) and mismatch.is_copy(moving, moving[20:])
    assert not mismatch.is_copy(moving, np.zeros(100)) and not mismatch.is_copy(moving, 1.05 * moving)


@pytest.mark.parametrize("speaker", ["rms", "slt"])
def test_words_of_one_voice_are_no_copies_by_chance(speaker):
    """Of a second of pitch, some part resembles some other."""
    rng, pitches = np.random.default_rng(0), []
    for number in range(1, 21):
        hertz = analysis.pitch(demo_wav(speaker, f"demo_{number:03d}", HyperParams()), HyperParams())
        start = int(rng.integers(0, len(hertz) - 80))
        pitches.append(hertz[start:start + 80])
    assert not [(i, j) for i in range(20) for j in range(i) if mismatch.is_copy(pitches[i], pitches[j])]


def test_a_heldout_list_of_which_nothing_is_left_is_told(folder, capsys):
    write(folder / "anna" / "b.wav", np.zeros(16000, np.float32))
    (folder / "heldout.txt").write_text("b\n")
    prepare(folder, "--heldout", folder / "heldout.txt")
    assert "warning: no sentence is left to test conversion with" in capsys.readouterr().err


@pytest.mark.parametrize("change", [lambda wav: 0.4 * wav, lambda wav: np.pad(wav, (600, 0)),
                                    lambda wav: wav + 0.003 * np.random.default_rng(0).normal(size=len(wav)),
                                    lambda wav: np.pad(wav, 4000) + 0.02 * wav.std() * np.random.default_rng(
                                        0).normal(size=len(wav) + 8000)])
def test_copies_of_the_target_among_the_source_are_left_out(tmp_path, capsys, change):
    """They were paired with themselves if only their level was another."""
    for number, utterance in enumerate(IDS):
        wav = demo_wav("slt", f"demo_{number + 1:03d}", HyperParams())
        write(tmp_path / "bert" / f"{utterance}.wav", wav)
        write(tmp_path / "anna" / f"{utterance}.wav",
              change(wav) if utterance == "b" else demo_wav("rms", f"demo_{number + 1:03d}", HyperParams()))
    found = prepare(tmp_path)
    assert {name for (_, name), pair in found.items() if pair.reason} == {"b"}
    assert "recordings by anna and bert are one, perhaps in another format" in found["anna", "b"].reason


def test_a_target_of_two_people_is_told(tmp_path, capsys):
    """Nothing was said, and conversions had the voice of neither."""
    for number in range(1, 13):
        for speaker, other in (("rms", "slt"), ("slt", "rms")):
            who = speaker if number % 2 else other
            write(tmp_path / speaker / f"{number:02d}.wav", demo_wav(who, f"demo_{number:03d}", HyperParams()))
        write(tmp_path / "alone" / f"{number:02d}.wav", demo_wav("slt", f"demo_{number:03d}", HyperParams()))
    shutil.copytree(tmp_path / "slt", tmp_path / "few", ignore=shutil.ignore_patterns("0[5-9]*", "1*"))
    told = "the recordings of slt seem to be of 2 people, or rooms or microphones differ (6 as 01, 6 as 02)"
    prepare(tmp_path, source="rms", target="slt", data="pairs")
    assert told in capsys.readouterr().err
    prepare(tmp_path, "--target", tmp_path / "slt", source=None, data="voice")
    assert told in capsys.readouterr().err
    for folder, told in (("alone", False), ("few", True)):  # few sentences are told by pitch alone
        prepare(tmp_path, "--target", tmp_path / folder, source=None, data=f"data of {folder}")
        assert ("2 people" in capsys.readouterr().err) == told


def test_few_sentences_of_one_person_are_not_told_as_those_of_two(tmp_path, monkeypatch, capsys):
    """By timbre these were, in one of thirty corpora."""
    monkeypatch.setattr(people, "who_speaks", lambda mels, hertz: np.arange(len(mels)))
    for number in range(1, 5):
        write(tmp_path / "her" / f"{number}.wav", demo_wav("slt", f"demo_{number:03d}", HyperParams()))
    prepare(tmp_path, "--target", tmp_path / "her", source=None)
    assert "people" not in capsys.readouterr().err


def test_noise_in_recordings_is_told_once_with_their_names(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(1, 6):
        wav = demo_wav("slt", f"demo_{number:03d}", HyperParams())
        noise = (number > 2) * 0.3 * wav.std() * rng.normal(size=len(wav))
        write(tmp_path / "her" / f"{number}.wav", wav + noise)
    prepare(tmp_path, "--target", tmp_path / "her", source=None)
    told = [line for line in capsys.readouterr().err.splitlines() if "quieter than its speech" in line]
    assert len(told) == 1 and told[0].startswith(f"warning: {tmp_path / 'her' / '3.wav'}: its pauses are only ")
    assert told[0].endswith("; likewise her/4.wav, her/5.wav")


def test_names_that_differ_in_capitals_only_are_told(tmp_path, capsys):
    record(tmp_path, "anna", IDS, "Take_{}.wav")
    record(tmp_path, "bert", IDS, "take_{}.WAV")
    for speaker in ("anna", "bert"):
        record(tmp_path, speaker, ["f", "g", "h"])
    prepare(tmp_path)
    assert ("have 5 file names that differ in capitals only, for instance Take_a.wav and take_a.WAV: rename"
            in capsys.readouterr().err)


@pytest.mark.parametrize("lost", IDS)
def test_dropped_pairs_leave_something_to_validate_and_to_test_with(folder, monkeypatch, lost):
    """Training refused a corpus whose one validation sentence said other words."""
    def drop(pairs, *_):
        for pair in pairs:
            pair.reason = "other words?" if pair.name == lost else ""
    monkeypatch.setattr(prepro.mismatch, "drop", drop)
    splits = [pair.split for pair in prepare(folder).values()]
    assert sorted(splits) == ["dropped", "test", "train", "train", "val"]


def test_splits_by_time_count_only_the_speech_in_use():
    """Where the end of a long recording was dropped, nothing was left to test with."""
    pairs = [manifest.Pair(f"z.{start}", "z", "a", target_start=start, target_end=start + 400)
             for start in range(0, 4000, 400)]
    for last in (10, 6):
        manifest.assign_splits(pairs[:last], {"z": 4000}, prepro.HyperParams(max_seconds=8.0), set())
        assert [pair.split for pair in pairs[:last]] == ["train"] * (last - 3) + ["val"] + ["test"] * 2


def test_two_sources_of_one_long_recording_have_something_to_validate_with():
    """Each is cut at its own pauses, and what crosses the border of two splits is dropped."""
    for seed in range(40):
        rng, pairs = np.random.default_rng(seed), []
        for source in "ab":
            cuts = np.cumsum([0, *rng.uniform(300, 640, 30)]).astype(int)
            pairs += [manifest.Pair(f"z.{start}", "z", source, target_start=start, target_end=end)
                      for start, end in zip(cuts, cuts[1:]) if end <= 9600]
        manifest.assign_splits(pairs, {"z": 9600}, prepro.HyperParams(max_seconds=8.0), set())
        assert {pair.split for pair in pairs} >= {"train", "val", "test"}
        used = {split: np.zeros(9600, bool) for split in ("train", "val", "test")}
        for pair in pairs:
            if pair.split in used:
                used[pair.split][pair.target_start:pair.target_end] = True
        assert (sum(map(np.int64, used.values())) <= 1).all()


@pytest.mark.parametrize("flags, message", [
    (["--pairs", "a.csv", "--pattern", "x(.*)"], "--pattern chooses files of folders"),
    (["--target", "a", "--unpaired"], "--unpaired is for a source and a target")])
def test_flags_that_would_do_nothing_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit):
        prepro.parse_arguments([*flags, "--data", "data"])
    assert message in capsys.readouterr().err
