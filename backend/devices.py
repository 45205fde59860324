"""The devices that TensorFlow sees, a quiet start of TensorFlow, and training on several devices.

    python -m backend.devices       # what TensorFlow sees on this machine, and what is missing

This module must be imported before any other module that imports TensorFlow: it hides the dozen lines that TensorFlow
prints when it starts. `--verbose` on the command line, or TF_CPP_MIN_LOG_LEVEL=0 in the environment, shows them.
"""
import argparse
import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

from common import cli
from common.cli import UserError

ECHO = "import sys; sys.stderr.buffer.write(sys.stdin.buffer.read())"


@contextlib.contextmanager
def captured_stderr() -> Iterator[None]:
    """Capture what Python or C++ code writes to file descriptor 2, and print it only if the block ends in an error.

    Another process keeps the text, so that it is printed even when this process is aborted. TensorFlow aborts, for
    instance, on a processor that it was not built for.
    """
    keeper = subprocess.Popen([sys.executable, "-I", "-S", "-c", ECHO], stdin=subprocess.PIPE, start_new_session=True)
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(keeper.stdin.fileno(), 2)
    failed = False
    try:
        yield
    except Exception:  # any error is raised again; Ctrl-C is none, and prints nothing
        failed = True
        raise
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        if not failed:
            keeper.kill()
        keeper.stdin.close()  # the other process reads to this end, then prints
        keeper.wait()


def start_tensorflow() -> None:
    """Import TensorFlow and let it look for devices; it prints complaints about drivers when it does so."""
    # Not imported at the top of the file, because the output of the import has to be captured
    import tensorflow as tf
    tf.config.list_physical_devices()


if "--verbose" in sys.argv:  # before any script has read its flags
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
# A user who sets a level below 3 wants the messages; without a standard error there is nothing to capture
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1", "2") or sys.stderr is None:
    start_tensorflow()
else:
    with captured_stderr():
        start_tensorflow()

import tensorflow as tf  # noqa: E402  after its start


def several_machines() -> bool:
    """Whether TF_CONFIG or Slurm names several machines."""
    return bool(os.environ.get("TF_CONFIG")) or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def make_strategy(num_gpus: int | None) -> tf.distribute.Strategy:
    """A strategy for the machines that TF_CONFIG or Slurm names, or else for the first `num_gpus` GPUs of this machine
    (default: all); raises UserError if there are fewer GPUs."""
    if several_machines():
        if num_gpus is not None:
            raise UserError("--num-gpus is for one machine; with several, each uses all GPUs that it sees "
                            "(CUDA_VISIBLE_DEVICES)")
        return tf.distribute.MultiWorkerMirroredStrategy(
            None if os.environ.get("TF_CONFIG") else tf.distribute.cluster_resolver.SlurmClusterResolver())
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not devices:
        raise UserError("there is no GPU; train.py trains on the CPU; python -m backend.devices shows what "
                        "TensorFlow sees")
    if num_gpus is not None and not 1 <= num_gpus <= len(devices):
        raise UserError(f"--num-gpus {num_gpus}: TensorFlow sees {len(devices)}, see python -m backend.devices")
    return tf.distribute.MirroredStrategy(devices[:num_gpus])


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
    import keras  # only needed here
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_verbose(parser)
    parser.parse_args(argv)
    build = tf.sysconfig.get_build_info()
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__} "
          f"({keras.backend.backend()}), {platform.machine()} {platform.system()}")
    if build.get("is_cuda_build"):
        print(f"built for CUDA {build.get('cuda_version', '?')} and cuDNN {build.get('cudnn_version', '?')}")
    else:
        print("built without CUDA")
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
        print(f"device {device.name} {' '.join(str(value) for value in details.values())}")
    if not tf.config.list_physical_devices("GPU") and build.get("is_cuda_build"):
        try:
            ctypes.CDLL("libcuda.so.1")
            print("no GPU is used though there is an NVIDIA driver: pip install -r requirements/gpu.txt brings CUDA "
                  "and cuDNN; what is missing is printed by python -m backend.devices --verbose")
        except OSError:
            print("no GPU is used: there is no NVIDIA driver (libcuda.so.1). Training runs on the CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
