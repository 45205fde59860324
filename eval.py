"""Convert speech with a trained model.

    python eval.py data/demo/rms/demo_001.ogg              # a recording, or several and folders, by pretrained/
    python eval.py data/demo/rms/demo_001.ogg --voice bdl --out out/bdl     # the same as a man
    python eval.py                                         # after train.py: the demo's held-out sentences, measured
    python eval.py FILE_OR_FOLDER ... --logdir logdir/mine # recordings of any speaker and length, by a model of yours
    python eval.py --data DIR --logdir logdir/mine         # the held-out sentences of another corpus

Writes 16-bit wav files, spectrograms with alignments, metrics.json and index.html, a page to look and listen.
All conversion is free running: the model gets the source and nothing else. Recordings that the same model has converted
into DIR before are left out, so after an interruption the same command goes on with the others.
"""
import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import sys
import threading

import data_load
import utils
from backend import checkpoints
from common import audio_files, cli, storage
from common.cli import UserError
from conversion.inference import Converter, convert_recording, load_converter
from corpus import analysis, manifest
from evaluation import figures, heldout
from hyperparams import HyperParams
from training import run_folder

import numpy as np
from tqdm import tqdm

HERE = pathlib.Path(__file__).resolve().parent
FILES_AT_ONCE = 4
NOTES = "conversions.json"  # in a folder of results, see `Conversions`


