"""The run folder: how a command opens it, and what training writes into it. It can be read whenever the process that
writes it is killed.

`open_run` is the one door: from the flags and the folder it decides whether a run begins or goes on, with which
hyperparameters, features and weights, or it refuses with the reason.
"""
import argparse
import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import shutil
import socket
import time
from typing import NamedTuple

import checkpoints
import cli
import hyperparams
import manifest
import prepro
import utils
import tensorflow as tf
from tensorboard.plugins.hparams import api as tensorboard_hparams

from cli import TrainingError
from hyperparams import HyperParams, differences

# Where TensorBoard shows what a trainer gives without a group
GROUPS = {"loss": "loss/minimised", "gradient_norm": "loss/gradient_norm", "score": "free_running/score"}


def positive(text: str) -> int:
    """A number of steps; raises ValueError."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def add_arguments(parser: argparse.ArgumentParser, default_logdir: str) -> None:
    """The flags that all training scripts share."""
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="what prepro.py wrote (default: what the run was trained on, or the demo)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR",
                        help=f"run folder; resumed if it holds a checkpoint (default: {default_logdir})")
    parser.add_argument("--preset", choices=hyperparams.PRESETS,
                        help="hyperparameters to start from (default: demo, with --data default)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a hyperparameter")
    parser.add_argument("--seed", type=int, help="of weights, data order and dropout (default: that of hyperparams.py)")
    parser.add_argument("--steps", type=positive, metavar="N", help="stop after step N, to go on another time")
    parser.add_argument("--init-from", type=pathlib.Path, metavar="DIR", help="begin with the weights of another run")
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if the run folder holds a checkpoint")
    cli.add_verbose(parser)


class RunPlan(NamedTuple):
    """Everything that is decided before the first step."""
    logdir: pathlib.Path
    script: str                      # that trains it
    is_resuming: bool
    no_resume: bool                  # what an earlier run left is removed
    hp: HyperParams
    data: pathlib.Path               # features
    init_from: pathlib.Path | None   # the run whose weights it began with
    unpaired: pathlib.Path | None    # recordings that train_gan.py converts, too
    existing: list[str]              # its checkpoints, the newest first
    checkpoint: str | None           # the one of them to go on from
    initial_weights: str | None      # without one: the checkpoint whose generator it begins with


def open_run(args: argparse.Namespace, script: str, inherited: dict | None = None) -> RunPlan:
    """Decide everything about the run that the flags name. Writes nothing into its folder.

    A new run takes the hyperparameters of its preset, or, if `inherited` is a dictionary, those of `--init-from` with
    these changes, and the features of that run. A resumed one keeps what it was begun with, and is refused if a flag
    says something else. Raises TrainingError and ValueError.
    """
    logdir, info, data = args.logdir, read_run_info(args.logdir), args.data
    init_from, unpaired = args.init_from, getattr(args, "unpaired", None)
    is_resuming = (logdir / "hparams.json").exists() and not args.no_resume
    if is_resuming:
        default = HyperParams.from_json(logdir / "hparams.json")
    elif init_from and inherited is not None:
        if not (init_from / "hparams.json").exists():
            raise TrainingError(f"--init-from {init_from} is no run folder; train.py makes one")
        default = HyperParams.from_json(init_from / "hparams.json").replace(**inherited)
        data = data or read_run_info(init_from).get("data")
    else:
        is_demo = not data and info.get("data", prepro.DEMO_DATA) == prepro.DEMO_DATA
        default = hyperparams.PRESETS["demo" if is_demo else "default"]
    hp = choose_hyperparams(args, default, is_resuming)
    data = find_data(data, info, hp)
    if is_resuming:
        check_run_info(info, logdir, script, data, init_from, unpaired)
        init_from, unpaired = init_from or info.get("init_from"), unpaired or info.get("unpaired")
    if unpaired and not unpaired.is_dir():
        raise TrainingError(f"--unpaired {unpaired} is no folder of recordings")
    existing = [] if args.no_resume else checkpoints.checkpoints_in(logdir / "checkpoints")
    checkpoint = checkpoints.newest_readable(existing)
    return RunPlan(logdir, script, is_resuming, args.no_resume, hp, data, init_from, unpaired, existing, checkpoint,
                   checkpoints.best_checkpoint(init_from) if init_from and not checkpoint else None)


def choose_hyperparams(args: argparse.Namespace, default: HyperParams, is_resuming: bool) -> HyperParams:
    """The hyperparameters that the flags ask for; without flags `default`. Raises TrainingError if they differ from
    those of a run that is resumed, which are `default`."""
    overrides = args.set + ([f"seed={args.seed}"] if args.seed is not None else [])
    hp = hyperparams.get(args.preset, overrides) if args.preset else default.override(overrides)
    others = differences(default, hp) if is_resuming else []
    if others:
        raise TrainingError(f"{args.logdir} was begun with other hyperparameters: {', '.join(others)}; "
                            "choose another --logdir, or --no-resume to begin anew")
    return hp


def find_data(data: pathlib.Path | None, info: dict, hp: HyperParams) -> pathlib.Path:
    """The features to use: `data` if a flag named them, else those in the `info` of a run, else the demo's, which are
    prepared if they are not there."""
    return data or info.get("data") or prepro.prepare_demo(hp)


def read_run_info(logdir: pathlib.Path) -> dict:
    """What `write_run_info` wrote, an empty dictionary if there is nothing; raises TrainingError if it is damaged."""
    path = logdir / "run.json"
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        return {"script": str(info["script"]), "data": pathlib.Path(info["data"]), "steps": int(info["steps"]),
                "manifest": str(info["manifest"]),
                "init_from": pathlib.Path(info["init_from"]) if info["init_from"] else None,
                "unpaired": pathlib.Path(info["unpaired"]) if info.get("unpaired") else None}
    except (ValueError, KeyError, TypeError):
        raise TrainingError(f"{path} is damaged: delete it, and say with --data what the run is trained on") from None


def write_run_info(logdir: pathlib.Path, script: str, data: pathlib.Path, steps: int,
                   init_from: pathlib.Path | None = None, unpaired: pathlib.Path | None = None) -> None:
    """Write into a run folder which script trains it, with which features, to which last step, from whose weights and
    with which unpaired recordings."""
    folders = {name: str(folder.resolve()) if folder else None
               for name, folder in (("init_from", init_from), ("unpaired", unpaired))}
    utils.write_json(logdir / "run.json", {"script": script, "data": str(data.resolve()), "steps": steps,
                                           "manifest": manifest.fingerprint(data), **folders})


def check_run_info(info: dict, logdir: pathlib.Path, script: str, data: pathlib.Path, init_from: pathlib.Path | None,
                   unpaired: pathlib.Path | None) -> None:
    """Raise TrainingError if a run that is resumed was begun by another script, from another run than `init_from`,
    with other recordings than those in `unpaired`, or with other features than `data`."""
    if not info:
        return
    cure = "choose another --logdir, or begin anew with --no-resume"
    if info["script"] != script:
        raise TrainingError(f"{logdir} was begun by {info['script']}, not {script}: {cure}")
    for flag, asked, before in (("--init-from", init_from, info["init_from"]),
                                ("--unpaired", unpaired, info["unpaired"])):
        if asked and before != asked.resolve():
            raise TrainingError(f"{logdir} was begun {f'with {flag} {before}' if before else f'without {flag}'}: "
                                f"leave {flag} out, {cure}")
    if info["data"].exists() and info["data"].resolve() != data.resolve():
        raise TrainingError(f"{logdir} was begun with --data {info['data']}, not {data}: leave --data out, {cure}")
    if info["manifest"] != manifest.fingerprint(data):
        raise TrainingError(f"{data} has changed since {logdir} was begun: prepro.py found other recordings there, "
                            f"and may have split them otherwise; {cure}")


def clear_run(logdir: pathlib.Path) -> None:
    """Remove what an earlier run left in a run folder: checkpoints, events, samples."""
    for name in ("checkpoints", "train", "validation", "samples"):
        removed = logdir / f".{name}.removed"  # in one step: if killed here, all of the earlier run is left, or nothing
        shutil.rmtree(removed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (logdir / name).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
    for path in logdir.glob("events*"):
        path.unlink()


class Run:
    """A run folder: the step, the best validation, TensorBoard, and checkpoints of `parts`, a dictionary of names to
    lists of Keras variables, one of them "generator"."""

    def __init__(self, logdir: pathlib.Path, hp: HyperParams, parts: dict):
        self.logdir, self.hp, self.parts = pathlib.Path(logdir), hp, parts
        utils.write_json(self.logdir / "hparams.json", dataclasses.asdict(hp))
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(math.inf, trainable=False)
        self.checkpoint = tf.train.Checkpoint(step=self.step, best=self.best, **checkpoints.trackable(parts))
        self.folder = self.logdir / "checkpoints"
        for folder in (self.folder, self.folder / "best"):
            checkpoints.clean(folder)
        self.newest = tf.train.CheckpointManager(self.checkpoint, str(self.folder), hp.keep_checkpoints,
                                                 checkpoint_name="step")
        selected = tf.train.Checkpoint(step=self.step, **checkpoints.trackable({"generator": parts["generator"]}))
        self.selected = tf.train.CheckpointManager(selected, str(self.folder / "best"), 1, checkpoint_name="best")
        with checkpoints.writing(self.logdir), tf.summary.create_file_writer(str(self.logdir)).as_default():
            # In the folder above train/ and validation/, so that it holds for both
            tensorboard_hparams.hparams(dataclasses.asdict(hp), trial_id=str(self.logdir.resolve()))
        self.first_step, self.saved_step = 0, -1
        self.skipped = 0  # steps since the process began
        self.validating = False

    @functools.cached_property
    def writers(self) -> dict[str, tf.summary.SummaryWriter]:
        """TensorBoard's event files, begun with the first scalar; what was logged past the checkpoint is void."""
        for kind in ("train", "validation"):
            begin_session(self.logdir / kind, self.first_step)
        with checkpoints.writing(self.logdir):
            return {kind: tf.summary.create_file_writer(str(self.logdir / kind)) for kind in ("train", "validation")}

    def resume(self, prefix: str) -> None:
        """Restore everything from a checkpoint; raises TrainingError if it is of another network."""
        checkpoints.restore(self.checkpoint, self.parts, prefix, self.hp)
        self.first_step = self.saved_step = int(self.step)

    def save(self) -> None:
        """Write a checkpoint unless this step has one; raises TrainingError."""
        if self.saved_step == int(self.step):
            return
        with checkpoints.writing(self.folder / f"step-{int(self.step)}"):
            self.newest.save(checkpoint_number=self.step)
        self.saved_step = int(self.step)

    def select(self, score: float) -> None:
        """Keep this step as the best; raises TrainingError."""
        self.best.assign(score)
        # A run killed since then, and resumed, comes here again: rewritten, the only copy could be broken off
        if not (self.selected.latest_checkpoint or "").endswith(f"-{int(self.step)}"):
            with checkpoints.writing(self.folder / "best" / f"best-{int(self.step)}"):
                self.selected.save(checkpoint_number=self.step)

    def log(self, kind: str, scalars: dict[str, float], step: int | None = None) -> None:
        """Write scalars to TensorBoard as train or validation, on disk at once: no checkpoint may be ahead of them."""
        step = int(self.step) if step is None else step
        with checkpoints.writing(self.logdir / kind), self.writers[kind].as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(GROUPS.get(name, name), value)

    def log_sample(self, name: str, wav, picture: pathlib.Path) -> None:
        """Put (samples,) and a PNG into TensorBoard."""
        folder, writer = self.logdir / "validation", self.writers["validation"]
        with checkpoints.writing(folder), writer.as_default(step=int(self.step)):
            tf.summary.audio(f"audio/{name}", wav[None, :, None], self.hp.sample_rate)
            tf.summary.image(f"align/{name}", tf.io.decode_png(picture.read_bytes())[None])


def begin_session(folder: pathlib.Path, step: int) -> None:
    """Tell TensorBoard to forget the events after `step` in a folder: they will be logged again."""
    # It reads files in the order of their names: after the older ones, before what TensorFlow adds to this name. And it
    # takes the first start of all for no restart, so that every one has to be told
    path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
    folder.mkdir(parents=True, exist_ok=True)
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    with checkpoints.writing(path), tf.io.TFRecordWriter(str(path)) as file:
        for event in (tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"),
                      tf.compat.v1.Event(wall_time=time.time(), step=step + 1, session_log=start)):
            file.write(event.SerializeToString())


def read_scalars(folder: pathlib.Path, tag: str) -> tuple[list[int], list[float]]:
    """Steps and values of a scalar in the event files of a folder; of a step logged twice, the later one."""
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


