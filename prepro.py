"""Prepare a corpus: compute features, alignments and a manifest from recordings; resumes after an interruption.

    python prepro.py                                                    # the bundled demo corpus
    python prepro.py --source data/demo/rms --target data/demo/slt --data data/mine     # any two folders of recordings
    python prepro.py --target data/demo/slt --data data/alone           # the target alone, for a pretrained model
    python prepro.py --source DIR --target DIR --data OUT               # your own: same file name for the same sentence
    python prepro.py --source A --source B --target C --data OUT        # several sources for one target
    python prepro.py --download bdl slt                                 # CMU Arctic: bdl is the source, slt the target

A source who shares no file name with the target is taken to have said other sentences; with --unpaired this holds for
every source. Then each recording of the target is put together from sounds of the source (unpaired.py).

Writes below OUT:

    prepro.json              signal settings and speakers; OUT is refused if they change
    features/SPEAKER/ID.mel.npy, ID.linear.npy      (T, M) and (T, F) float16 in [0, 1]
    features/SPEAKER/ID.pitch.npy                   (T,) float32, fundamental frequency in Hz, 0 where unvoiced
    paths/SOURCE/NAME.npy    (T,) float32, the source position in frames of each target frame, by dynamic time warping
    manifest.csv             one row for each pair: durations, DTW cost, split, and why a pair was dropped
    slices.csv               crops of 1 to 2 s of the training pairs, in frames of the target
"""
import argparse
import dataclasses
import functools
import math
import os
import pathlib
import re
import shlex
import sys

import utils
from common import audio_files, cli, storage
from common.cli import UserError, workers
from corpus import alignment, analysis, arctic, demo, manifest, mismatch, pairing, people, remarks
from corpus.manifest import Pair
from corpus.pairing import load_mel
from hyperparams import SIGNAL, HyperParams

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
FEW_MINUTES = 4  # of training speech
SHOWN = 20  # dropped pairs, and files of one warning, that are printed
COMPARED, COMPARED_FRAMES = 200, 1000  # recordings of a target in which people are told apart, and frames of each
# Of all together, from where timbre tells: by it 3 or 4 sentences of one are of two in 27 of 756 corpora, by pitch in 4
VOICED_FRAMES = 700


def compute_features(path: pathlib.Path, stem: pathlib.Path, hp: HyperParams,
                     channel: int | None = None) -> tuple[int, str, list[str], str]:
    """Write the features of one recording, or of one `channel` of it, unless they were made from the same content
    (names and times do not tell): their .json file, written last, holds its hash and the channel. Returns the number of
    frames, the reason if the recording is unusable, warnings and the hash."""
    note, made_of = stem.with_name(f"{stem.name}.json"), storage.content_hash(path)
    before = storage.read_json(note)
    kept = made_of and (before.get("made_of"), before.get("channel")) == (made_of, channel)
    if kept and all(map(storage.intact, analysis.files(stem))):
        return len(analysis.load(stem).mel), "", before.get("warnings", []), made_of
    try:
        wav, _, warnings = utils.load_recording(path, hp, channel=channel)
    except audio_files.BadAudio as error:
        return 0, str(error), [], made_of
    found = analysis.extract(wav, hp)
    odd = remarks.noise(wav, hp, is_whole=False)
    odd += remarks.remarks(found.hertz, [], hp, True, 0.0, remarks.loud_frames(wav, hp).sum())
    warnings += [f"{storage.printable(path)}: {text}" for text in odd]
    note.unlink(missing_ok=True)
    analysis.save(stem, found)
    storage.write_json(note, {"made_of": made_of, "channel": channel, "warnings": warnings})
    return len(found.mel), "", warnings, made_of


