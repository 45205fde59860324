"""The pairs of a corpus: find the recordings, assign them to splits, and read the table of pairs, manifest.csv."""
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import shlex
import unicodedata
from collections.abc import Iterator
from typing import TextIO

from common import audio_files, storage
from common.cli import UserError
from common.storage import printable
from hyperparams import SIGNAL, HyperParams

import numpy as np

ESCAPE = "surrogateescape"  # file names may hold bytes that are invalid as text
# What may be the id in a name: a number at its end, also without zeros in front; its first; its last number; all words
# but the first, or but the last
ID_PATTERNS = ("([0-9]+)$", "0*([0-9]+)$", "^[^0-9]*0*([0-9]+)", "0*([0-9]+)[^0-9]*$",
               "^(?:[^-_ .]+[-_ .]+)?(.+)$", "^(.+?)(?:[-_ .]+[^-_ .]+)?$")
VERSION = 4                 # version of the features on disk; other versions are refused


@dataclasses.dataclass
class Pair:
    """A row of the manifest: one segment of speech by a source and the target. There are five kinds:

        both said the sentence        `has_partner`; its `name` is that of the files, the `utterance`
        segment of long recordings    the same; its `name` says the frames, too
        spliced (unpaired.py)         `spliced`: the source's side is put together from sounds of its other recordings
        said by the source alone      not `has_partner`: no target_file and no frames; for the test
        the target alone              `source` is the target's name: each recording is its own partner
    """
    name: str                # unique among the pairs of a source
    utterance: str
    source: str
    split: str = ""          # train | val | test | dropped
    source_seconds: float = 0.0
    target_seconds: float = 0.0
    dtw_cost: float = 0.0    # mean distance along the path, dB
    source_start: int = 0    # frames
    source_end: int = 0
    target_start: int = 0
    target_end: int = 0
    source_file: str = ""    # relative to the folder of the manifest, or absolute; so is the next
    target_file: str = ""
    reason: str = ""         # why it was dropped
    spliced: int = 0         # 1: the target's sentence, put together from the source's sounds

    @property
    def speaker(self) -> str:
        """The folder of the source's features."""
        return f"{self.source}.spliced" if self.spliced else self.source

    @property
    def has_partner(self) -> bool:
        """Whether the target said this sentence, too."""
        return self.target_end > 0


