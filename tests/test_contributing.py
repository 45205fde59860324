"""The map in CONTRIBUTING.md matches the code: it lists all files, and each imports only from lines above its own."""
import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = [re.findall(r"`(\w+)\.py`", line.split("|")[1]) for line in TEXT.splitlines() if line.startswith("| `")]
FILES = {path.stem for path in ROOT.glob("*.py")}


def test_every_file_is_in_the_map_once():
    assert sorted(name for row in ROWS for name in row) == sorted(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_only_from_above(name):
    above = {other for row in ROWS[:[name in row for row in ROWS].index(True)] for other in row}
    imported = set()
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported & FILES <= above


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+/)?\w+\.py)`", TEXT))))
def test_files_named_in_the_text_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("path, name", [("tests/test_modules.py", "NORMS"), ("modules.py", "MaskedNorm"),
                                        ("tests/test_modules.py", "test_valid_output_has_mean_0_and_variance_1"),
                                        ("losses.py", "masked_mean"), ("train.py", "decoder_losses"),
                                        ("tests/test_losses.py", "test_padding_changes_neither_loss_nor_gradient"),
                                        ("hyperparams.py", "pace_weight"), ("manifest.py", "def gather")])
def test_places_to_change_exist(path, name):
    assert name.removeprefix("def ") in TEXT and name in (ROOT / path).read_text(encoding="utf-8")
