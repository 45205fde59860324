"""Train the paired model on several GPUs of one machine.

    python train_multi_gpus.py                              # the demo corpus on all GPUs
    python train_multi_gpus.py --num-gpus 2 --logdir logdir/two            # on the first two
    python train_multi_gpus.py --set batch_size=64 --logdir logdir/large   # a batch's rows are shared out among them
    python train_multi_gpus.py --data DIR --logdir logdir/mine             # your own features, see prepro.py

The step, the flags and the run folder are those of train.py. Losses, batch norm statistics and gradients are computed
over the whole batch, so that n GPUs give the same result as one. Either script resumes a run of the other.
"""
import argparse
import sys

import train
from backend import devices
from common import cli


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--num-gpus", type=int, metavar="N", help="how many to use (default: all)")
    return train.parse_arguments(argv, parser)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("train_multi_gpus.py", lambda: train.run(args, devices.make_strategy(args.num_gpus)))


if __name__ == "__main__":
    sys.exit(main())
