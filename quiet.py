"""Import TensorFlow without the dozen lines that it prints; imported before anything that imports TensorFlow.

`--verbose` on the command line, or TF_CPP_MIN_LOG_LEVEL=0 in the environment, lets them through.
"""
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

ECHO = "import sys; sys.stderr.buffer.write(sys.stdin.buffer.read())"


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back what anything, C++ included, writes to file descriptor 2, and write it only if it ends in an error.

    Another process keeps it, so that it is written even when this one is aborted, as TensorFlow does on a processor
    that it was not built for.
    """
    keeper = subprocess.Popen([sys.executable, "-I", "-S", "-c", ECHO], stdin=subprocess.PIPE, start_new_session=True)
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(keeper.stdin.fileno(), 2)
    failed = False
    try:
        yield
    except Exception:
        failed = True
        raise
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        if not failed:
            keeper.kill()
        keeper.stdin.close()  # the end of what it reads
        keeper.wait()


def start_tensorflow() -> None:
    """Import TensorFlow and let it look for devices, which is when it complains about drivers."""
    # Not at the top: nothing of it may be imported before its output is held back
    import tensorflow as tf
    tf.config.list_physical_devices()


if "--verbose" in sys.argv:  # before any script has read its flags
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
# Levels below 3 are someone who wants to see; without a standard error there is nothing to hold back
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1", "2") or sys.stderr is None:
    start_tensorflow()
else:
    with held_back():
        start_tensorflow()
