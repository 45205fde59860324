"""The bundled corpus of two synthetic voices in data/demo, and its features."""
import pathlib
import subprocess
import sys

from common.cli import UserError
from hyperparams import SIGNAL, HyperParams

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDINGS = ROOT / "data" / "demo"
FEATURES = ROOT / "data" / "features-demo"


def prepare(hp: HyperParams) -> pathlib.Path:
    """Prepare the bundled corpus unless it is prepared; returns the folder of its features. Raises UserError."""
    if not (FEATURES / "manifest.csv").exists():
        # Run as a separate command, because worker processes would import TensorFlow as this process did
        settings = [f"--set={name}={getattr(hp, name)}" for name in SIGNAL]
        if subprocess.run([sys.executable, ROOT / "prepro.py", *settings]).returncode:
            raise UserError("the demo's recordings could not be prepared, see above")
    return FEATURES


def holds(corpora: dict[str, dict[str, pathlib.Path]]) -> bool:
    """Whether all recordings (speaker -> utterance id -> file) are the demo's, under their own names. Nobody has to
    check that these say the same words, which is hard: its sentences share most of them."""
    return all(path.resolve().is_relative_to(RECORDINGS) and path.stem == utterance
               for files in corpora.values() for utterance, path in files.items())
