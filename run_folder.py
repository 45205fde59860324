"""A run folder: notes of where it came from, checkpoints, TensorBoard events. It can be read whenever the process that
writes it is killed.

A checkpoint counts once TensorFlow has named it in the file `checkpoint`, which is replaced at once; what was broken
off before is written again.
"""
import contextlib
import dataclasses
import functools
import glob
import json
import math
import pathlib
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator

import quiet  # noqa: F401  before TensorFlow
import manifest
import utils
import weights
import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as tensorboard_hparams

from hyperparams import HyperParams

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # of the names of arrays in a checkpoint
# Where TensorBoard shows what a task gives without a group
GROUPS = {"loss": "loss/minimised", "gradient_norm": "loss/gradient_norm", "score": "free_running/score"}


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


class DamagedCheckpoint(TrainingError):
    """A checkpoint that cannot be read."""


def one_line(error: Exception) -> str:
    """What it says, without TensorFlow's name of the operation in front."""
    return " ".join(re.sub(r"\{\{.*?\}\}", "", str(error)).split())[:300]


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turn TensorFlow's errors into a TrainingError that names `path` and the cure."""
    try:
        yield
    except tf.errors.OpError as error:
        raise TrainingError(f"{path} cannot be written: {one_line(error)}. Free space or change permissions; what was "
                            "saved before is good, and the same command goes on from it") from None


def read_notes(logdir: pathlib.Path) -> dict:
    """What `take_notes` wrote, or an empty dictionary if there is nothing; raises TrainingError if it is damaged."""
    path = logdir / "run.json"
    if not path.exists():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {"script": str(notes["script"]), "data": pathlib.Path(notes["data"]), "steps": int(notes["steps"]),
                "manifest": str(notes["manifest"]),
                "init_from": pathlib.Path(notes["init_from"]) if notes["init_from"] else None,
                "unpaired": pathlib.Path(notes["unpaired"]) if notes.get("unpaired") else None}
    except (ValueError, KeyError, TypeError):
        raise TrainingError(f"{path} is damaged: delete it, and say with --data what the run is trained on") from None


def take_notes(logdir: pathlib.Path, script: str, data: pathlib.Path, steps: int,
               init_from: pathlib.Path | None = None, unpaired: pathlib.Path | None = None) -> None:
    """Note in a run folder which script trains it, with which features, to which last step, from whose weights and
    with which unpaired recordings."""
    folders = {name: str(pathlib.Path(folder).resolve()) if folder else None
               for name, folder in (("init_from", init_from), ("unpaired", unpaired))}
    utils.write_json(logdir / "run.json", {"script": script, "data": str(pathlib.Path(data).resolve()), "steps": steps,
                                           "manifest": manifest.fingerprint(data), **folders})


def check_notes(logdir: pathlib.Path, script: str, data: pathlib.Path, init_from: pathlib.Path | None,
                unpaired: pathlib.Path | None = None) -> None:
    """Raise TrainingError if a run that goes on was begun by another script, from another run than `init_from` says,
    with other recordings than those in `unpaired`, or with other features than `data`, which are still there."""
    notes = read_notes(logdir)
    cure = "choose another --logdir, or begin anew with --no-resume"
    if notes and notes["script"] != script:
        raise TrainingError(f"{logdir} was begun by {notes['script']}, not {script}: {cure}")
    if notes and init_from and notes["init_from"] != pathlib.Path(init_from).resolve():
        raise TrainingError(f"{logdir} was begun {'with --init-from ' * bool(notes['init_from'])}"
                            f"{notes['init_from'] or 'without --init-from'}: leave --init-from out, {cure}")
    if notes and unpaired and notes["unpaired"] != pathlib.Path(unpaired).resolve():
        raise TrainingError(f"{logdir} was begun {'with --unpaired ' * bool(notes['unpaired'])}"
                            f"{notes['unpaired'] or 'without --unpaired'}: leave --unpaired out, {cure}")
    if notes and notes["data"].exists() and notes["data"].resolve() != pathlib.Path(data).resolve():
        raise TrainingError(f"{logdir} was begun with --data {notes['data']}, not {data}: leave --data out, {cure}")
    if notes and notes["manifest"] != manifest.fingerprint(data):
        raise TrainingError(f"{data} is no more what {logdir} was begun with: prepro.py found other recordings there, "
                            f"and may have shared them out otherwise; {cure}")


