"""Import librosa and let it compile its functions in one process at a time.

librosa compiles some functions when it is imported and others at their first use, and stores the result in its own
folder. Two processes that compile at the same time damage this result: they crash, and all later processes crash, too.
Here the second process waits for the first.
"""
import contextlib
import fcntl
import importlib.util
import os
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other process is in this block."""
    folder = os.open(importlib.util.find_spec("librosa").submodule_search_locations[0], os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network drive without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


with one_at_a_time():
    import librosa
    librosa.feature.rms  # noqa: B018  librosa imports a submodule when its name is first used
    librosa.istft(librosa.stft(np.zeros(2048, np.float32)))
    librosa.pyin(np.zeros(1024, np.float32), fmin=100.0, fmax=500.0, sr=16000, frame_length=1024)
    librosa.sequence.dtw(C=np.zeros((2, 2), np.float32))