def write_csv(path: pathlib.Path, header: list[str], rows: list) -> None:
    """Write rows (sequences) below a header."""
    with (storage.replacing(path) as temporary,
          open(temporary, "w", newline="", encoding="utf-8", errors=ESCAPE) as file):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_manifest(data: pathlib.Path) -> list[Pair]:
    """Read manifest.csv; raises UserError if `data` was not prepared."""
    path = pathlib.Path(data) / "manifest.csv"
    if not path.exists():
        raise UserError(f"{path} does not exist: run prepro.py with --data {data} first")
    types = {field.name: field.type for field in dataclasses.fields(Pair)}
    with reading(path) as file:
        pairs = [Pair(**{name: types[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]
    for pair in pairs:
        pair.source_file, pair.target_file = (name and os.path.normpath(os.path.join(os.path.realpath(data), name))
                                              for name in (pair.source_file, pair.target_file))
    return pairs


def portable(recording: os.PathLike, data: pathlib.Path) -> str:
    """The path of a recording: from `data` if both lie in one project, which may then move, or else absolute."""
    path = os.path.realpath(recording)
    # Features lie in data/NAME of a project; what is more than two folders up is not of it
    relative = os.path.relpath(path, os.path.realpath(data))
    return path if relative.startswith("../../../") else relative


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[TextIO]:
    """Open a file that prepro.py wrote; raises UserError, also for errors while its content is parsed."""
    try:
        with open(path, newline="", encoding="utf-8", errors=ESCAPE) as file:
            yield file
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged or of another version ({error!r}): delete {path.parent} and run prepro.py "
                        "again") from None


def fingerprint(data: pathlib.Path) -> str:
    """Hash of the manifest, or an empty text without one. With the same hash, the same sentences are trained on and
    held out. Where the recordings lie does not count, so that a project and its corpora may move."""
    path = pathlib.Path(data) / "manifest.csv"
    if not path.exists():
        return ""
    with reading(path) as file:
        table = csv.DictReader(file)
        rows = [[value for name, value in row.items() if name not in ("source_file", "target_file")] for row in table]
        return hashlib.sha256(json.dumps([table.fieldnames, rows]).encode()).hexdigest()


def read_settings(data: pathlib.Path) -> dict:
    """The settings in prepro.json; raises UserError."""
    with reading(pathlib.Path(data) / "prepro.json") as file:
        settings = dict(json.load(file))
        return {name: settings[name] for name in ("version", *SIGNAL, "target", "sources")}


def holds_target_only(data: pathlib.Path) -> bool:
    """Whether `data` is prepared and has no speaker but the target: a voice that is learnt behind a pretrained one, see
    conversion/voice.py. Raises UserError."""
    if not (pathlib.Path(data) / "prepro.json").exists():
        return False
    settings = read_settings(data)
    return settings["sources"] == [settings["target"]]


def check_signal(data: pathlib.Path, hp: HyperParams) -> dict:
    """Return the settings in prepro.json; raises UserError if `data` has other signal settings than `hp`."""
    settings = read_settings(data)
    if settings["version"] != VERSION:
        raise UserError(f"{data} was prepared by another version of this project: delete it and run prepro.py again")
    for name in SIGNAL:
        if settings[name] != getattr(hp, name):
            raise UserError(f"{data} was prepared with {name}={settings[name]}, not {getattr(hp, name)}: "
                            f"run prepro.py again with --set {name}={getattr(hp, name)} into another folder")
    return settings


def find_utterances(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    """Map utterance id, group 1 of the regular expression `pattern` in the file's stem, to file for all recordings
    below `folder`; those that do not match are left out. Raises UserError."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--pattern {pattern!r} is no regular expression: {error}") from None
    if not groups:
        raise UserError(f"--pattern {pattern!r} needs parentheses around the utterance id, for instance ({pattern})")
    if not folder.is_dir():
        raise UserError(f"{printable(folder)} is not a folder; give the folder that holds the recordings")
    found: dict[str, pathlib.Path] = {}
    for path in audio_files.list_audio(folder):
        key = utterance_id(path.stem, pattern)
        if key is None:
            continue
        if key in found:
            raise UserError(f"{printable(found[key])} and {printable(path)} are both utterance {key!r}; "
                            "rename one, or use --pattern if their names differ elsewhere")
        found[key] = path
    if not found:
        raise UserError(f"{printable(folder)} holds no recordings ({audio_files.ALL_SUFFIXES}) that match {pattern!r}")
    return found


def utterance_id(stem: str, pattern: str) -> str | None:
    """The utterance id in a file's stem: group 1 of `pattern`; None if it does not match."""
    match = re.search(pattern, stem, re.DOTALL)
    return storage.file_name(match.group(1)) if match and match.group(1) is not None else None


def pairing_hint(source: dict[str, pathlib.Path], target: dict[str, pathlib.Path]) -> str:
    """How recordings (utterance id -> file) that share no id, or few, could be paired: two example names that are alike
    and a --pattern; or an empty text if their names have nothing else in common."""
    common = len(source.keys() & target.keys())
    lower = [{key.casefold(): files[key].name for key in files.keys() - others.keys()}
             for files, others in ((source, target), (target, source))]
    if len(alike := sorted(lower[0].keys() & lower[1].keys())) > common:
        return (f"have {len(alike)} file names that differ in capitals only, for instance "
                f"{' and '.join(printable(side[alike[0]]) for side in lower)}: rename one of each")
    for pattern in ID_PATTERNS:
        found = [[(key, path.name) for path in files.values() if (key := utterance_id(path.stem, pattern)) is not None]
                 for files in (source, target)]
        sides = [dict(names) for names in found]
        shared = sorted(sides[0].keys() & sides[1].keys())
        unique = [*map(len, sides)] == [*map(len, found)]  # an id that several files of a speaker have would be refused
        if unique and len(shared) > 2 * common and 2 * len(shared) >= min(map(len, sides)):
            names = " and ".join(printable(side[shared[0]]) for side in sides)
            return (f"share {common or 'no'} file name{'s' * (common > 1)}, but {len(shared)} names are alike, for "
                    f"instance {names}: if these say the same words, run this command with --pattern "
                    f"{shlex.quote(pattern)}, otherwise with --unpaired")
    return ""


def read_text(path: pathlib.Path) -> str:
    """Read a text file that a user wrote; raises UserError."""
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark first
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{printable(path)} is no text in UTF-8: save it as such") from None


def read_ids(path: pathlib.Path, known: set[str], pattern: str) -> set[str]:
    """Read utterance ids, one in each line; a line may also be the name of a recording with its ending, from which
    `pattern` makes one of the `known` ids. Raises UserError."""
    ids = set()
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        names, file = [storage.file_name(line)], pathlib.PurePath(line)
        if file.suffix.lower() in audio_files.AUDIO_SUFFIXES + audio_files.FFMPEG_SUFFIXES:
            names += [storage.file_name(file.stem), utterance_id(file.stem, pattern)]
        ids.add(next((name for name in names if name in known), names[0]))
    return ids


def read_pairs_csv(path: pathlib.Path) -> tuple[dict[str, pathlib.Path], dict[str, pathlib.Path]]:
    """Read a CSV with the columns source and target (file names, relative to the CSV) as one parallel corpus; raises
    UserError."""
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    if not rows or not {"source", "target"} <= set(rows[0]) or not all(row["source"] and row["target"] for row in rows):
        raise UserError(f"{path}: needs a header with the columns source and target, and a row for each pair")
    sources, targets = {}, {}
    for row in rows:
        source, target = (find_listed(path, row[column]) for column in ("source", "target"))
        key = storage.file_name(target.stem)
        if key in targets:
            raise UserError(f"{path}: two rows have a target named {key!r}; rename one")
        sources[key], targets[key] = source, target
    return sources, targets


def find_listed(table: pathlib.Path, name: str) -> pathlib.Path:
    """The file `name` beside a table of pairs, with accents as characters of their own or not; raises UserError."""
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        if (table.parent / form).is_file():
            return table.parent / form
    raise UserError(f"{table}: {printable(table.parent / name)} does not exist")


def folder_names(folder: str | os.PathLike) -> list[str]:
    """Possible names of a speaker: the name of the folder, then with its parent's name in front, and so on."""
    parts = pathlib.Path(folder).resolve().parts
    return [storage.file_name("_".join(parts[-depth:])) for depth in range(1, 8)]


def speaker_names(folders: list[pathlib.Path]) -> list[str]:
    """A short name for each folder: its own, with as many parents as make all names different. Raises UserError."""
    for names in zip(*map(folder_names, folders)):
        if len(set(names)) == len(names):
            return list(names)
    raise UserError(f"the same folder is given twice: {', '.join(map(str, folders))}")


def gather(source_folders: list[pathlib.Path], target_folder: pathlib.Path,
           pattern: str) -> tuple[dict[str, dict[str, pathlib.Path]], str]:
    """List the recordings of all speakers: returns (speaker -> utterance id -> file, name of the target)."""
    folders = [*source_folders, target_folder]
    names = speaker_names(folders)
    return {name: find_utterances(folder, pattern) for name, folder in zip(names, folders)}, names[-1]


def split_ids(ids: list[str], hp: HyperParams, heldout: set[str]) -> dict[str, str]:
    """Assign train, val or test to each utterance id, whatever their order: `heldout`, or the share `hp.test` of all,
    is the test set. Ids are sorted by a hash, so that nearly all stay in their split when the corpus grows."""
    rest = sorted(set(ids) - heldout, key=lambda name: hashlib.sha256(f"{hp.seed} {name}".encode()).digest())
    n_val = max(1, round(hp.validation * len(rest)))
    n_test = 0 if heldout else max(1, round(hp.test * len(rest)))
    splits = dict.fromkeys(rest, "train")
    splits |= dict.fromkeys(rest[:n_val], "val") | dict.fromkeys(rest[n_val:n_val + n_test], "test")
    return splits | dict.fromkeys(heldout, "test")


def assign_splits(pairs: list[Pair], target_frames: dict[str, int], hp: HyperParams, heldout: set[str]) -> None:
    """Set the split of each pair: by id for recordings that are used whole, by time for segments of longer ones, of
    which the last part is the test set and the part before it the validation set, each of at least `hp.max_seconds`, or
    with several sources twice that."""
    longest, several = hp.max_seconds * hp.frames_per_second, len({pair.source for pair in pairs}) > 1
    long = sorted({pair.utterance for pair in pairs if target_frames[pair.utterance] > longest} - heldout)
    splits = split_ids([pair.utterance for pair in pairs if pair.utterance not in long], hp, heldout)
    used = {utterance: np.zeros(target_frames[utterance] + 1) for utterance in long}
    for pair in pairs:
        if pair.utterance in used:
            used[pair.utterance][pair.target_start:pair.target_end] = 1.0
    left, total = {}, 0.0  # `left`: frames in use from each frame of a recording to the end of the last recording
    for utterance in reversed(long):
        left[utterance] = total + used[utterance][::-1].cumsum()[::-1]
        total = left[utterance][0]
    least = longest * (1 + several)  # so that a whole segment lies in it where those across its border are dropped
    n_test, n_val = 0.0 if heldout else max(least, hp.test * total), max(least, hp.validation * total)
    for pair in pairs:
        if pair.utterance in splits:
            pair.split = splits[pair.utterance]
        else:
            before, after = left[pair.utterance][[pair.target_start, pair.target_end]]
            middle = (before + after) / 2
            pair.split = "test" if middle < n_test else "val" if middle < n_test + n_val else "train"
            # Each source is cut at its own pauses, but the same speech of the target must not be in two splits
            if several and any(after < border < before for border in (n_test, n_test + n_val)):
                pair.split, pair.reason = "dropped", "crosses the border between two splits"