def differing(there: HyperParams, here: HyperParams) -> list[str]:
    """Names and both values of the hyperparameters that differ."""
    return [f"{name} ({value} there, {getattr(here, name)} asked for)"
            for name, value in dataclasses.asdict(there).items() if value != getattr(here, name)]


def trackable(parts: dict[str, list]) -> dict[str, list[tf.Variable]]:
    """Lists of Keras variables as what tf.train.Checkpoint stores.

    By place in the list: TensorFlow does not look into the lists of layers that a Keras layer holds, and the names of
    Keras layers depend on what was made before them.
    """
    return {name: [variable.value for variable in variables] for name, variables in parts.items()}


def checkpoints_in(folder: pathlib.Path) -> list[str]:
    """Prefixes of the checkpoints in a folder, the newest first, whether they can be read or not."""
    # Not latest_checkpoint(), which finds none where a file is missing: training would begin anew unasked
    with contextlib.suppress(ValueError):  # the file that lists them is damaged
        state = tf.train.get_checkpoint_state(str(folder))
        if state:
            return list(dict.fromkeys([state.model_checkpoint_path, *reversed(state.all_model_checkpoint_paths)]))
    return [str(path.with_suffix("")) for path in sorted(
        pathlib.Path(folder).glob("*-*.index"), key=lambda path: int(path.stem.rsplit("-", 1)[1]), reverse=True)]