def several_people(target: str, utterances: list[str], data: pathlib.Path) -> list[str]:
    """What is to be said if not all recordings of the target are of one person."""
    chosen = sorted(utterances)[::math.ceil(len(utterances) / COMPARED) or 1]
    heard = [analysis.load(data / "features" / target / name) for name in chosen]
    mels, hertz = ([np.array(getattr(each, kind)[:COMPARED_FRAMES], np.float32) for each in heard]
                   for kind in ("mel", "hertz"))
    if not heard:
        return []
    if sum(map(np.count_nonzero, hertz)) < VOICED_FRAMES:
        found = people.people_by_pitch(np.concatenate(hertz), np.cumsum([len(each) for each in hertz])[:-1])
    else:
        found = people.who_speaks(mels, hertz)
    if not found.any():
        return []
    _, first, counts = np.unique(found, return_index=True, return_counts=True)
    told = ", ".join(f"{n} as {chosen[i]}" for i, n in sorted(zip(first, counts)))
    return [f"the recordings of {target} seem to be of {len(first)} people, or rooms or microphones differ ({told}): "
            "the voice becomes one between them; keep those of one person"]


def align(pair: Pair, data: pathlib.Path, target: str, means: dict, paces: dict,
          hp: HyperParams) -> tuple[float, tuple[float, float]]:
    """Write the DTW path of one pair; returns its mean cost, and what is `alignment.unlike` in it."""
    if not pair.has_partner:
        return 0.0, (0.0, 0.0)
    path = data / "paths" / pair.source / f"{pair.name}.npy"
    if pair.source == target or pair.spliced:
        storage.save_array(path, np.arange(pair.target_end - pair.target_start, dtype=np.float32))
        return 0.0, (0.0, 0.0)
    mels = pairing.load_mels(pair, data, target)
    features = [alignment.alignment_features(mel, hp) - means[speaker]
                for mel, speaker in zip(mels, (pair.source, target))]
    positions, cost = alignment.warp(*features)
    storage.save_array(path, positions)
    return cost, alignment.unlike(positions, features, [*map(alignment.speaking, mels)], paces[pair.source], hp)


def check_settings(data: pathlib.Path, settings: dict) -> None:
    """Write `settings` beside the features; raises UserError if there are features of other settings."""
    path = data / "prepro.json"
    if path.exists():
        before = manifest.read_settings(data)
        changed = [key for key in settings if before[key] != settings[key]]
        if changed:
            raise UserError(f"{data} was prepared with other {', '.join(changed)}: delete it or choose another --data")
    else:
        storage.check_own([data / name for name in ("manifest.csv", "slices.csv")])
    storage.write_json(path, settings)


