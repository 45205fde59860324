"""Train the paired model.

    python train.py                                         # the demo corpus, a small model, minutes on a CPU
    python train.py --data DIR --logdir logdir/mine         # your own features, see prepro.py
    python train.py --logdir logdir/mine                    # the same again resumes where it stopped
    python train.py --set norm=ln --logdir logdir/ln        # other hyperparameters, see hyperparams.py
    python train.py --preset 2017 --data DIR                # the system of 2017 as it was described

First the base is solved, a linear map of the source's own sound. Then two stages, each with an optimizer of its own:
"postnet" teaches the post-net to draw the target's linear spectrogram from the target's own mel, "mel" the encoder and
decoder to correct the base. In 2017 there was one, "joint", of all networks at once.
"""
import argparse
import pathlib
import sys

import commands
import hyperparams
import prepro
import trainer
import tensorflow as tf

from hyperparams import HyperParams
from tasks import Paired

HERE = pathlib.Path(__file__).resolve().parent


def parse_arguments(argv: list[str] | None = None, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The flags, after those that `parser` has."""
    parser = parser or argparse.ArgumentParser(description=__doc__,
                                               formatter_class=argparse.RawDescriptionHelpFormatter)
    trainer.add_arguments(parser, "logdir/demo, with --data logdir/paired")
    args = parser.parse_args(argv)
    args.logdir = args.logdir or HERE / "logdir" / ("paired" if args.data else "demo")
    return args


def run(args: argparse.Namespace, strategy: tf.distribute.Strategy | None = None) -> None:
    """Train, on one device or on those of a `tf.distribute.Strategy`."""
    before = trainer.read_notes(args.logdir).get("data", prepro.DEMO_DATA)
    default = hyperparams.PRESETS["default" if args.data or before != prepro.DEMO_DATA else "demo"]
    if trainer.goes_on(args):
        default = HyperParams.from_json(args.logdir / "hparams.json")
    trainer.train(args, trainer.resolve(args, default), Paired, "train.py", strategy)
    if strategy is None or trainer.is_chief(strategy):
        trainer.draw_curves(args.logdir)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return commands.run_main("train.py", lambda: run(args), trainer.TrainingError)


if __name__ == "__main__":
    sys.exit(main())
