"""Convert speech with a trained model.

    python eval.py                                         # the held-out sentences of the demo corpus, with measures
    python eval.py --data DIR --logdir logdir/mine         # the held-out sentences of another corpus
    python eval.py --asr small.en --transcripts FILE       # count also the words that a recogniser hears wrong
    python eval.py FILE_OR_FOLDER ... --out DIR            # recordings of any speaker and length, by pretrained/
    python eval.py FILE ... --logdir logdir/mine --out DIR # recordings, by a model of yours

Writes 16-bit wav files, spectrograms with alignments, metrics.json and index.html, a page to look and listen.
All conversion is free running: the model gets the source and nothing else. finished/ in DIR lists the recordings that
are done; after an interruption the same command goes on with the others.
"""
import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

import data_load
import utils
from backend import checkpoints
from common import audio_files, cli, storage
from corpus import manifest
from evaluation import figures, heldout
from training import run_folder
from conversion.inference import Converter, convert_recording, load_converter

HERE = pathlib.Path(__file__).resolve().parent
FILES_AT_ONCE = 4


def find_recordings(paths: list[pathlib.Path], out: pathlib.Path) -> list[pathlib.Path]:
    """Replace folders by the recordings in them, without recordings in `out`; raises ValueError if there are none."""
    found, results = [], pathlib.Path(os.path.realpath(out))
    for path in paths:
        if path.is_dir():
            within = results != pathlib.Path(os.path.realpath(path))
            found += [file for file in audio_files.list_audio(path)
                      if not (within and results in pathlib.Path(os.path.realpath(file.parent), "x").parents)]
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f"{storage.printable(path)} does not exist; give a recording or a folder of recordings")
    if not found:
        raise ValueError(f"no recordings ({', '.join(audio_files.AUDIO_SUFFIXES)}) in "
                         f"{', '.join(map(storage.printable, paths))}")
    return found


def outputs(name: str) -> list[str]:
    """The files that are made from a recording: conversion, source, picture."""
    return [f"{name}.wav", f"{name}.source.wav", f"{name}.png"]


def unique_names(paths: list[pathlib.Path], records: dict[str, dict]) -> list[str]:
    """Names of the conversions: the stems of the recordings, with a number where output files would have the same name.

    A recording in the `records` of earlier commands keeps its name. Names that differ only in capitals count as the
    same, because they are one file on a Mac."""
    names, before, taken = [], collections.defaultdict(list), set()
    for name, record in records.items():
        before[record["made_of"]["source"]].append(name)
        if os.path.exists(record["made_of"]["source"]):
            taken.update(outputs(name.casefold()))
    for path in paths:
        same = before[os.path.realpath(path)]
        if same:
            name = same.pop(0)
        else:
            stem = name = storage.file_name(path.stem)
            n = 2
            while not taken.isdisjoint(outputs(name.casefold())):
                name, n = f"{stem}_{n}", n + 1
        names.append(name)
        taken.update(outputs(name.casefold()))
    return names