def find_recordings(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Replace folders by the recordings in them, without results of earlier commands, each once; raises UserError if
    there are none."""
    found, made_in = [], functools.cache(results_in)
    for path in paths:
        if not path.exists():
            raise UserError(f"{storage.printable(path)} does not exist; give a recording or a folder of recordings")
        if path.is_dir():
            found += [file for file in audio_files.list_audio(path) if file.name not in made_in(file.parent)]
        else:
            found.append(path)
    if not found:
        raise UserError(f"no recordings ({audio_files.ALL_SUFFIXES}) in {', '.join(map(storage.printable, paths))}")
    return list({os.path.abspath(path): path for path in found}.values())


def outputs(name: str) -> list[str]:
    """The files that are made from a recording: conversion, source, picture."""
    return [f"{name}.wav", f"{name}.source.wav", f"{name}.png"]


def results_in(folder: pathlib.Path) -> set[str]:
    """The names of the files in a folder that earlier commands made."""
    return {file for name, entry in read_notes(folder).items() if not took_its_place(folder / f"{name}.wav", entry)
            for file in outputs(name)}


def took_its_place(wav: pathlib.Path, entry: dict) -> bool:
    """Whether the file `wav` is not the conversion that a note is about, nor what a power failure left of it."""
    return "wav" in entry and wav.exists() and audio_files.is_whole(wav) and storage.content_hash(wav) != entry["wav"]


def read_notes(folder: pathlib.Path) -> dict[str, dict]:
    """What `Conversions` noted in a folder; empty if it is somebody else's."""
    notes = storage.read_json(folder / NOTES)
    return notes if all(isinstance(entry, dict) and "model" in entry for entry in notes.values()) else {}


def unique_names(paths: list[pathlib.Path]) -> list[str]:
    """Names of the conversions: the stems of the recordings, with a number where output files would have the same name.
    Names that differ only in capitals count as the same, because they are one file on a Mac. "x.source" becomes
    "x_source": it would be taken for the source of a conversion "x"."""
    names, taken = [], set()
    for path in paths:
        stem = name = re.sub(r"\.(source)$", r"_\1", storage.file_name(path.stem), flags=re.IGNORECASE)
        n = 2
        while not taken.isdisjoint(outputs(name.casefold())):
            name, n = f"{stem}_{n}", n + 1
        names.append(name)
        taken.update(outputs(name.casefold()))
    return names


class Conversions:
    """What is known of the conversions in the folder `out`, in conversions.json: their "model", "measures", "warnings"
    and the hash of the "wav" file. Other files of their names are somebody's own, and are not replaced. Times would not
    tell which model made them: copying changes them."""

    def __init__(self, out: pathlib.Path, converter: Converter, names: list[str]):
        """Begin to convert `names`; raises UserError if a file is in the way."""
        settings = dataclasses.asdict(converter.hp) | {"keep_intervals": converter.keep_intervals}
        digest = hashlib.sha256(json.dumps(settings).encode())
        for array in (*converter.generator.weights, *converter.base):
            digest.update(np.ascontiguousarray(array).tobytes())
        self.out, self.model, self.lock = out, digest.hexdigest(), threading.Lock()
        self.path = out / NOTES
        self.known = read_notes(out)  # of each name; its model is "" while it is being converted
        if not self.known:
            storage.check_own([self.path])
        folded = {name.casefold(): name for name in self.known}
        for name in names:
            self.claim(name, folded.get(name.casefold(), name))
        heldout.check_results(out)

    def claim(self, name: str, noted_as: str) -> None:
        """Raise UserError if the files of a conversion would replace somebody's own; it may be noted in other capitals,
        which on a Mac make no other file."""
        wav, noted = self.out / f"{name}.wav", self.out / f"{noted_as}.wav"
        if name not in self.known and noted_as != name and noted.exists() and wav.exists() and wav.samefile(noted):
            self.known[name] = self.known.pop(noted_as)
        if name not in self.known:
            storage.check_own([self.out / file for file in outputs(name)])
        elif took_its_place(wav, self.known[name]):
            storage.check_own([wav])

    def note(self, name: str, **entry) -> None:
        with self.lock:
            self.known[name] = entry
            storage.write_json(self.path, self.known, indent=None)  # ten times as fast, for thousands of recordings

    def made_by_others(self, names: list[str]) -> list[str]:
        """Which of `names` another model converted, or this one with other settings."""
        return [name for name in names if self.known.get(name, {}).get("model", "") not in ("", self.model)]

    def __contains__(self, name: str) -> bool:
        """Whether the conversion `name` is complete and by this model."""
        files = [self.out / file for file in outputs(name)]
        return (self.known.get(name, {}).get("model") == self.model and all(file.exists() for file in files)
                and all(map(audio_files.is_whole, files[:2])))


def convert_file(path: pathlib.Path, name: str, conversions: Conversions, converter: Converter, pool,
                 again: bool = False, trim: bool = False, channel: int | None = None) -> bool:
    """Convert one recording, unless it is among `conversions` and not wanted `again`; returns whether there was
    something to do. Raises BadAudio, and UserError if a file cannot be written."""
    hp = converter.hp
    converted, source, picture = (conversions.out / file for file in outputs(name))
    wav, _, warnings = utils.load_recording(path, hp, trim, channel)
    if not again and name in conversions and source.read_bytes() == audio_files.encode_wav(wav, hp):
        return False
    result = convert_recording(wav, converter, pool)
    warnings += [f"{storage.printable(path)}: {text}" for text in result.remarks]
    conversions.note(name, model="")
    converted.unlink(missing_ok=True)  # it is written last: where it is, all files are of the same recording
    audio_files.save_wav(source, wav, hp)
    title = name if len(result.chunks) == 1 else f"{name}, first of {len(result.chunks)} chunks"
    figures.plot_conversion(picture, result.heard, result.first, None, None, hp, title)
    pitches = [float(np.median(hertz[hertz > 0.0])) if (hertz > 0.0).any() else None
               for hertz in (result.hertz, analysis.pitch(result.wav, hp))]
    seconds = sum(len(chunk.wav) for chunk in result.chunks) / hp.sample_rate
    measures = {"speech s": seconds, "source F0 Hz": pitches[0], "converted F0 Hz": pitches[1],
                "stops by itself": result.stopped}
    content = hashlib.sha256(audio_files.encode_wav(result.wav, hp)).hexdigest()
    # Before the last file, without which it counts for nothing
    conversions.note(name, model=conversions.model, wav=content, warnings=warnings, measures=measures)
    audio_files.save_wav(converted, result.wav, hp)
    as_name = f" (as {name}.wav)" * (name != path.stem)
    tqdm.write(f"{storage.printable(path)}{as_name}: {seconds:.1f} s of speech, pitch " + ", becomes ".join(
        "none" if hertz is None else f"{hertz:.0f} Hz" for hertz in pitches))
    for warning in warnings:
        tqdm.write(f"warning: {warning}", file=sys.stderr)
    return True


def convert_files(recordings: list[pathlib.Path], out: pathlib.Path, converter: Converter, title: str,
                  overwrite: bool = False, trim: bool = False, channel: int | None = None) -> int:
    """Convert recordings into `out`, unless the same model has done so before (without `overwrite`); bad ones are named
    and skipped. `trim` cuts silence at both ends, `channel` chooses one of several. Returns the number of bad ones."""
    names, found = unique_names(recordings), {}
    taken = {*map(os.path.realpath, recordings)} & {os.path.realpath(out / file) for name in names
                                                    for file in outputs(name)}
    if taken:
        raise UserError(f"{storage.printable(min(taken))} would be overwritten; choose another --out")
    with cli.locked(out, "--out"):
        conversions = Conversions(out, converter, names)
        if others := conversions.made_by_others(names):
            print(f"warning: conversions in {out} by another model or with other settings are replaced, "
                  f"{len(others)} of them; another --out keeps them", file=sys.stderr)
        # Several files at a time: a decoder step waits for the step before it, so one file leaves most cores idle
        with (concurrent.futures.ThreadPoolExecutor(cli.cores()) as pool,
              concurrent.futures.ThreadPoolExecutor(min(FILES_AT_ONCE, cli.cores())) as files):
            running = {name: files.submit(convert_file, path, name, conversions, converter, pool, overwrite, trim,
                                          channel) for path, name in zip(recordings, names)}
            try:
                for name, future in tqdm(running.items(), "converting", disable=None):
                    try:
                        found[name] = future.result()
                    except audio_files.BadAudio as error:
                        tqdm.write(f"refused {error}", sys.stderr)
            except KeyboardInterrupt:
                print("\nstopping when the files under way are done", file=sys.stderr)
                raise
            finally:  # after an error the files that have not begun are cancelled
                files.shutdown(cancel_futures=True)
        write_results(conversions, names, found, title, converter.hp)
    return len(names) - len(found)


def write_results(conversions: Conversions, names: list[str], found: dict[str, bool], title: str,
                  hp: HyperParams) -> None:
    """Write the page and metrics.json of all `conversions` by the model: first `names` as far as they are in `found`
    (see `convert_file`), then those of earlier commands."""
    out, rows = conversions.out, []
    others = sorted(name for name in {*conversions.known} - {*names} if (out / f"{name}.wav").exists())
    shown = [*found, *(name for name in others if name in conversions)]
    for name in shown:
        converted, source, picture = outputs(name)
        measures = {f"{kind} s": ((out / file).stat().st_size - 44) / 2 / hp.sample_rate  # of a 16-bit wav file
                    for kind, file in (("source", source), ("converted", converted))}
        known = conversions.known[name]
        rows.append({"id": name, "audio": {"source": source, "converted": converted}, "picture": picture,
                     "warnings": known["warnings"], "measures": measures | known["measures"]})
    kept = list(found.values()).count(False)
    if kept:
        print(f"{kept} of {len(names)} recordings were converted before; --overwrite converts them again")
    if conversions.made_by_others(others):
        print(f"warning: {out} holds conversions by another model or with other settings, which are not on the page",
              file=sys.stderr)
    if rows or (out / "index.html").exists():  # an old page must not show outdated results
        refused = {"refused": len(names) - len(found)}
        told = {"skipped, converted before": kept} | refused | {"of earlier commands": len(rows) - len(found)}
        heldout.finish(out, title, rows, {"converted": len(rows)} | refused, {
            "converted now": len(found) - kept, **{what: n for what, n in told.items() if n}})


def parse_arguments(argv: list[str] | None, description: str = __doc__, script: str = "train.py",
                    ending: str = "") -> argparse.Namespace:
    """The flags of both evaluation scripts, whose default run folders end in `ending` and are made by `script`."""
    parser = cli.new_parser(description)
    parser.add_argument("inputs", nargs="*", type=pathlib.Path, metavar="FILE_OR_FOLDER", help="recordings to convert")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="where results go (default: out/ for recordings, else results/ in the run folder)")
    parser.add_argument("--overwrite", action="store_true", help="convert also recordings that were converted before")
    parser.add_argument("--voice", choices=checkpoints.VOICES, help="which voice of pretrained/ speaks (default: slt)")
    parser.add_argument("--trim", action="store_true", help="cut silence at both ends of recordings")
    parser.add_argument("--keep-intervals", action="store_true",
                        help="for singing: move the pitch by a constant interval, so that melodies stay as they are")
    cli.add_channel(parser)
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="folder that prepro.py wrote (default: the one the run was trained on)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR",
                        help="run folder (default: pretrained/ for recordings, else what training on --data makes)")
    parser.add_argument("--source", metavar="NAME", help="only held-out sentences of this source speaker or folder")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="override a hyperparameter of synthesis, for instance power=1.1")
    parser.add_argument("--checkpoint", metavar="FILE", help="use this checkpoint instead of the best one")
    return complete(parser.parse_args(argv), parser, script, ending)


