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
import sys

import cli
import devices
import train


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-gpus", type=int, metavar="N", help="how many to use (default: all)")
    return train.parse_arguments(argv, parser)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("train_multi_gpus.py", lambda: devices.run_on_all(train.run, args))


if __name__ == "__main__":
    sys.exit(main())
