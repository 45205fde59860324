"""Train the paired model on several GPUs, of one machine or of several.

    python train_multi_gpus.py                              # the demo corpus on all GPUs
    python train_multi_gpus.py --num-gpus 2 --data DIR --logdir logdir/mine
    python train_multi_gpus.py --set batch_size=64          # the rows of a batch are shared out among the GPUs
    srun python train_multi_gpus.py --data DIR --logdir DIR # a task a machine; or with TF_CONFIG set, see the README

The step, the flags and the run folder are those of train.py: every device takes its rows of the batch, and losses,
statistics of batch norm and gradients are those of the whole batch, so that n GPUs and one do the same. Either script
resumes what the other began, and eval.py does not see a difference. Of several machines the first one writes; when one
fails all stop, and go on from the last checkpoint when they are started again.
"""
import argparse
import os
import sys

import commands
import train
import trainer
import tensorflow as tf


def make_strategy(num_gpus: int | None) -> tf.distribute.Strategy:
    """A strategy for the machines that TF_CONFIG or Slurm name, or else for the first `num_gpus` GPUs of this one, or
    all; raises TrainingError if there are not so many."""
    slurm = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if os.environ.get("TF_CONFIG") or slurm:
        if num_gpus is not None:
            raise trainer.TrainingError("--num-gpus is for one machine; of several, all GPUs that each sees are used "
                                        "(CUDA_VISIBLE_DEVICES)")
        return tf.distribute.MultiWorkerMirroredStrategy(
            tf.distribute.cluster_resolver.SlurmClusterResolver() if slurm else None)
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not devices:
        raise trainer.TrainingError("there is no GPU; train.py trains on the CPU, check.py says what TensorFlow sees")
    if num_gpus is not None and not 1 <= num_gpus <= len(devices):
        raise trainer.TrainingError(f"--num-gpus {num_gpus}: TensorFlow sees {len(devices)}, see check.py")
    return tf.distribute.MirroredStrategy(devices[:num_gpus])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-gpus", type=int, metavar="N", help="how many to use (default: all)")
    return train.parse_arguments(argv, parser)


def run(args: argparse.Namespace) -> None:
    """Train on all devices; raises ValueError, OSError and TrainingError."""
    strategy = None
    try:
        strategy = make_strategy(args.num_gpus)
        if trainer.worker(strategy)[1] > 1 and args.data is None:
            raise trainer.TrainingError("several machines need --data DIR, prepared before")
        train.run(args, strategy)
    except tf.errors.OpError as error:
        if strategy and trainer.worker(strategy)[1] == 1:
            raise
        raise trainer.TrainingError(f"{str(error)[:300]}\nIf another worker was lost, start all of them again: they go "
                                    "on from the last checkpoint") from None


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return commands.run_main("train_multi_gpus.py", lambda: run(args), trainer.TrainingError)


if __name__ == "__main__":
    sys.exit(main())
