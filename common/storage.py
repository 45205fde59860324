"""Writing of files, so that none is ever incomplete, and names of files."""
import contextlib
import hashlib
import json
import math
import os
import pathlib
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator

from common.cli import UserError

import numpy as np

LONGEST_NAME = 150  # bytes; file systems allow 255, and endings and the mark of a temporary file are added


class Damaged(UserError):
    """A file that cannot be read."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`, renamed to it on success and removed on failure: no half-written file ever
    has the final name. Raises UserError."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be written ({error.strerror or error}); free some space or choose "
                        "another folder, then run the same command again") from error
    finally:
        with contextlib.suppress(OSError):  # raised in a folder that cannot be written
            temporary.unlink(missing_ok=True)


def content_hash(path: pathlib.Path) -> str:
    """Hash of the bytes of a file, read block by block; empty if it is no regular file or cannot be read."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):  # for instance a link that leads nowhere
        if path.is_file():  # opening a pipe could wait for ever
            with open(path, "rb") as file:
                while block := file.read(2 ** 20):
                    digest.update(block)
                return digest.hexdigest()
    return ""


def without_nan(content: object) -> object:
    """Replace numbers that are not finite, which JSON does not know, by None."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: str | os.PathLike, content: object, indent: int | None = 1) -> None:
    """Write `content` as JSON; a missing measure (NaN) becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(without_nan(content), indent=indent, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: pathlib.Path) -> dict:
    """Read a JSON object that the project wrote for itself; it is empty if the file is missing or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def check_own(paths: list[pathlib.Path]) -> None:
    """Raise UserError if one of `paths`, which nothing notes as written by the project, is there."""
    for path in paths:
        if path.exists():
            raise UserError(f"{printable(path)} is there and would be replaced, but nothing notes that a command of "
                            "this project wrote it: move it away, or choose another folder")


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Write an array as .npy."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray], compress: bool = True) -> None:
    """Write arrays as .npz."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def load_arrays(path: str | os.PathLike, cure: str, *names: str) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote under exactly these `names`, or under any; raises Damaged with the cure."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if names and {*arrays} != {*names}:
                raise KeyError(*arrays)
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile,
            zlib.error, tokenize.TokenError) as error:  # for a file that is missing, cut off or changed
        raise Damaged(f"{path} is missing or damaged ({error}): {cure}") from None


def intact(path: pathlib.Path) -> bool:
    """Whether an array exists and is complete: after a power failure a file may be cut off or empty."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return False
    return True


def printable(path: str | os.PathLike) -> str:
    """A name for messages: quoted and escaped if it contains characters that would garble a terminal or a list."""
    return str(path) if str(path).isprintable() else repr(str(path))


def file_name(name: str) -> str:
    """The name of files that are made from the recording `name`: itself, or shortened and cleaned if it is too long or
    would garble lists. Different names stay different; accents may be characters of their own (NFD) or not (NFC)."""
    name = unicodedata.normalize("NFC", name)
    if name.isprintable() and "/" not in name and len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    kept = "".join(character if character.isprintable() and character != "/" else "_" for character in name)
    return f"{kept.encode()[:LONGEST_NAME - 11].decode(errors='ignore')}-{digest}"
