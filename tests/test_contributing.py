"""The map in CONTRIBUTING.md matches the code: it names everything, and imports go one way."""
import ast
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ON_TOP = ["hyperparams.py", "prepro.py", "data_load.py", "utils.py", "modules.py", "networks.py", "train.py",
          "train_multi_gpus.py", "train_gan.py", "eval.py", "eval_gan.py"]
FOLDERS = ["common", "corpus", "backend", "conversion", "evaluation", "training"]
FILES = sorted([*ON_TOP, *(f"{folder}/{path.name}" for folder in FOLDERS for path in (ROOT / folder).glob("*.py")
                           if path.name != "__init__.py")])
ROWS = [re.findall(r"`([\w/.]+)`", line) for line in TEXT[TEXT.index("| rows of imports"):].splitlines()
        if line.startswith("| `")]


def row_of(file: str) -> int:
    """The row that names a file, or else the row of its folder."""
    folder = f"{file.partition('/')[0]}/"
    named = [number for number, row in enumerate(ROWS) if file in row]
    return (named or [number for number, row in enumerate(ROWS) if folder in row])[0]


def imports(file: str) -> set[str]:
    """The project's files that a file imports."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.replace(".", "/") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module.replace(".", "/")
            found |= {module, *(f"{module}/{alias.name}" for alias in node.names)}
    return {f"{name}.py" for name in found} & {*FILES}


def test_exactly_the_ordered_modules_stand_on_top():
    assert sorted(path.name for path in ROOT.glob("*.py")) == sorted(ON_TOP)


def test_the_map_names_every_module_on_top_and_every_folder():
    text = TEXT[TEXT.index("## Map"):TEXT.index("## Add a norm")]
    assert all(f"`{name}`" in text for name in [*ON_TOP, *(f"{folder}/" for folder in FOLDERS)])


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_its_row_and_above(file):
    assert not [other for other in imports(file) if row_of(other) > row_of(file)]


def test_there_is_no_circle():
    assert list(graphlib.TopologicalSorter({file: imports(file) for file in FILES}).static_order())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_says_what_lives_there_and_what_it_imports(folder):
    tree = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1 and "import" in ast.get_docstring(tree)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+/)?\w+\.py)`", TEXT))))
def test_files_named_in_the_text_exist(name):
    assert (ROOT / name).exists() or list(ROOT.glob(f"*/{name}"))


@pytest.mark.parametrize("path, name", [("tests/test_modules.py", "NORMS"), ("modules.py", "MaskedNorm"),
                                        ("tests/test_modules.py", "test_valid_output_has_mean_0_and_variance_1"),
                                        ("training/losses.py", "masked_mean"), ("train.py", "decoder_losses"),
                                        ("tests/test_losses.py", "test_padding_changes_neither_loss_nor_gradient"),
                                        ("modules.py", "make_attention"), ("hyperparams.py", "pace_weight"),
                                        ("corpus/manifest.py", "def gather")])
def test_places_to_change_exist(path, name):
    assert name.removeprefix("def ") in TEXT and name in (ROOT / path).read_text(encoding="utf-8")