def model_hash(converter: Converter) -> str:
    """Hash of the weights, the base and the hyperparameters: with the same hash a recording gives the same output."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(converter.hp), sort_keys=True).encode())
    for array in (*converter.generator.weights, *converter.base):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def origin(path: pathlib.Path, model: str) -> dict:
    """What a conversion is made from: the recording in its present state and the `fingerprint` of the model."""
    try:
        found = path.stat()
    except OSError:  # load_wav will say what is wrong
        return {}
    return {"source": os.path.realpath(path), "bytes": found.st_size, "changed": found.st_mtime_ns, "model": model}


def read_records(out: pathlib.Path) -> dict[str, dict]:
    """The records that `convert_file` wrote in `out`, by name of the conversion, if all their files are complete."""
    records = {}
    for path in sorted((out / "finished").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            whole = all((out / file).stat().st_size == size for file, size in record["outputs"].items())
            if whole and {"source", "model"} <= record["made_of"].keys() and record["row"]["id"]:
                records[path.stem] = record
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's, or an interrupted file
            continue
    return records


def convert_file(path: pathlib.Path, name: str, out: pathlib.Path, converter: Converter, pool, made_of: dict) -> dict:
    """Convert one recording; returns its row for the results page. Raises BadAudio and CannotWrite."""
    hp, record = converter.hp, out / "finished" / f"{name}.json"
    wav = utils.load_wav(path, hp)
    voice, chunks, first, stopped = convert_recording(wav, converter, pool)
    if record.exists():
        storage.write_json(record, None)  # first, because the record does not describe the new output files
    converted, source, picture = outputs(name)
    audio_files.save_wav(out / converted, voice, hp)
    audio_files.save_wav(out / source, wav, hp)
    title = name if len(chunks) == 1 else f"{name}, first of {len(chunks)} chunks"
    figures.plot_conversion(out / picture, utils.spectrograms(chunks[0].wav, hp)[1], first, None, None, hp, title)
    row = {"id": name, "audio": {"source": source, "converted": converted}, "picture": picture,
           "measures": {"source s": len(wav) / hp.sample_rate, "converted s": len(voice) / hp.sample_rate,
                        "stops by itself": stopped}}
    storage.write_json(record, {"made_of": made_of, "row": row,
                              "outputs": {file: (out / file).stat().st_size for file in outputs(name)}})
    return row


def convert_files(paths: list[pathlib.Path], out: pathlib.Path, converter: Converter, title: str) -> int:
    """Convert the recordings that are not done yet into `out`; a bad recording is named and skipped. The page also
    shows earlier conversions by the same model in `out`. Returns the number of recordings skipped."""
    recordings, records, refused, todo = find_recordings(paths, out), read_records(out), [], []
    names, model = unique_names(recordings, records), model_hash(converter)
    taken = {*map(os.path.realpath, recordings)} & {os.path.realpath(out / file) for name in names
                                                    for file in outputs(name)}
    if taken:
        raise ValueError(f"{storage.printable(min(taken))} would be overwritten by its own conversion; choose another "
                         "--out")
    rows = {name: record["row"] for name, record in records.items() if record["made_of"]["model"] == model}
    for path, name in zip(recordings, names):
        made_of = origin(path, model)
        if name not in rows or records[name]["made_of"] != made_of:
            rows.pop(name, None)
            todo.append((path, name, made_of))
    if len(todo) < len(recordings):
        print(f"{len(recordings) - len(todo)} of {len(recordings)} recordings were converted before; to convert them "
              f"again delete {out / 'finished'}")
    if any(record["made_of"]["model"] != model for record in records.values()):
        print(f"warning: {out} holds conversions by another model or with other settings: those of the same name are "
              "overwritten, the others are not on the page", file=sys.stderr)
    try:
        # Several files at a time: a decoder step waits for the step before it, so one file leaves most cores idle
        with (cli.locked(out, "--out"), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
              concurrent.futures.ThreadPoolExecutor(min(FILES_AT_ONCE, os.cpu_count())) as files):
            found = {name: files.submit(convert_file, path, name, out, converter, pool, made_of)
                     for path, name, made_of in todo}
            try:
                for name, future in tqdm(found.items(), "converting", disable=None):
                    try:
                        rows[name] = future.result()
                    except audio_files.BadAudio as error:
                        refused.append(str(error))
            except KeyboardInterrupt:
                print("\nstopping when the files under way are done", file=sys.stderr)
                raise
            finally:  # after an error the files that have not begun are cancelled
                files.shutdown(cancel_futures=True)
    finally:  # also when the disk is full
        for reason in refused:
            print(f"refused {reason}", file=sys.stderr)
    if rows or (out / "index.html").exists():  # an old page must not show outdated results
        order = dict.fromkeys([*names, *rows])
        heldout.finish(out, title, [rows[name] for name in order if name in rows],
                          {"converted": len(rows), "refused": len(refused)})
    return len(refused)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that both evaluation scripts share."""
    parser.add_argument("inputs", nargs="*", type=pathlib.Path, metavar="FILE_OR_FOLDER", help="recordings to convert")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="where results go (default: results/ in the run folder)")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="folder that prepro.py wrote (default: the one the run was trained on)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR",
                        help="run folder (default: pretrained/ for recordings; else the demo's run, or with --data "
                             "the run that training without --logdir makes)")
    parser.add_argument("--source", metavar="NAME",
                        help="held-out sentences of this source speaker, or of this folder, only")
    parser.add_argument("--oracles", action="store_true",
                        help="measure also the networks' output when they get a part of the true target")
    parser.add_argument("--asr", metavar="MODEL",
                        help="count wrong words with this Whisper model: a name such as small.en, or its folder")
    parser.add_argument("--transcripts", type=pathlib.Path, metavar="FILE",
                        help="true words: lines ( id \"text\" ) or id|text, or a JSON object (default: what --asr "
                             "hears in the target's recordings)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="override a hyperparameter of synthesis, for instance power=1")
    parser.add_argument("--checkpoint", metavar="PREFIX", help="use this checkpoint instead of the best one")
    cli.add_verbose(parser)


def complete(args: argparse.Namespace, parser: argparse.ArgumentParser, run: str) -> argparse.Namespace:
    """Check the flags, and fill in the folders that were not named, for the run logdir/`run`."""
    if args.inputs and not args.out:
        parser.error("--out DIR says where the converted recordings go")
    if args.inputs and (args.asr or args.transcripts):
        parser.error("--asr and --transcripts are for held-out sentences, not for other recordings")
    if args.transcripts and not args.asr:
        parser.error("--transcripts needs --asr MODEL, the recogniser whose words are compared with them")
    args.logdir = args.logdir or HERE / "logdir" / run
    args.out = args.out or args.logdir / "results"
    return args


def evaluate(args: argparse.Namespace, name_files: Callable = heldout.name_files) -> int:
    """Run an evaluation script; returns the exit code. Raises ValueError, OSError and TrainingError."""
    title = f"Voice conversion, {args.logdir.name}"
    converter = load_converter(args.logdir, args.checkpoint, args.set)
    step, info = checkpoints.newest_step(args.logdir), run_folder.read_run_info(args.logdir)
    if info and step < info["steps"]:
        print(f"warning: {args.logdir} is trained to step {step} of {info['steps']} only", file=sys.stderr)
    if args.inputs:
        print(f"the model is that of {args.logdir}")
        return 1 if convert_files(args.inputs, args.out, converter, title) else 0
    data = run_folder.find_data(args.data, info, converter.hp)
    corpus = data_load.Corpus(data, converter.hp)
    if info and info["data"] == data.resolve() and info["manifest"] != manifest.fingerprint(data):
        print(f"warning: prepro.py found other recordings for {data} since {args.logdir} was trained: the model may "
              "have been trained on sentences that are held out now", file=sys.stderr)
    recogniser = heldout.load_recogniser(args.asr, converter.hp)
    with cli.locked(args.out, "--out"):
        heldout.evaluate(corpus, args.out, converter, title, args.source, args.oracles, name_files, recogniser,
                            args.transcripts)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.inputs and not args.logdir and not args.data:
        args.logdir = checkpoints.PRETRAINED
    return complete(args, parser, "paired" if args.data else "demo")


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("eval.py", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
