"""The README shows commands that exist: scripts with flags they take, targets of the Makefile, files that are there."""
import importlib
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line.split("   #")[0].strip() for line in README.splitlines() if line.startswith("    ")]
INLINE = re.findall(r"`((?:python|make) [^`]+)`", README)
COMMANDS = [line for line in LINES + INLINE if re.match(r"(\.venv/bin/)?python \w+\.py|make ", line)]


def test_there_are_commands():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    words = shlex.split(command)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert words[1] in re.findall(r"^(\w+):", makefile, re.MULTILINE)
        variables = {word.partition("=")[0] for word in words[2:]}
        assert variables <= set(re.findall(r"\$\((\w+)[):]", makefile))
    else:
        script = importlib.import_module(pathlib.Path(words[1]).stem)
        script.parse_arguments(words[2:])  # exits on a flag it does not know


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http|#)[^)]+)\)", README))))
def test_links_lead_somewhere(link):
    name, _, heading = link.partition("#")
    assert (ROOT / name).exists()
    if heading:
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = [line.lstrip("# ").lower() for line in text.splitlines() if line[:1] == "#"]
        assert heading in [re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in lines]  # as GitHub names them


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+\.py|[\w/-]+\.txt|data/demo/[\w.]*)`", README))))
def test_files_named_exist(name):
    assert (ROOT / name).exists() or (ROOT / "data" / "demo" / name).exists()
