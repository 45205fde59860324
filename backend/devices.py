"""A quiet start of TensorFlow, the devices that it sees, how it compiles, and training on several devices.

    python -m backend.devices       # what TensorFlow sees on this machine, and what is missing

It must be imported before any other module that imports TensorFlow, whose first dozen lines it hides (unless --verbose
or TF_CPP_MIN_LOG_LEVEL=0 asks for them).
"""
import contextlib
import functools
import gc
import os
import platform
import sys
import tempfile
from collections.abc import Iterator

from common import cli
from common.cli import UserError


@contextlib.contextmanager
def captured_stderr() -> Iterator[None]:
    """Capture what Python or C++ code writes to file descriptor 2, and print it only if the block ends in an error."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception:  # raised again: whatever it was, what was written before it may tell why
            file.seek(0)
            os.write(stderr, file.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["MPLBACKEND"] = "agg"  # Keras imports matplotlib, which fails if a notebook hands on the name of another
os.environ.pop("TF_USE_LEGACY_KERAS", None)  # notebooks set it for programs of Keras 2
if "--verbose" in sys.argv:  # before any script has read its flags
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
# A user who sets a level below 3 wants the messages
quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") not in ("0", "1", "2")
# Keras imports these where it finds them, for wrappers that nobody needs here: a quarter of its start
hidden = [name for name in ("sklearn", "matplotlib.pyplot", "IPython") if name not in sys.modules]
sys.modules.update(dict.fromkeys(hidden))
gc.disable()  # to look for garbage in what is imported, now and later, takes a second of a start
with captured_stderr() if quiet else contextlib.nullcontext():
    import tensorflow as tf
    tf.config.list_physical_devices()  # now, because it complains about drivers
gc.freeze()
gc.enable()
for name in hidden:
    del sys.modules[name]

# Without AutoGraph: loops over tensors are written as such, and to look for others in all of Keras takes half of the
# time of compilation
compiled = functools.partial(tf.function, autograph=False)


def make_strategy(num_gpus: int | None) -> tf.distribute.Strategy:
    """A strategy for the first `num_gpus` GPUs of this machine (default: all). Raises UserError if there are fewer, and
    if TF_CONFIG names several machines: each of them would train on its own."""
    if os.environ.get("TF_CONFIG", "").strip(" {}"):
        raise UserError("TF_CONFIG is set, but training on several machines is not supported: unset it")
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not devices:
        raise UserError("there is no GPU (see python -m backend.devices); train.py trains on the CPU")
    if num_gpus is not None and not 1 <= num_gpus <= len(devices):
        raise UserError(f"--num-gpus {num_gpus}: TensorFlow sees {len(devices)}, see python -m backend.devices")
    return tf.distribute.MirroredStrategy(devices[:num_gpus])


def main(argv: list[str] | None = None) -> int:
    parser = cli.new_parser(__doc__)
    parser.parse_args(argv)
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, {platform.machine()} {platform.system()}")
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
        print(f"device {device.name} {' '.join(str(value) for value in details.values())}")
    if not tf.config.list_physical_devices("GPU"):
        print("no GPU is used. For one of NVIDIA, pip install -r requirements/gpu.txt brings CUDA and cuDNN; --verbose "
              "shows what is missing then")
    return 0


if __name__ == "__main__":
    sys.exit(main())
