"""Checkpoints of a run, and the weights of a generator as one small file without pickle, as in pretrained/."""
import atexit
import contextlib
import functools
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator

from backend import devices  # noqa: F401  before TensorFlow
from common import storage
import keras
import numpy as np
import tensorflow as tf

from common.cli import UserError
from hyperparams import HyperParams, differences

VOICES = ("slt", "bdl")  # folders of pretrained/, the default first
PRETRAINED = pathlib.Path(__file__).resolve().parents[1] / "pretrained" / VOICES[0]
WEIGHTS = "weights.npz"  # takes the place of checkpoints
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # ending of the names of arrays in a checkpoint


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read."""


def short_message(error: Exception) -> str:
    """The message of an error in one line of at most 300 characters, without TensorFlow's name of the operation."""
    return " ".join(re.sub(r"\{\{.*?\}\}", "", str(error)).split())[:300]


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turn TensorFlow's errors into a UserError that names `path` and the cure."""
    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be written: {short_message(error)}. Free space or change permissions; "
                        "what was saved before is good, and the same command goes on from it") from None


def trackable(parts: dict[str, list]) -> dict[str, list[tf.Variable]]:
    """Lists of Keras variables in the form that tf.train.Checkpoint stores.

    Variables are identified by their place in a list. TensorFlow does not find layers in lists inside a Keras layer,
    and the names of Keras layers depend on the layers that were made before them.
    """
    return {name: [variable.value for variable in variables] for name, variables in parts.items()}


@functools.cache
def literal(folder: pathlib.Path) -> pathlib.Path:
    """A path to `folder` that TensorFlow does not take for a pattern: itself, or a link to it in a temporary folder."""
    if not set("*?[]{}\\") & set(str(folder)):
        return folder
    temporary = tempfile.TemporaryDirectory()
    atexit.register(temporary.cleanup)
    link = pathlib.Path(temporary.name, "folder")
    link.symlink_to(folder.resolve())
    return link


def checkpoints_in(folder: pathlib.Path) -> list[str]:
    """Prefixes of all checkpoints in a folder, readable or not, the newest first."""
    # The index is written last. Not latest_checkpoint(): it returns None if a file is missing, and training would begin
    # anew without being asked
    return [str(path.with_suffix("")) for path in sorted(
        pathlib.Path(folder).glob("*-*.index"), key=lambda path: int(path.stem.rsplit("-", 1)[1]), reverse=True)]


def newest_readable(prefixes: list[str]) -> str | None:
    """The first of the checkpoints `prefixes` that can be read, or None if there is none or only one that was never
    finished. Prints a warning for each damaged checkpoint before it; raises UserError if all are damaged."""
    if len(prefixes) == 1 and not os.path.getsize(f"{prefixes[0]}.index"):  # TensorFlow fills it last
        print(f"warning: {prefixes[0]}, the only checkpoint, was never finished; training begins anew", file=sys.stderr)
        return None
    damaged = []
    for prefix in prefixes:
        try:
            read_shapes(prefix)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
            continue
        if damaged:
            print(f"warning: {'; '.join(damaged)}; going on from the one before it, {prefix}", file=sys.stderr)
        return prefix
    if damaged:
        raise UserError(f"no checkpoint can be read: {'; '.join(damaged)}. Restore one from a copy, or begin anew with "
                        "--no-resume")
    return None


def literal_prefix(prefix: str) -> str:
    """`literal` for the prefix of a checkpoint."""
    return str(literal(pathlib.Path(prefix).parent) / pathlib.Path(prefix).name)


