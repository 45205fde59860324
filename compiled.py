"""librosa, imported and compiled by one process at a time.

It compiles parts of itself when it is imported and when they are first used, and keeps the result in its own folder.
Two processes that do so at once spoil it for good: they and all that come after crash. Here the second one waits.
"""
import contextlib
import fcntl
import importlib.util
import os
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other process is in here."""
    folder = os.open(importlib.util.find_spec("librosa").submodule_search_locations[0], os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network drive that knows no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


with one_at_a_time():
    import librosa
    librosa.feature.rms  # noqa: B018  parts are imported when they are first named
    librosa.istft(librosa.stft(np.zeros(2048, np.float32)))
    librosa.pyin(np.zeros(1024, np.float32), fmin=100.0, fmax=500.0, sr=16000, frame_length=1024)
    librosa.sequence.dtw(C=np.zeros((2, 2), np.float32))