def complete(args: argparse.Namespace, parser: argparse.ArgumentParser, script: str, ending: str) -> argparse.Namespace:
    """Check the flags, and fill in the folders that were not named: recordings are converted by a voice of pretrained/,
    held-out sentences by the model in a folder of logdir/ that `script` trains."""
    for is_wrong, message in (
            (args.inputs and (args.source or args.data and args.logdir),
             "--source, and --data beside --logdir, are for held-out sentences, not for recordings"),
            (not args.inputs and (args.keep_intervals or args.trim or args.channel or args.overwrite),
             "--keep-intervals, --trim, --channel and --overwrite are for recordings, not for held-out sentences"),
            (args.voice and not args.inputs, "--voice chooses a voice of pretrained/ for recordings: name some"),
            (args.voice and (args.logdir or args.data), "--voice does not go with --logdir and --data")):
        if is_wrong:
            parser.error(message)
    if args.inputs and not args.logdir and not args.data:
        args.logdir = checkpoints.PRETRAINED.with_name(args.voice or checkpoints.VOICES[0])
    args.trained_by = None if args.logdir else f"python {script}" + f" --data {args.data}" * bool(args.data)
    args.logdir = args.logdir or HERE / "logdir" / (("paired" if args.data else "demo") + ending)
    args.out = args.out or (pathlib.Path("out") if args.inputs else args.logdir / "results")
    return args


