"""The run folder: how a command opens it, and what training writes into it. The folder stays readable even if the
process that writes it is killed at any time.

All training starts with `open_run`. From the flags and the folder it decides whether a run begins or resumes, and with
which hyperparameters, features and weights; or it refuses and gives the reason.
"""
import argparse
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from backend import checkpoints, devices  # noqa: F401  before TensorFlow
from common import cli, storage
from common.cli import UserError
from corpus import demo, manifest
from hyperparams import PREPARATION, PRESETS, HyperParams, differences

import tensorflow as tf
from tensorboard.plugins.hparams import api as tensorboard_hparams

# Names in TensorBoard of the scalars whose own names have no group
GROUPS = {"loss": "loss/minimised", "gradient_norm": "loss/gradient_norm", "score": "free_running/score"}


RUN_FOLDERS = ("checkpoints", "train", "validation", "samples")


def short_message(error: Exception) -> str:
    """The message of an error in one line of at most 300 characters, without TensorFlow's name of the operation."""
    return " ".join(re.sub(r"\{\{.*?\}\}", "", str(error)).split())[:300]


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turn TensorFlow's errors into a UserError that names `path` and the cure."""
    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be written: {short_message(error)}. Free space or change "
                        "permissions; what was saved before is good, and the same command goes on from it") from None


def add_arguments(parser: argparse.ArgumentParser, default_logdir: str,
                  init_from_help: str = "begin with the weights of a run or behind a voice (pretrained/slt); say --data"
                  ) -> None:
    """The flags that all training scripts share."""
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="folder that prepro.py wrote (default: the one the run was trained on, or the demo)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR",
                        help=f"run folder; if it holds a run, that run is resumed (default: {default_logdir})")
    parser.add_argument("--preset", choices=PRESETS,
                        help="hyperparameters to begin with (default: demo or, with --data, default)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a hyperparameter")
    parser.add_argument("--steps", type=cli.positive, metavar="N", help="stop after step N; the run can go on later")
    parser.add_argument("--init-from", type=pathlib.Path, metavar="DIR", help=init_from_help)
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if the run folder holds a checkpoint")


class RunPlan(NamedTuple):
    """What the flags and the run folder decide: new or resumed, hyperparameters, features, initial weights."""
    logdir: pathlib.Path
    script: str                      # the script that trains the run
    is_resuming: bool
    no_resume: bool                  # True: remove the files of an earlier run
    hp: HyperParams
    data: pathlib.Path               # features
    init_from: pathlib.Path | None   # the run that gave the initial weights, or the voice in front
    checkpoint: str | None           # of this run, to resume from
    initial_weights: str | None      # if there is none: the checkpoint that gives the generator's initial weights


def is_resuming(args: argparse.Namespace) -> bool:
    """Whether the run folder holds a run that the flags resume."""
    return (args.logdir / "hparams.json").exists() and not args.no_resume


def open_run(args: argparse.Namespace, script: str, inherit_with: dict | None = None) -> RunPlan:
    """Decide everything about the run that the flags name, without writing into its folder. A new run takes the
    hyperparameters of its preset, or with `inherit_with`, a dictionary of changes, those and the features of
    `--init-from`; a resumed run keeps its own, and flags that ask for others are refused. Raises UserError."""
    logdir, data, init_from = args.logdir, args.data, args.init_from
    if (logdir / checkpoints.WEIGHTS).exists():
        raise UserError(f"{logdir} is an exported model, not a run that can go on (it holds {checkpoints.WEIGHTS}): "
                        f"choose another --logdir; --init-from {logdir} begins with its weights")
    info, resuming = read_run_info(logdir), is_resuming(args)
    if not init_from and (init_from := former_init_from(args, info)):
        print(f"--init-from {init_from}, as before")
    existing = [] if args.no_resume else checkpoints.checkpoints_in(logdir / "checkpoints")
    if existing and not resuming:
        raise UserError(f"{logdir} holds checkpoints but no hparams.json: restore it, or begin anew with --no-resume")
    if resuming:
        if not info and not data:
            raise UserError(f"{logdir} has no run.json that can be read: say with --data what it was trained on")
        default = HyperParams.from_json(logdir / "hparams.json")
    elif init_from and inherit_with is not None:
        if not (init_from / "hparams.json").exists():
            raise UserError(f"--init-from {init_from} is no run folder; train.py makes such a folder")
        default = HyperParams.from_json(init_from / "hparams.json").replace(**inherit_with)
        data = data or read_run_info(init_from).get("data")
    else:
        is_demo = not data and info.get("data", demo.FEATURES) == demo.FEATURES
        default = PRESETS["demo" if is_demo else "default"]
    hp = choose_hyperparams(args, default, resuming)
    if init_from and not data and not info:
        raise UserError(f"--init-from {init_from} gives the first weights: say with --data what to train on")
    data = data or info.get("data") or demo.prepare(hp)
    if resuming:
        check_run_info(info, logdir, script, data, init_from)
        init_from = init_from or info.get("init_from")
    if not init_from and script == "train.py" and manifest.holds_target_only(data):
        init_from = checkpoints.PRETRAINED
    checkpoint = checkpoints.newest_readable(existing)
    was_run = bool(info or checkpoints.checkpoints_in(logdir / "checkpoints")) or (logdir / "hparams.json").exists()
    if not was_run:
        storage.check_own([logdir / name for name in RUN_FOLDERS])
    return RunPlan(logdir, script, resuming, args.no_resume and was_run, hp, data, init_from, checkpoint,
                   checkpoints.best_checkpoint(init_from) if init_from and not checkpoint else None)