def read_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in a checkpoint; raises DamagedCheckpoint.

    Every array is read once, because TensorFlow compares checksums while it reads. Otherwise a restore could fail
    half-way and leave half of the weights changed.
    """
    if prefix.endswith(".npz"):
        return {name: array.shape for name, array in read_weights(prefix).items()}
    try:
        reader = tf.train.load_checkpoint(literal_prefix(prefix))
        shapes = reader.get_variable_to_shape_map()
        for name in shapes:
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise DamagedCheckpoint(f"{prefix} is missing or damaged ({short_message(error)})") from None
    return {name.removesuffix(SUFFIX): tuple(shape) for name, shape in shapes.items()}


def shape_mismatches(stored: dict[str, tuple[int, ...]], parts: dict[str, list]) -> list[str]:
    """Lines that say how the arrays in a checkpoint differ from the Keras variables of `parts` in number and shape."""
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
    """Restore all of `checkpoint`, which holds `parts`, from the file `prefix`; raises DamagedCheckpoint, and
    UserError if the file belongs to another network."""
    arrays = read_weights(prefix) if prefix.endswith(".npz") else {}
    shapes = {name: array.shape for name, array in arrays.items()} or read_shapes(prefix)
    found = shape_mismatches(shapes, parts)
    if not found and arrays:
        for name, array in arrays.items():
            part, number = name.split("/")
            parts[part][int(number)].assign(array.astype(parts[part][int(number)].dtype))
    elif not found:
        try:
            checkpoint.restore(literal_prefix(prefix)).expect_partial().assert_existing_objects_matched()
        except (ValueError, AssertionError, tf.errors.OpError) as error:
            found = [short_message(error)]
    if found:
        others = ""
        for path in (folder / "hparams.json" for folder in list(pathlib.Path(prefix).parents)[:3]):
            if path.exists():
                try:
                    others = "".join(f"; {text}" for text in differences(HyperParams.from_json(path), hp))
                except UserError as error:
                    others = f"; {error}"
                break
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise UserError(f"{prefix} does not fit this network: {'; '.join(found[:5])}{more}{others}. Evaluate and "
                        "resume a run with the hparams.json and the code it was trained with, or begin anew with "
                        "--no-resume")


def clean(folder: pathlib.Path) -> None:
    """Remove what a killed process left half written in a folder of checkpoints, and TensorFlow's own list of the
    checkpoints if a power failure left it empty."""
    for path in folder.glob("*_temp"):
        shutil.rmtree(path, ignore_errors=True)
    if (folder / "checkpoint").exists() and not (folder / "checkpoint").stat().st_size:
        (folder / "checkpoint").unlink()


def best_checkpoint(logdir: pathlib.Path) -> str:
    """Prefix of the best checkpoint of a run, or of its newest if none was selected; or the path of pretrained weights.
    Raises UserError."""
    if (pathlib.Path(logdir) / WEIGHTS).exists():
        return str(pathlib.Path(logdir) / WEIGHTS)
    folder = pathlib.Path(logdir) / "checkpoints"
    found = checkpoints_in(folder / "best") or checkpoints_in(folder)
    if found:
        return found[0]
    raise UserError(f"{logdir} holds no checkpoint; " + (
        f"git checkout {logdir} brings it back" if pathlib.Path(logdir).resolve().parent == PRETRAINED.parent
        else f"train first (train.py --logdir {logdir})"))


def newest_step(logdir: pathlib.Path) -> int:
    """The step of the newest checkpoint of a run, 0 if there is none."""
    found = checkpoints_in(pathlib.Path(logdir) / "checkpoints")
    return int(found[0].rpartition("-")[2]) if found else 0


def load_generator(generator: keras.Model, prefix: str) -> None:
    """Restore the generator alone from any checkpoint that contains a generator; raises UserError."""
    parts = {"generator": generator.weights}
    try:
        restore(tf.train.Checkpoint(**trackable(parts)), parts, prefix, generator.hp)
    except DamagedCheckpoint as error:
        folder = pathlib.Path(prefix).parent
        others = checkpoints_in(folder.parent if folder.name == "best" else folder)
        raise UserError(f"{error}; evaluate another with --checkpoint {', '.join(others) or 'PREFIX'}") from None


def write_weights(path: pathlib.Path, variables: list) -> None:
    """Write Keras variables to an .npz file. Matrices and kernels are stored in 8 bits, with one scale for each output
    channel: the file has a quarter of the size, and spectrograms change by a tenth of a decibel."""
    arrays = {}
    for i, variable in enumerate(variables):
        array = np.asarray(variable)
        if array.ndim > 1:
            scale = np.maximum(np.abs(array).max(axis=tuple(range(array.ndim - 1))), 1e-12) / 127.0
            arrays[f"generator/{i}/scale"], array = scale.astype(np.float32), np.round(array / scale).astype(np.int8)
        arrays[f"generator/{i}"] = array
    with storage.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_weights(path: str) -> dict[str, np.ndarray]:
    """Read what `write_weights` wrote; names are those in a checkpoint. Raises DamagedCheckpoint."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return {name: array if array.dtype != np.int8 else array * arrays[f"{name}/scale"]
                for name, array in arrays.items() if not name.endswith("/scale")}
    except storage.BAD_ARRAYS as error:
        raise DamagedCheckpoint(f"{path} is missing or damaged ({error}): get it again from its source; that of this "
                                "repository comes back by git checkout") from None
