"""Make a small folder of a trained model: hparams.json, base.npz with the map in 16 bits, weights.npz in 8 bits, and
speech.npz, some training sentences as the model converts them, from which voice.py learns new voices.

    python -m conversion.export --logdir logdir/mine --out my-voice
    python eval.py FILE --logdir my-voice --out out

It can be used wherever a run folder is only read: eval.py --logdir, train.py --init-from.
"""
import argparse
import dataclasses
import pathlib
import sys

import data_load
from backend import checkpoints
from common import cli, storage
from common.cli import UserError
from conversion import base, voice
from conversion.inference import load_converter
from training.run_folder import read_run_info

import numpy as np


def export(logdir: pathlib.Path, out: pathlib.Path, checkpoint: str | None = None) -> None:
    """Write the model of a run folder into the folder `out`; raises UserError and OSError."""
    converter, info = load_converter(logdir, checkpoint), read_run_info(logdir)
    if not info:
        raise UserError(f"{logdir} does not say what it was trained on (no run.json): export a run folder")
    if (out / "checkpoints").exists():
        raise UserError(f"--out {out} is a run folder, where the weights would be read instead: choose another")
    corpus = data_load.Corpus(info["data"], converter.hp)
    corpus.use_base(converter.base)
    with cli.locked(out, "--out"):
        if (out / checkpoints.WEIGHTS).exists():
            raise UserError(f"--out {out} holds an exported model already: remove it, or choose another")
        # The map is the largest part of the base, and 8 bits of the networks err more
        base.save(converter.base._replace(kernel=converter.base.kernel.astype(np.float16)), out)
        storage.write_json(out / "hparams.json", dataclasses.asdict(converter.hp))
        if not corpus.has_target_only:  # a corpus of the target alone has no source speech
            voice.save_speech(corpus, converter, out)
        # Last, as what is complete has it
        checkpoints.write(out / checkpoints.WEIGHTS, {"generator": converter.generator.weights}, in_8_bits=True)
    megabytes = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"wrote {out}: {megabytes:.1f} MB, a model that speaks as {logdir} does: python eval.py FILE --logdir {out}")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--logdir", type=pathlib.Path, required=True, metavar="DIR", help="run folder of the model")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="where the small folder goes")
    parser.add_argument("--checkpoint", metavar="FILE", help="checkpoint to export instead of the best one")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("conversion.export", lambda: export(args.logdir, args.out, args.checkpoint))


if __name__ == "__main__":
    sys.exit(main())
