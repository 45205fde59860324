"""Convert speech with a model that train_gan.py trained.

    python eval_gan.py                                      # the held-out sentences of the demo corpus, with measures
    python eval_gan.py --logdir logdir/mine-gan             # the held-out sentences of another run
    python eval_gan.py FILE_OR_FOLDER ... --out DIR         # recordings of any speaker and length

This script does the same as eval.py, and each of the two loads both kinds of models. Held-out sentences are written as
gan_{i}_org.wav (source), gan_{i}_act.wav (target) and gan_{i}_gen.wav (converted).
"""
import argparse
import sys

import eval as eval_script
from common import cli
from corpus.manifest import Pair

ENDINGS = {"source": "org", "target": "act", "converted": "gen"}


def name_files(number: int, pair: Pair) -> tuple[dict[str, str], str]:
    """Names of the recordings and the picture of held-out sentence `number`."""
    name = f"audio/gan_{number}"
    return {kind: f"{name}_{ending}.wav" for kind, ending in ENDINGS.items()}, f"{name}.png"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    eval_script.add_arguments(parser)
    args = parser.parse_args(argv)
    return eval_script.complete(args, parser, "paired-gan" if args.data else "demo-gan")


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("eval_gan.py", lambda: eval_script.evaluate(args, name_files))


if __name__ == "__main__":
    sys.exit(main())
