"""Convert speech with a model that train_gan.py trained.

    python eval_gan.py data/demo/rms/demo_001.ogg           # a recording, or several and folders
    python eval_gan.py                                      # after train_gan.py: the demo's held-out sentences
    python eval_gan.py --logdir logdir/demo --out out/demo  # the same by another run, written elsewhere
    python eval_gan.py FILE_OR_FOLDER ... --logdir DIR      # recordings of any speaker and length, by a model of yours

This script does the same as eval.py, and each of the two loads both kinds of models; without --logdir recordings are
converted by pretrained/. Held-out sentences are written as gan_{i}_org.wav (source), gan_{i}_act.wav (target) and
gan_{i}_gen.wav (converted).
"""
import argparse
import sys

import eval as eval_script
from common import cli
from training import run_folder

ENDINGS = {"source": "org", "target": "act", "converted": "gen"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    return eval_script.parse_arguments(argv, __doc__, "train_gan.py", "-gan")


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate, and say whether adversarial training has shaped the model. Raises UserError."""
    info = run_folder.read_run_info(args.logdir)
    if info.get("script") == "train_gan.py":
        print(f"adversarial training has shaped the model of {args.logdir}")
    elif info:
        print(f"adversarial training has not shaped the model of {args.logdir}; train_gan.py --init-from a run trains "
              "one that it shapes")
    return eval_script.evaluate(args, ENDINGS)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("eval_gan.py", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