def read_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in a checkpoint, after all was read once; raises DamagedCheckpoint.

    TensorFlow compares checksums in reading, and a restore that fails half-way would leave half of the weights.
    """
    if prefix.endswith(".npz"):
        try:
            return {name: array.shape for name, array in weights.read(prefix).items()}
        except ValueError as error:
            raise DamagedCheckpoint(str(error)) from None
    if not pathlib.Path(prefix).parent.is_dir() or not list(pathlib.Path(prefix).parent.glob(
            glob.escape(pathlib.Path(prefix).name) + ".*")):
        raise DamagedCheckpoint(f"{prefix} does not exist")
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        for name in shapes:
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise DamagedCheckpoint(f"{prefix} is damaged ({one_line(error)})") from None
    return {name.removesuffix(SUFFIX): tuple(shape) for name, shape in shapes.items()}


def misfits(stored: dict[str, tuple[int, ...]], parts: dict[str, list]) -> list[str]:
    """How the arrays in a checkpoint differ from Keras variables."""
    found = []
    for part, variables in parts.items():
        there = sum(name.rpartition("/")[0] == part for name in stored)
        if there != len(variables):
            found.append(f"{there} arrays of {part} in the file, {len(variables)} in the network")
        for i, variable in enumerate(variables):
            shape = stored.get(f"{part}/{i}")
            if shape not in (None, tuple(variable.shape)):
                found.append(f"{part} {variable.path}: {shape} in the file, {tuple(variable.shape)} in the network")
    return found


def restore(checkpoint: tf.train.Checkpoint, parts: dict[str, list], prefix: str, hp: HyperParams) -> None:
    """Restore all of `checkpoint`, which holds `parts`; raises DamagedCheckpoint, and TrainingError if the file is of
    another network."""
    found = misfits(read_shapes(prefix), parts)
    if not found and prefix.endswith(".npz"):
        for name, array in weights.read(prefix).items():
            part, number = name.split("/")
            parts[part][int(number)].assign(array.astype(parts[part][int(number)].dtype))
    elif not found:
        try:
            checkpoint.restore(prefix).expect_partial().assert_existing_objects_matched()
        except (ValueError, AssertionError, tf.errors.OpError) as error:
            found = [one_line(error)]
    if found:
        others = ""
        for path in (folder / "hparams.json" for folder in list(pathlib.Path(prefix).parents)[:3]):
            if path.exists():
                try:
                    others = "".join(f"; {text}" for text in differing(HyperParams.from_json(path), hp))
                except ValueError as error:
                    others = f"; {error}"
                break
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise TrainingError(f"{prefix} does not fit this network: {'; '.join(found[:5])}{more}{others}. Evaluate and "
                            "resume a run with the hparams.json and the code it was trained with, or begin anew with "
                            "--no-resume")


class Run:
    """A run folder: the step, the best validation, TensorBoard, and checkpoints of `parts`, a dictionary of names to
    lists of Keras variables, one of them "generator"."""

    def __init__(self, logdir: pathlib.Path, hp: HyperParams, parts: dict):
        self.logdir, self.hp, self.parts = pathlib.Path(logdir), hp, parts
        utils.write_json(self.logdir / "hparams.json", dataclasses.asdict(hp))
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(math.inf, trainable=False)
        self.checkpoint = tf.train.Checkpoint(step=self.step, best=self.best, **trackable(parts))
        self.folder = self.logdir / "checkpoints"
        for folder in (self.folder, self.folder / "best"):
            clean(folder)
        self.newest = tf.train.CheckpointManager(self.checkpoint, str(self.folder), hp.keep_checkpoints,
                                                 checkpoint_name="step")
        selected = tf.train.Checkpoint(step=self.step, **trackable({"generator": parts["generator"]}))
        self.selected = tf.train.CheckpointManager(selected, str(self.folder / "best"), 1, checkpoint_name="best")
        with writing(self.logdir), tf.summary.create_file_writer(str(self.logdir)).as_default():
            # Above train/ and validation/, so that it is said of both
            tensorboard_hparams.hparams(dataclasses.asdict(hp), trial_id=str(self.logdir.resolve()))
        self.first_step, self.saved_step = 0, -1
        self.skipped = 0  # steps since the process began
        self.validating = False

    @functools.cached_property
    def writers(self) -> dict[str, tf.summary.SummaryWriter]:
        """TensorBoard's event files, begun with the first scalar; what was logged past the checkpoint is void."""
        for kind in ("train", "validation"):
            begin_session(self.logdir / kind, self.first_step)
        with writing(self.logdir):
            return {kind: tf.summary.create_file_writer(str(self.logdir / kind)) for kind in ("train", "validation")}

    def resume(self, logdir: pathlib.Path | None = None) -> bool:
        """Go on from the newest checkpoint that can be read, of another folder if one is named; False if there is
        none. Raises TrainingError if there are only damaged ones."""
        folder = pathlib.Path(logdir or self.logdir) / "checkpoints"
        found, damaged = checkpoints_in(folder), []
        for prefix in found:
            try:
                restore(self.checkpoint, self.parts, prefix, self.hp)
            except DamagedCheckpoint as error:
                damaged.append(str(error))
                continue
            self.first_step = self.saved_step = int(self.step)
            for error in damaged:
                print(f"warning: {error}; going on from the one before it, {prefix}", file=sys.stderr)
            return True
        # A single one that is listed nowhere is the first, broken off in being written
        if found and (any(folder.glob("checkpoint*")) or len(found) > 1):
            raise TrainingError(f"no checkpoint in {folder} can be read: {'; '.join(damaged)}. Restore one from a "
                                "copy, or begin anew with --no-resume")
        return False

    def save(self) -> None:
        """Write a checkpoint unless this step has one; raises TrainingError."""
        if self.saved_step == int(self.step):
            return
        with writing(self.folder / f"step-{int(self.step)}"):
            self.newest.save(checkpoint_number=self.step)
        self.saved_step = int(self.step)

    def select(self, score: float) -> None:
        """Keep this step as the best; raises TrainingError."""
        self.best.assign(score)
        # A run killed since then, and resumed, comes here again: rewritten, the only copy could be broken off
        if not (self.selected.latest_checkpoint or "").endswith(f"-{int(self.step)}"):
            with writing(self.folder / "best" / f"best-{int(self.step)}"):
                self.selected.save(checkpoint_number=self.step)

    def log(self, kind: str, scalars: dict[str, float], step: int | None = None) -> None:
        """Write scalars to TensorBoard as train or validation, on disk at once: no checkpoint may be ahead of them."""
        step = int(self.step) if step is None else step
        with writing(self.logdir / kind), self.writers[kind].as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(GROUPS.get(name, name), value)

    def log_sample(self, name: str, wav, picture: pathlib.Path) -> None:
        """Put (samples,) and a PNG into TensorBoard."""
        with writing(self.logdir / "validation"), self.writers["validation"].as_default(step=int(self.step)):
            tf.summary.audio(f"audio/{name}", wav[None, :, None], self.hp.sample_rate)
            tf.summary.image(f"align/{name}", tf.io.decode_png(picture.read_bytes())[None])


