"""README and documents name only what exists: scripts and their flags, targets of the Makefile, files and headings."""
import importlib
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATHS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "pretrained" / "README.md"]
TEXTS = {path: path.read_text(encoding="utf-8") for path in sorted(PATHS)}


def commands(text: str) -> list[str]:
    """The commands of a text, in blocks and between backquotes; a line ending in a backslash continues in the next."""
    blocks = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    lines = [line.split("   #")[0].strip() for line in blocks]
    inline = re.findall(r"`((?:python|make) [^`]+)`", text)
    return [line for line in lines + inline if re.match(r"(\.venv/bin/)?python (\w+\.py|-m \w+\.\w+)|make \w", line)]


def headings(text: str) -> list[str]:
    """The headings of a text as GitHub names them in links."""
    lines = [line.lstrip("# ").lower() for line in text.splitlines() if line[:1] == "#"]
    return [re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in lines]


def test_readme_contains_commands_and_is_short():
    readme = TEXTS[ROOT / "README.md"]
    assert len(commands(readme)) >= 12 and len(readme.splitlines()) <= 200


@pytest.mark.parametrize("command", sorted({command for text in TEXTS.values() for command in commands(text)}))
def test_documented_command_is_valid(command):
    words = shlex.split(command)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert words[1] in re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
        variables = {word.partition("=")[0] for word in words[2:]}
        assert variables <= {"PYTHON", *re.findall(r"\$\((\w+)[):]", makefile)}
    else:
        is_module = words[1] == "-m"
        script = importlib.import_module(words[2] if is_module else pathlib.Path(words[1]).stem)
        script.parse_arguments(words[2 + is_module:])  # exits on a flag it does not know


@pytest.mark.parametrize("path, link", sorted({(path, link) for path, text in TEXTS.items() for link in re.findall(
    r"\]\(((?!http)[^)]+)\)", text)}), ids=lambda value: str(value.name if isinstance(value, pathlib.Path) else value))
def test_link_targets_exist(path, link):
    name, _, heading = link.partition("#")
    found = (path.parent / name).resolve() if name else path
    assert found.exists()
    if heading:
        assert heading in headings(found.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted({name for text in TEXTS.values() for name in re.findall(
    r"`([\w/]+\.py|[\w/-]+\.txt|data/demo/[\w.]*)`", text)} - {"heldout.txt", "__init__.py"}))
def test_files_named_in_documents_exist(name):
    assert (ROOT / name).exists()
