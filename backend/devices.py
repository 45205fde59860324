"""The devices that TensorFlow sees, a quiet start of TensorFlow, and training on several devices.

    python -m backend.devices       # what TensorFlow sees on this machine, and what is missing

This module must be imported before any other module that imports TensorFlow: it hides the dozen lines that TensorFlow
prints when it starts. `--verbose` on the command line, or TF_CPP_MIN_LOG_LEVEL=0 in the environment, shows them.
"""
import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator

from common import cli
from common.cli import UserError


TF_CONFIG_EXAMPLE = ('{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
                     '"task": {"type": "worker", "index": 0}}')


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


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Let modules look as if they were not installed, unless they are imported already."""
    hiding = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hiding))
    try:
        yield
    finally:
        for name in hiding:
            del sys.modules[name]


os.environ["KERAS_BACKEND"] = "tensorflow"
if "--verbose" in sys.argv:  # before any script has read its flags
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
# A user who sets a level below 3 wants the messages
quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") not in ("0", "1", "2")
# Keras imports the hidden modules where it finds them, for wrappers that nobody needs here: a quarter of its start
with captured_stderr() if quiet else contextlib.nullcontext(), hidden("sklearn", "matplotlib.pyplot"):
    import tensorflow as tf
    tf.config.list_physical_devices()  # now, because it complains about drivers


def several_machines() -> bool:
    """Whether TF_CONFIG names several machines."""
    return bool(os.environ.get("TF_CONFIG"))


def make_strategy(num_gpus: int | None) -> tf.distribute.Strategy:
    """A strategy for the machines that TF_CONFIG names, or else for the first `num_gpus` GPUs of this machine
    (default: all); raises UserError if there are fewer GPUs."""
    if several_machines():
        if num_gpus is not None:
            raise UserError("--num-gpus is for one machine; with several, each uses all GPUs that it sees "
                            "(CUDA_VISIBLE_DEVICES)")
        check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not devices:
        raise UserError("there is no GPU; train.py trains on the CPU; python -m backend.devices shows what "
                        "TensorFlow sees")
    if num_gpus is not None and not 1 <= num_gpus <= len(devices):
        raise UserError(f"--num-gpus {num_gpus}: TensorFlow sees {len(devices)}, see python -m backend.devices")
    return tf.distribute.MirroredStrategy(devices[:num_gpus])


def check_tf_config(text: str) -> None:
    """Raise UserError unless TF_CONFIG names the machines of a job and which one this is."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        config = json.loads(text)
        task, machines = config["task"], config["cluster"]
        if machines[task["type"]][int(task["index"])] and all(isinstance(each, list) for each in machines.values()):
            return
    raise UserError(f"TF_CONFIG={text} cannot be used: set it as in {TF_CONFIG_EXAMPLE}, or unset it to train on one "
                    "machine")


def run_on_all(run, args: argparse.Namespace) -> None:
    """Call `run(args, strategy)` with the devices that `args.num_gpus` or the environment names; raises UserError
    and OSError."""
    strategy = None
    try:
        strategy = make_strategy(args.num_gpus)
        if worker(strategy)[1] > 1 and args.data is None and args.init_from is None:
            raise UserError("several machines need --data DIR, a folder that prepro.py has prepared")
        run(args, strategy)
    except tf.errors.OpError as error:
        if strategy and worker(strategy)[1] == 1:
            raise
        raise UserError(f"{str(error)[:300]}\nIf another worker was lost, start all of them again: they go "
                        "on from the last checkpoint") from None


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """The index of this process among the workers of its job, and how many workers there are; (0, 1) if it is alone."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    chiefs, workers = len(jobs.get("chief", [])), len(jobs.get("worker", []))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0), chiefs + workers


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files: it is alone, or it is the first worker of its job."""
    return worker(strategy)[0] == 0


def all_workers_agree(strategy: tf.distribute.Strategy, number: int) -> bool:
    """Wait for all workers of a job; returns whether all of them called this with the same number."""
    if strategy.cluster_resolver is None:
        return True

    def compare():
        context, x = tf.distribute.get_replica_context(), tf.constant(float(number), tf.float64)
        square, squares = context.all_reduce(tf.distribute.ReduceOp.SUM, [x, x * x])
        return square * square, squares * context.num_replicas_in_sync
    left, right = (strategy.experimental_local_results(x)[0] for x in tf.function(lambda: strategy.run(compare))())
    return float(left) == float(right)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_verbose(parser)
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
