"""The diagrams of the networks: all texts are inside the figure and none overlaps another."""
import importlib.util
import itertools
import pathlib

from hyperparams import HyperParams

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

IMGS = pathlib.Path(__file__).resolve().parents[1] / "imgs"
SPEC = importlib.util.spec_from_file_location("draw", IMGS / "draw.py")
draw = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(draw)


@pytest.mark.parametrize("make", [draw.draw_generator, draw.draw_discriminator])
def test_texts_neither_overlap_nor_are_cut_off(make):
    figure = make(HyperParams()).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in figure.axes[0].texts
             if text.get_text()]
    assert len(boxes) > 20
    for (one, box), (other, its_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(its_box), f"{one!r} and {other!r}"
    for text, box in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width and 0 <= box.y0 < box.y1 <= figure.bbox.height, text


def test_diagram_is_written_as_a_small_file(tmp_path):
    draw.draw_discriminator(HyperParams()).save(tmp_path / "d.png")
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]
    assert 1000 < (tmp_path / "d.png").stat().st_size < 200_000
