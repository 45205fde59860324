"""The weights of a generator as one small file, without pickle; pretrained/ is a folder with such a file."""
import pathlib
import zipfile
import zlib

import numpy as np

import utils

FILE = "weights.npz"  # in place of checkpoints
PRETRAINED = pathlib.Path(__file__).resolve().parent / "pretrained"


def write(path: pathlib.Path, variables: list) -> None:
    """Write Keras variables, matrices in float16: half of the size, and nobody hears it."""
    arrays = {f"generator/{i}": np.asarray(variable) for i, variable in enumerate(variables)}
    with utils.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{name: array.astype(np.float16) if array.ndim > 1 else array
                                     for name, array in arrays.items()})


def read(path: str) -> dict[str, np.ndarray]:
    """What `write` wrote, named as the arrays of a checkpoint are; raises ValueError with the cure."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): bring it back from where it came, that of this "
                         "repository by git checkout") from None
