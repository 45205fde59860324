"""What preparation does not take: files of somebody else, recordings of the target among a source's, flags in vain."""
import pytest
from test_prepro import IDS, fails, prepare, record

import prepro
from corpus import manifest

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


@pytest.mark.parametrize("flags, message", [
    (["--pairs", "a.csv", "--pattern", "x(.*)"], "--pattern chooses files of folders"),
    (["--target", "a", "--unpaired"], "--unpaired is for a source and a target")])
def test_flags_that_would_do_nothing_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit):
        prepro.parse_arguments([*flags, "--data", "data"])
    assert message in capsys.readouterr().err