def evaluate(args: argparse.Namespace, endings: dict[str, str] | None = None) -> int:
    """Run an evaluation script; returns the exit code. Raises UserError."""
    title = f"Voice conversion, {args.logdir.name}"
    if args.trained_by and not (args.logdir / "hparams.json").exists():
        raise UserError(f"{args.logdir} holds no trained model: {args.trained_by} makes one, or name another --logdir")
    recordings = find_recordings(args.inputs) if args.inputs else []  # before the model is loaded
    converter = load_converter(args.logdir, args.checkpoint, args.set)
    info = run_folder.read_finished(args.logdir)
    if args.inputs:
        print(f"the model is that of {args.logdir}")
        converter.keep_intervals = args.keep_intervals
        return int(convert_files(recordings, args.out, converter, title, args.overwrite, args.trim, args.channel) > 0)
    data = args.data or info.get("data")
    if not data:
        raise UserError(f"{args.logdir} does not say what it was trained on (no run.json that can be read): name "
                        "recordings to convert, or --data for held-out sentences")
    corpus = data_load.Corpus(data, converter.hp)
    if info and info["data"] == data.resolve() and info["manifest"] != manifest.fingerprint(data):
        print(f"warning: prepro.py found other recordings for {data} since {args.logdir} was trained: the model may "
              "have been trained on sentences that are held out now", file=sys.stderr)
    with cli.locked(args.out, "--out"):
        heldout.evaluate(corpus, args.out, converter, title, args.source, endings)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("eval.py", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