def former_init_from(args: argparse.Namespace, info: dict) -> pathlib.Path | None:
    """What a run of this `info` that begins anew began with before, unless the flags ask for a preset or other data."""
    before = info.get("init_from")
    other_data = args.data and before and args.data.resolve() != info["data"].resolve()
    if not args.no_resume or args.preset or not before or other_data or before.resolve() == args.logdir.resolve():
        return None
    return before


def choose_hyperparams(args: argparse.Namespace, default: HyperParams, resuming: bool) -> HyperParams:
    """The hyperparameters that the flags ask for, or `default` without flags. Raises UserError if a run is resumed
    and the flags ask for others than `default`, which then holds the hyperparameters of the run."""
    hp = (PRESETS[args.preset] if args.preset else default).override(args.set)
    unread = [text for text in args.set if text.partition("=")[0] in PREPARATION]
    if unread:
        raise UserError(f"--set {unread[0]}: only prepro.py reads this; prepare the features again with it")
    others = differences(vars(default), hp) if resuming else []
    if others:
        raise UserError(f"{args.logdir} was begun with other hyperparameters: {', '.join(others)}; "
                        "choose another --logdir, or --no-resume to begin anew")
    return hp


def read_run_info(logdir: pathlib.Path) -> dict:
    """Read what `write_run_info` wrote; an empty dictionary if the file is missing or damaged."""
    info = storage.read_json(logdir / "run.json")
    if not {"script", "data", "steps", "manifest", "init_from"} <= info.keys() or not isinstance(info["data"], str):
        return {}
    data, moved = pathlib.Path(info["data"]), (logdir / info.get("data_from_here", info["data"])).resolve()
    return info | {"data": moved if moved.exists() and not data.exists() else data,
                   "init_from": pathlib.Path(info["init_from"]) if info["init_from"] else None}


def read_finished(logdir: pathlib.Path) -> dict:
    """`read_run_info` of a run that is to be used; warns if its training has not come to its end."""
    info, step = read_run_info(logdir), checkpoints.newest_step(logdir)
    if info and step < info["steps"]:
        print(f"warning: {logdir} is trained to step {step} of {info['steps']} only", file=sys.stderr)
    return info


def write_run_info(logdir: pathlib.Path, script: str, data: pathlib.Path, steps: int,
                   init_from: pathlib.Path | None = None, initial_weights: str | None = None) -> None:
    """Write run.json: the script that trains the run, its features, last step and initial weights, of which it keeps
    the hash (None: the one that is noted there stays). The features are also named as seen from the run folder, so that
    both may move together."""
    storage.write_json(logdir / "run.json", {
        "script": script, "data": str(data.resolve()),
        "data_from_here": os.path.relpath(data.resolve(), logdir.resolve()), "steps": steps,
        "manifest": manifest.fingerprint(data),
        "init_from": str(init_from.resolve()) if init_from else None,
        "initial_weights": storage.content_hash(pathlib.Path(initial_weights)) if initial_weights else (
            storage.read_json(logdir / "run.json").get("initial_weights"))})


def check_run_info(info: dict, logdir: pathlib.Path, script: str, data: pathlib.Path,
                   init_from: pathlib.Path | None) -> None:
    """Raise UserError if a run that is resumed was begun with another script, `init_from` or `data`, or if its features
    have changed; warn if the run that gave its initial weights has others now."""
    if not info:
        return
    cure = "choose another --logdir, or begin anew with --no-resume"
    if info["script"] != script:
        raise UserError(f"{logdir} was begun by {info['script']}, not {script}: {cure}")
    before = info["init_from"]
    if init_from and before != init_from.resolve():
        raise UserError(f"{logdir} was begun {f'with --init-from {before}' if before else 'without --init-from'}: "
                        f"leave --init-from out, {cure}")
    if info["data"].exists() and info["data"].resolve() != data.resolve():
        raise UserError(f"{logdir} was begun with --data {info['data']}, not {data}: leave --data out, {cure}")
    if info["manifest"] != manifest.fingerprint(data):
        raise UserError(f"{data} has changed since {logdir} was begun: prepro.py found other recordings there, "
                        f"and may have split them differently; {cure}")
    first = info.get("initial_weights")
    with contextlib.suppress(UserError):  # that run may be gone
        if first and before and checkpoints.newest_step(logdir) and first != storage.content_hash(
                pathlib.Path(checkpoints.best_checkpoint(before))):
            print(f"warning: {before} has other weights than those that {logdir} began with: --no-resume --init-from "
                  f"{before} begins anew with them", file=sys.stderr)


