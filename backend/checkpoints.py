"""Checkpoints: lists of Keras variables in .npz files without pickle; pretrained/ has the generator's in 8 bits."""
import pathlib
import sys

from common import storage
from common.cli import UserError
from common.storage import Damaged
from hyperparams import HyperParams, differences

import numpy as np

VOICES = ("slt", "bdl")  # folders of pretrained/, the default first
PRETRAINED = pathlib.Path(__file__).resolve().parents[1] / "pretrained" / VOICES[0]
WEIGHTS = "weights.npz"  # takes the place of checkpoints


def checkpoints_in(folder: pathlib.Path) -> list[str]:
    """All checkpoints in a folder, readable or not, the newest first."""
    steps = {str(path): path.stem.rpartition("-")[2] for path in pathlib.Path(folder).glob("*-*.npz")}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: -int(steps[path]))


def newest_readable(paths: list[str]) -> str | None:
    """The first of the checkpoints that can be read, or None if there is none. Prints a warning for each damaged one
    before it; raises UserError if all are damaged."""
    damaged = []
    for path in paths:
        try:
            read(path)
        except Damaged as error:
            damaged.append(str(error))
            continue
        if damaged:
            print(f"warning: {'; '.join(damaged)}; going on from the one before it, {path}", file=sys.stderr)
        return path
    if damaged:
        raise UserError(f"no checkpoint can be read: {'; '.join(damaged)}. Restore one from a copy, or begin anew with "
                        "--no-resume")
    return None


def restore(parts: dict[str, list], path: str, hp: HyperParams) -> dict[str, np.ndarray]:
    """Restore the lists of variables `parts` from a file, which may hold more; returns all of it. Raises Damaged, and
    UserError if the file belongs to another network. Variables are known by their places: names depend on what was made
    before."""
    arrays, odd = read(path), []
    for part, variables in parts.items():
        there = sum(name.rpartition("/")[0] == part for name in arrays)
        if there != len(variables):
            odd.append(f"{there} arrays of {part} in the file, {len(variables)} in the network")
        for i, variable in enumerate(variables):
            array = arrays.get(f"{part}/{i}")
            if array is not None and array.shape != tuple(variable.shape):
                odd.append(f"{part} {variable.path}: {array.shape} in the file, {tuple(variable.shape)} in the network")
    if odd:
        settings = (storage.read_json(folder / "hparams.json") for folder in list(pathlib.Path(path).parents)[:3])
        others = "".join(f"; {text}" for text in differences(next(filter(None, settings), {}), hp))
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise UserError(f"{path} does not fit this network: {'; '.join(odd[:5])}{more}{others}. Evaluate and resume a "
                        "run with the hparams.json and the code it was trained with, or begin anew with --no-resume")
    for part, variables in parts.items():
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{part}/{i}"])
    return arrays


def best_checkpoint(logdir: pathlib.Path) -> str:
    """The best checkpoint of a run, or its newest, or the path of pretrained weights. Raises UserError."""
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
    return int(pathlib.Path(found[0]).stem.rpartition("-")[2]) if found else 0


def load_generator(generator, path: str) -> None:
    """Restore the generator alone from any checkpoint that contains a generator, with the weights that conversions get,
    see `GANTrainer.conversion_weights`; raises UserError."""
    try:
        arrays = restore({"generator": generator.weights}, path, generator.hp)
    except Damaged as error:
        folder = pathlib.Path(path).parent
        others = checkpoints_in(folder.parent if folder.name == "best" else folder)
        raise UserError(f"{error}; eval.py takes another as --checkpoint {', '.join(others) or 'FILE'}") from None
    first = [arrays[f"first_weights/{i}"] for i in range(sum(name.startswith("first_weights/") for name in arrays))]
    if first:
        if [before.shape for before in first] != [tuple(each.shape) for each in generator.judged_variables]:
            raise UserError(f"{path} was trained with other gan_networks than {generator.hp.gan_networks}")
        for variable, before in zip(generator.judged_variables, first):
            variable.assign(before + generator.hp.gan_share * (variable - before))


def write(path: pathlib.Path, parts: dict[str, list], in_8_bits: bool = False) -> None:
    """Write lists of variables. In 8 bits matrices and kernels have one scale for each output channel: the file has a
    quarter of the size, and spectrograms change by a tenth of a decibel."""
    arrays = {}
    for name, array in ((f"{part}/{i}", np.asarray(each)) for part, variables in parts.items()
                        for i, each in enumerate(variables)):
        if in_8_bits and array.ndim > 1:
            scale = np.maximum(np.abs(array).max(axis=tuple(range(array.ndim - 1))), 1e-12) / 127.0
            arrays[f"{name}/scale"], array = scale.astype(np.float32), np.round(array / scale).astype(np.int8)
        arrays[name] = array
    storage.save_arrays(path, arrays, compress=in_8_bits)


def read(path: str) -> dict[str, np.ndarray]:
    """Read what `write` wrote, "PART/NUMBER" to array; raises Damaged."""
    arrays = storage.load_arrays(path, "get it again from its source, for one of pretrained/ by git checkout")
    return {name: array if array.dtype != np.int8 else array * arrays[f"{name}/scale"]
            for name, array in arrays.items() if not name.endswith("/scale")}
