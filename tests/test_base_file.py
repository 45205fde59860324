"""base.npz in a run folder: it is read as it was written or refused with advice."""
from common.cli import UserError
from conftest import leftovers, plain_base
from conversion import base

import numpy as np
import pytest

PLAIN = plain_base()


def test_base_is_saved_and_loaded_unchanged(tmp_path):
    base.save(PLAIN, tmp_path / "run")
    base.save(PLAIN, tmp_path / "run")
    found = base.load(tmp_path / "run")
    for name, value in PLAIN._asdict().items():
        assert getattr(found, name).dtype == value.dtype and np.array_equal(getattr(found, name), value), name
    assert [path.name for path in (tmp_path / "run").iterdir()] == [base.FILE] and leftovers(tmp_path) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def incomplete(path):
    arrays = dict(np.load(path))
    del arrays["modulation"]
    np.savez(path, **arrays)


def of_another_version(path):
    np.savez(path, **np.load(path), more=np.zeros(3))


def of_objects(path):
    np.savez(path, **{**np.load(path), "kernel": np.array([{}], object)})


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b""),
                                   lambda path: path.write_bytes(b"no base"), cut, flipped, incomplete,
                                   of_another_version, of_objects])
def test_missing_or_damaged_base_is_named_with_advice(tmp_path, spoil):
    base.save(PLAIN, tmp_path)
    spoil(tmp_path / base.FILE)
    with pytest.raises(UserError, match=f"{tmp_path}/base.npz is missing or damaged .*: delete it .* makes it anew"):
        base.load(tmp_path)