def clear_run(logdir: pathlib.Path) -> None:
    """Remove the checkpoints, events and samples of an earlier run from a run folder."""
    for name in RUN_FOLDERS:
        shutil.rmtree(logdir / name, ignore_errors=True)
    for path in logdir.glob("events*"):
        path.unlink()


class Run:
    """A run folder during training: the step, the best validation score, TensorBoard and checkpoints of `parts`, names
    to lists of Keras variables, one of which is "generator"."""

    def __init__(self, logdir: pathlib.Path, hp: HyperParams, parts: dict):
        self.logdir, self.hp, self.parts = pathlib.Path(logdir), hp, parts
        storage.write_json(self.logdir / "hparams.json", dataclasses.asdict(hp))
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(math.inf, trainable=False)
        self.folder = self.logdir / "checkpoints"
        for half in self.folder.rglob(".*.tmp"):  # left by a process that was killed
            half.unlink()
        with writing(self.logdir), tf.summary.create_file_writer(str(self.logdir)).as_default():
            # Written into the parent folder of train/ and validation/, so that it applies to both
            tensorboard_hparams.hparams(dataclasses.asdict(hp), trial_id=str(self.logdir.resolve()))
        self.first_step, self.saved_step = 0, -1
        self.unchecked: list[tuple] = []        # steps whose scalars were not fetched yet, see `trainer.check`
        self.skipped, self.in_a_row = 0, 0      # skipped steps since the process began, and without a good one since
        self.validating = False

    @functools.cached_property
    def writers(self) -> dict[str, tf.summary.SummaryWriter]:
        """Writers of TensorBoard's event files, made at the first scalar. TensorBoard then ignores what an earlier
        process logged after the checkpoint."""
        for kind in ("train", "validation"):
            begin_session(self.logdir / kind, self.first_step)
        with writing(self.logdir):
            return {kind: tf.summary.create_file_writer(str(self.logdir / kind)) for kind in ("train", "validation")}

    def resume(self, path: str) -> None:
        """Restore everything from a checkpoint; raises UserError if it belongs to another network."""
        checkpoints.restore(self.parts | {"run": [self.step, self.best]}, path, self.hp)
        self.first_step = self.saved_step = int(self.step)

    def save(self) -> None:
        """Write a checkpoint unless this step has one; raises UserError."""
        if self.saved_step != int(self.step):
            checkpoints.write(self.folder / f"step-{int(self.step)}.npz", self.parts | {"run": [self.step, self.best]})
            self.saved_step = int(self.step)
            for path in checkpoints.checkpoints_in(self.folder)[self.hp.keep_checkpoints:]:
                os.remove(path)

    def select(self, score: float) -> None:
        """Save the generator of this step as the best; raises UserError."""
        self.best.assign(score)
        path = self.folder / "best" / f"best-{int(self.step)}.npz"
        if not path.exists():  # a resumed run may come here a second time for a step
            checkpoints.write(path, {"generator": self.parts["generator"]})
            for other in {*path.parent.glob("best-*.npz")} - {path}:
                other.unlink()

    def log(self, kind: str, scalars: dict[str, float]) -> None:
        """Write scalars to TensorBoard as `kind` "train" or "validation". They reach the disk at once, so that no
        checkpoint is newer than the scalars."""
        with writing(self.logdir / kind), self.writers[kind].as_default(step=int(self.step)):
            for name, value in scalars.items():
                tf.summary.scalar(GROUPS.get(name, name), value)

    def log_sample(self, name: str, wav, picture: pathlib.Path) -> None:
        """Show a recording (samples,) and a PNG picture in TensorBoard."""
        folder, writer = self.logdir / "validation", self.writers["validation"]
        with writing(folder), writer.as_default(step=int(self.step)):
            tf.summary.audio(f"audio/{name}", wav[None, :, None], self.hp.sample_rate)
            tf.summary.image(f"align/{name}", tf.io.decode_png(picture.read_bytes())[None])


def begin_session(folder: pathlib.Path, step: int) -> None:
    """Tell TensorBoard to forget the events after `step` in a folder, because they will be logged again."""
    # TensorBoard reads files in the order of their names: this name comes after the older files and before the file
    # that TensorFlow adds. TensorBoard does not treat the first start as a restart, so every start has to be written
    path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
    folder.mkdir(parents=True, exist_ok=True)
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    with writing(path), tf.io.TFRecordWriter(str(path)) as file:
        for event in (tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"),
                      tf.compat.v1.Event(wall_time=time.time(), step=step + 1, session_log=start)):
            file.write(event.SerializeToString())


def read_scalars(folder: pathlib.Path, tag: str) -> tuple[list[int], list[float]]:
    """Steps and values of a scalar in the event files of a folder; if a step was logged twice, the later value."""
    values = {}
    for path in sorted(folder.glob("events*")):
        with contextlib.suppress(tf.errors.DataLossError):  # the last event of a run that was killed may be cut off
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    if value.tag == tag:
                        values[event.step] = float(tf.make_ndarray(value.tensor))
    steps = sorted(values)
    return steps, [values[step] for step in steps]
