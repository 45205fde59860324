"""The notebook runs from top to bottom, and is stored small."""
import pathlib

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

PATH = pathlib.Path(__file__).resolve().parents[1] / "notebooks" / "convert.ipynb"
MOST_BYTES = 200_000


def test_the_notebook_runs_and_is_heard_and_seen(tmp_path):
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert 6 <= len(notebook.cells) <= 10
    notebook.cells[-1].source = notebook.cells[-1].source.replace('"sharpened.wav"', repr(str(tmp_path / "own.wav")))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "stream"]  # no warnings
    shown = [data for output in outputs for data in output.data]
    assert shown.count("image/png") == 2
    sounds = [output.data["text/html"] for output in outputs if "<audio" in output.data.get("text/html", "")]
    assert len(set(sounds)) == 3  # source, conversion, and another one with another power
    assert (tmp_path / "own.wav").stat().st_size > 50_000


def test_the_notebook_is_stored_without_large_outputs():
    assert PATH.stat().st_size < MOST_BYTES
