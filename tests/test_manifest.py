"""Segments of long recordings are assigned to splits, and recordings are found where the manifest says."""
import pathlib

import prepro
from conftest import words, write
from corpus import manifest
from hyperparams import HyperParams

import pytest


def segments(source: str, utterance: str, total: int, length: int) -> list[manifest.Pair]:
    """Pairs from a recording of the target of `total` frames, which is cut into segments of `length` frames."""
    return [manifest.Pair(f"{utterance}-{start}", utterance, source, target_start=start,
                          target_end=min(total, start + length)) for start in range(0, total, length)]


@pytest.mark.parametrize("frames", [{"a": 8000}, {"a": 8000, "b": 1500}])
def test_no_frame_of_the_target_is_in_two_splits(frames):
    """The sources pause at different places, so their segments end at different places."""
    pairs = [pair for utterance, total in frames.items() for source, length in (("anna", 500), ("bert", 610))
             for pair in segments(source, utterance, total, length)]
    manifest.assign_splits(pairs, frames, HyperParams(), set())
    said = {split: {(pair.utterance, frame) for pair in pairs if pair.split == split
                    for frame in range(pair.target_start, pair.target_end)} for split in ("train", "val", "test")}
    assert all(said.values())
    assert not said["train"] & said["val"] and not said["train"] & said["test"] and not said["val"] & said["test"]
    dropped = [pair for pair in pairs if pair.split == "dropped"]
    assert 2 <= len(dropped) <= 4  # at most one segment of each source at each of the two borders
    assert {pair.reason for pair in dropped} == {"crosses the border between two splits"}


def test_single_source_loses_no_segments():
    pairs = segments("anna", "a", 8000, 610)
    manifest.assign_splits(pairs, {"a": 8000}, HyperParams(), set())
    assert [pair.split for pair in pairs] == ["train"] * 10 + ["val"] * 2 + ["test"] * 2


def test_recordings_that_moved_with_the_project_are_found(tmp_path, serial, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    for speaker, pitch in (("anna", 210.0), ("bert", 110.0)):
        for number in range(3):
            write(pathlib.Path("rec", speaker, f"{number}.wav"), words(number, pitch=pitch))
    assert not prepro.main(["--source", "rec/anna", "--target", "rec/bert", "--data", "data/mine"])
    before = manifest.read_manifest(pathlib.Path("data/mine"))
    assert {pair.source_file for pair in before} == {str(tmp_path / f"old/rec/anna/{n}.wav") for n in range(3)}
    (tmp_path / "old").rename(tmp_path / "new")
    pairs = manifest.read_manifest(tmp_path / "new" / "data" / "mine")
    assert {pair.source_file for pair in pairs} == {str(tmp_path / f"new/rec/anna/{n}.wav") for n in range(3)}
    assert {pair.target_file for pair in pairs} == {str(tmp_path / f"new/rec/bert/{n}.wav") for n in range(3)}