def clean(folder: pathlib.Path) -> None:
    """Remove what a killed process left half written among the checkpoints, and set a damaged list of them aside."""
    for path in folder.glob("*_temp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("checkpoint.tmp*"):
        path.unlink(missing_ok=True)
    try:
        damaged = tf.train.get_checkpoint_state(str(folder)) is None
    except ValueError:
        damaged = True
    if damaged and (folder / "checkpoint").exists():
        (folder / "checkpoint").replace(folder / "checkpoint.damaged")


def begin_session(folder: pathlib.Path, step: int) -> None:
    """Tell TensorBoard to forget the events after `step` in a folder: they will be logged again."""
    # It reads files in the order of their names: after the older ones, before what TensorFlow adds to this name. And it
    # takes the first start of all for no restart, so that every one has to be told
    path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
    folder.mkdir(parents=True, exist_ok=True)
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    with writing(path), tf.io.TFRecordWriter(str(path)) as file:
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


def best_checkpoint(logdir: pathlib.Path) -> str:
    """Prefix of the best checkpoint of a run, or of its newest if none was validated, or pretrained weights; raises
    TrainingError."""
    if (pathlib.Path(logdir) / weights.FILE).exists():
        return str(pathlib.Path(logdir) / weights.FILE)
    folder = pathlib.Path(logdir) / "checkpoints"
    for prefix in checkpoints_in(folder / "best") + checkpoints_in(folder):
        return prefix
    raise TrainingError(f"{logdir} holds no checkpoint; " + (
        f"git checkout {logdir} brings it back" if pathlib.Path(logdir).resolve() == weights.PRETRAINED
        else f"train first (train.py --logdir {logdir})"))


def newest_step(logdir: pathlib.Path) -> int:
    """The step of the newest checkpoint of a run, 0 if there is none."""
    found = checkpoints_in(pathlib.Path(logdir) / "checkpoints")
    return int(found[0].rpartition("-")[2]) if found else 0


def load_generator(generator: keras.Model, prefix: str) -> None:
    """Restore the generator alone from any checkpoint that holds one; raises TrainingError."""
    parts = {"generator": generator.weights}
    try:
        restore(tf.train.Checkpoint(**trackable(parts)), parts, prefix, generator.hp)
    except DamagedCheckpoint as error:
        folder = pathlib.Path(prefix).parent
        folder = folder.parent if folder.name == "best" else folder
        others = [path for path in checkpoints_in(folder / "best") + checkpoints_in(folder) if path != str(prefix)]
        raise TrainingError(f"{error}; evaluate another with --checkpoint"
                            f"{': ' * bool(others)}{', '.join(others)}") from None