def prepare(corpora: dict[str, dict[str, pathlib.Path]], target: str, data: pathlib.Path, hp: HyperParams,
            heldout: set[str] = frozenset(), pairs_by_name: bool = True, channel: int | None = None) -> list[Pair]:
    """Prepare `corpora` (speaker -> utterance id -> file) of several sources and one target; returns the manifest. A
    source who shares no file name with the target is taken to have said other sentences, without `pairs_by_name` every
    source. A target that is alone is its own source. Raises UserError if no pair is usable."""
    sources = [speaker for speaker in corpora if speaker != target] or [target]
    unknown = heldout - {utterance for files in corpora.values() for utterance in files}
    if unknown:
        raise UserError(f"--heldout names {len(unknown)} unknown utterances, for instance {min(unknown)!r}")
    check_settings(data, {"version": manifest.VERSION, **{name: getattr(hp, name) for name in SIGNAL},
                          "target": target, "sources": sources})
    for source in sources if pairs_by_name else ():
        if hint := manifest.pairing_hint(corpora[source], corpora[target]):
            print(f"warning: {source} and {target} {hint}", file=sys.stderr)
    (data / "manifest.csv").unlink(missing_ok=True)  # while it is missing, features and paths count as incomplete
    jobs = [(speaker, utterance, path) for speaker, files in corpora.items() for utterance, path in files.items()]
    with workers() as parallel:
        done = parallel(functools.partial(compute_features, hp=hp, channel=channel),
                        [(path, data / "features" / speaker / utterance)
                         for speaker, utterance, path in jobs], "features")
        shared = corpora[target].keys() & {name for source in sources for name in corpora[source]}
        # Of copies the one is used that has a partner
        frames, bad = without_copies(sorted(zip(jobs, done), key=lambda each: each[0][1] not in shared), target)
        heard = [name for speaker, name in frames if speaker == target and frames[target, name]]
        print_warnings([text for *_, warnings, _ in done for text in warnings] + several_people(target, heard, data))

        found, pairs, others = pairing.Recordings(corpora, frames, bad, data, target, hp), [], []
        for source in sources:
            alike = source == target or pairs_by_name and found.share_sentences(source, heldout)
            print(found.describe(source, alike))
            pairs += found.pairs(source) if alike else found.unpaired(source, heldout)
            others += [] if alike else [source]
            if alike and source != target and not demo.holds(corpora):
                own = [pair for pair in pairs if pair.source == source]
                mismatch.drop_copies([pair for pair in own if not pair.reason], data, target)
                mismatch.drop([pair for pair in own if not pair.reason], data, target, hp)
        target_frames = {utterance: n for (speaker, utterance), n in frames.items() if speaker == target}
        usable = split_pairs(pairs, target_frames, target, {*sources} - {target, *others}, heldout, hp)
        if others:
            parallel(functools.partial(found.splice, pairs=usable), [(source,) for source in others],
                     "speakers with other sentences")
        check_trainable(pairs)
        speakers = {target, *(pair.source for pair in usable if not pair.spliced)}
        means = {speaker: speaker_mean(speaker, usable, data, hp) for speaker in speakers}
        # librosa compiles at its first use: once here, not in all processes at the same time
        alignment.dtw(np.zeros((2, 1)), np.zeros((2, 1)))
        said_by = {source: [i for i, pair in enumerate(usable) if pair.source == source and pair.has_partner
                            and not pair.spliced] for source in sources}
        paces = {source: float(np.median([usable[i].source_seconds / usable[i].target_seconds for i in own]))
                 if own else 1.0 for source, own in said_by.items()}
        aligned = parallel(functools.partial(align, data=data, target=target, means=means, paces=paces, hp=hp),
                           [(pair,) for pair in usable], "alignment")
    for pair, (cost, _) in zip(usable, aligned):
        pair.dtw_cost = round(cost, 4)
    for source, own in said_by.items():
        if source != target and not demo.holds(corpora):
            mismatch.drop_partly([usable[i] for i in own], [aligned[i][1] for i in own])
    check_trainable(pairs)
    for split, purpose in (("val", "validate training"), ("test", "test conversion")) if speakers != {target} else ():
        if not any(pair.split == split for pair in pairs):
            print(f"warning: no sentence is left to {purpose} with", file=sys.stderr)
    write_outputs(pairs, data, hp)
    return pairs


def without_copies(made: list[tuple], target: str) -> tuple[dict, dict]:
    """From recordings, (speaker, utterance, path) and what `compute_features` returned of each: their numbers of frames
    and the reasons why they cannot be used, by (speaker, utterance). The first of copies is used, but none of the
    target's recordings among a source's."""
    frames, bad, first = {}, {}, {}
    of_target = {made_of for (speaker, *_), (*_, made_of) in made if speaker == target} - {""}
    for (speaker, utterance, path), (n_frames, reason, _, made_of) in made:
        if speaker != target and made_of in of_target:
            reason = f"{storage.printable(path)} is a recording of {target}, too: remove it from those of {speaker}"
        elif made_of and (other := first.setdefault((speaker, made_of), path)) != path:
            reason = f"{storage.printable(path)} is the same recording as {storage.printable(other)}: remove one"
        frames[speaker, utterance], bad[speaker, utterance] = n_frames, reason
    return frames, bad


