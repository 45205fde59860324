"""Convert speech with a model that train_gan.py trained.

    python eval_gan.py                                      # the held-out sentences of the demo corpus, with measures
    python eval_gan.py --logdir logdir/mine-gan             # those of another run
    python eval_gan.py FILE_OR_FOLDER ... --out DIR         # any recordings of the source speaker, of any length

Does what eval.py does, and either script loads either model. Held-out sentences are written as gan_{i}_org.wav,
gan_{i}_act.wav and gan_{i}_gen.wav: source, target, generated.
"""
import argparse
import sys

import cli
import eval as eval_script

from manifest import Pair

ENDINGS = {"source": "org", "target": "act", "converted": "gen"}


def name_files(number: int, pair: Pair) -> tuple[dict[str, str], str]:
    """Recordings and picture of the held-out sentence of that number."""
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
