"""The weights of a generator as one small file, without pickle; pretrained/ is a folder with such a file."""
import pathlib

import numpy as np

import utils

FILE = "weights.npz"  # in place of checkpoints
PRETRAINED = pathlib.Path(__file__).resolve().parent / "pretrained"


def write(path: pathlib.Path, variables: list) -> None:
    """Write Keras variables. Of matrices and kernels each output has 8 bits and a scale: a quarter of the size, and
    spectrograms change by a tenth of a decibel."""
    arrays = {}
    for i, variable in enumerate(variables):
        array = np.asarray(variable)
        if array.ndim > 1:
            scale = np.maximum(np.abs(array).max(axis=tuple(range(array.ndim - 1))), 1e-12) / 127.0
            arrays[f"generator/{i}/scale"], array = scale.astype(np.float32), np.round(array / scale).astype(np.int8)
        arrays[f"generator/{i}"] = array
    with utils.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read(path: str) -> dict[str, np.ndarray]:
    """What `write` wrote, named as the arrays of a checkpoint are; raises ValueError with the cure."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return {name: array if array.dtype != np.int8 else array * arrays[f"{name}/scale"]
                for name, array in arrays.items() if not name.endswith("/scale")}
    except utils.BAD_ARRAYS as error:
        raise ValueError(f"{path} is missing or damaged ({error}): bring it back from where it came, that of this "
                         "repository by git checkout") from None