def check_trainable(pairs: list[Pair]) -> None:
    """Raise UserError with some reasons if no pair is left to train on."""
    if not any(pair.split == "train" for pair in pairs):
        n_usable = sum(pair.split != "dropped" for pair in pairs)
        raise UserError("\n  ".join([f"no pair is left to train on; {n_usable} can be used, validation and test need "
                                     "one each", *sorted({pair.reason for pair in pairs} - {""})[:5]]))


def split_pairs(pairs: list[Pair], target_frames: dict[str, int], target: str, parallel_sources: set[str],
                heldout: set[str], hp: HyperParams) -> list[Pair]:
    """Give each pair its split, and the unusable ones "dropped"; returns the usable pairs. What the target says in a
    test sentence must not be trained on, so its pairs with sounds of other sources are dropped, unless no source said
    this sentence: then there is nothing to test, and it is trained on."""
    for pair in pairs:
        pair.split = "dropped" if pair.reason else pair.split
    manifest.assign_splits([pair for pair in pairs if not pair.split], target_frames, hp, heldout)
    for pair in pairs:
        if pair.split == "test" and not parallel_sources and (pair.spliced or pair.source == target):
            pair.split = "train"
        elif pair.split == "test" and pair.spliced:
            pair.split, pair.reason = "dropped", "held out of other sources"
    return [pair for pair in pairs if not pair.reason]


def speaker_mean(speaker: str, pairs: list[Pair], data: pathlib.Path, hp: HyperParams) -> np.ndarray:
    """Mean (C,) of a speaker's alignment features, over the training utterances, or over all if there are none."""
    own = [pair for pair in pairs if pair.speaker == speaker] or [pair for pair in pairs if pair.has_partner]
    utterances = sorted({pair.utterance for pair in own if pair.split == "train"} or {pair.utterance for pair in own})
    return np.concatenate([alignment.alignment_features(load_mel(data, speaker, utterance), hp)
                           for utterance in utterances]).mean(axis=0)


def write_outputs(pairs: list[Pair], data: pathlib.Path, hp: HyperParams) -> None:
    """Write slices.csv and, last, the manifest, which shows that everything is complete."""
    slices = []
    for pair in pairs:
        if pair.split == "train":
            slices += [(pair.name, pair.source, *row) for row in alignment.make_slices(
                pair.target_end - pair.target_start, f"{hp.seed} {pair.source} {pair.name}", hp)]
    manifest.write_csv(data / "slices.csv", ["name", "source", "target_start", "target_end"], slices)
    manifest.write_csv(data / "manifest.csv", [field.name for field in dataclasses.fields(Pair)],
                       [dataclasses.astuple(pair) for pair in pairs])


def print_warnings(warnings: list[str]) -> None:
    """Print "FILE: TEXT" for each; where texts differ in numbers only, the first one and the other files."""
    alike: dict[str, list[str]] = {}
    for warning in warnings:
        alike.setdefault(re.sub(r"[0-9.]+", "", warning.partition(": ")[2]), []).append(warning)
    for first, *others in alike.values():
        names = ", ".join(os.path.join(*pathlib.Path(warning.partition(": ")[0]).parts[-2:])
                          for warning in others[:SHOWN])
        more = f" and {len(others) - SHOWN} more" * (len(others) > SHOWN)
        print(f"warning: {first}" + f"; likewise {names}{more}" * bool(others), file=sys.stderr)


def print_summary(pairs: list[Pair], data: pathlib.Path) -> None:
    """Print counts, hours, the shortest and longest durations; on standard error the dropped pairs with reasons."""
    usable = [pair for pair in pairs if not pair.reason]
    for split in ("train", "val", "test"):
        seconds = [pair.target_seconds or pair.source_seconds for pair in usable if pair.split == split]
        if seconds:
            print(f"{split:6} {len(seconds):5} pairs  {sum(seconds) / 60:6.1f} min  "
                  f"shortest {min(seconds):.2f} s  longest {max(seconds):.2f} s")
    dropped = [pair for pair in pairs if pair.reason]
    for pair in dropped[:SHOWN]:
        print(f"dropped {pair.source}/{pair.name}: {pair.reason}", file=sys.stderr)
    if len(dropped) > SHOWN:
        print(f"... and {len(dropped) - SHOWN} more, all in {data / 'manifest.csv'}", file=sys.stderr)
    minutes = sum(pair.target_seconds for pair in usable if pair.split == "train") / 60
    few = f"; {minutes:.0f} minutes to train on are few, ten make a voice" * (minutes < FEW_MINUTES)
    print(f"wrote {data / 'manifest.csv'} and slices.csv, for python train.py --data {shlex.quote(str(data))}{few}")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--source", action="append", type=pathlib.Path, metavar="DIR", help="recordings of a source")
    parser.add_argument("--target", type=pathlib.Path, metavar="DIR", help="recordings of the target speaker")
    parser.add_argument("--pairs", type=pathlib.Path, metavar="CSV",
                        help="instead of folders: a table with columns source and target and a row for each pair")
    parser.add_argument("--download", nargs="+", metavar="SPEAKER", help="CMU Arctic: the sources, then the target")
    parser.add_argument("--data", type=pathlib.Path, metavar="OUT", help="where the features go")
    parser.add_argument("--pattern", default="(.*)", metavar="REGEX",
                        help="group 1, found in the file's stem, is the utterance id; other files are left out")
    parser.add_argument("--heldout", type=pathlib.Path, metavar="FILE",
                        help="utterance ids, or names of recordings, of the test set, one in each line")
    parser.add_argument("--unpaired", action="store_true",
                        help="sources and target did not say the same sentences, even if file names are equal")
    cli.add_channel(parser)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a hyperparameter")
    args = parser.parse_args(argv)
    if args.source and not args.target:
        parser.error("--source needs --target, the speaker whose voice the source is converted to")
    for is_ignored, message in (
            (args.pairs and args.pattern != "(.*)", "--pattern chooses files of folders; --pairs names them itself"),
            (args.unpaired and args.target and not args.source, "--unpaired is for a source and a target")):
        if is_ignored:
            parser.error(message)
    if sum(map(bool, (args.source or args.target, args.pairs, args.download))) > 1:
        parser.error("choose one of --source/--target, --pairs and --download")
    if args.download and len(args.download) < 2:
        parser.error("--download needs at least a source and a target, for instance: --download bdl slt")
    if (args.target or args.pairs) and not args.data:
        parser.error("--data OUT says where the features go")
    return args


def run(args: argparse.Namespace) -> None:
    """Prepare what the flags name; raises UserError."""
    hp = HyperParams().override(args.set)
    data = args.data or demo.FEATURES
    if args.download:
        folder = HERE / "data" / "arctic"
        *sources, target = [arctic.download(speaker, folder) for speaker in args.download]
        corpora, target = manifest.gather(sources, target, args.pattern)
        data = args.data or HERE / "data" / f"features-{'-'.join(args.download)}"
    elif args.pairs:
        sources, targets = manifest.read_pairs_csv(args.pairs)
        corpora, target = {"source": sources, "target": targets}, "target"
    elif args.target:
        corpora, target = manifest.gather(args.source or [], args.target, args.pattern)
    else:
        corpora, target = manifest.gather([demo.RECORDINGS / "rms"], demo.RECORDINGS / "slt", args.pattern)
        args.heldout = args.heldout or demo.RECORDINGS / "heldout.txt"
    heldout = set()
    if args.heldout:
        known = {utterance for files in corpora.values() for utterance in files}
        heldout = manifest.read_ids(args.heldout, known, args.pattern)
    with cli.locked(data, "--data"):
        print_summary(prepare(corpora, target, data, hp, heldout, not args.unpaired, args.channel), data)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("prepro.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
