"""Pictures of conversions and curves as PNG files, made without pyplot, so without display or global
state."""
import os
import warnings
from typing import NamedTuple

os.environ["MPLBACKEND"] = "agg"  # a notebook hands on the name of a backend that is not installed here

import utils
from common import storage
from hyperparams import HyperParams

import numpy as np
from matplotlib.figure import Figure

warnings.filterwarnings("ignore", "Glyph .* missing from font")  # in a file's name, which is no fault of the user's
# Colours of Okabe and Ito: colour-blind readers can tell them apart, also in front of grey
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    with storage.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def literal(text: str) -> str:
    """Escape dollar signs in names that users gave, because matplotlib takes them for mathematics."""
    return text.replace("$", r"\$")


def plot_conversion(path: str | os.PathLike, source: NamedTuple, output: NamedTuple, target: np.ndarray | None,
                    dtw_path: np.ndarray | None, hp: HyperParams, title: str) -> None:
    """Draw the spectrogram of a conversion (inference.Converted) below its source's (analysis.Features) and above its
    target's (T, F), if there is one; below them the pitch of source and conversion, and the alignment with the
    `dtw_path`, the source position in frames of each target frame (T,), or None. All have one time scale."""
    panels = {"source": source.linear.astype(np.float32), "converted": output.linear}
    panels |= {} if target is None else {"target": target}
    pitches = {"source": source.hertz, "converted": utils.hertz(output.pitch, hp)}
    alignment, second = output.weights, hp.hop_length / hp.sample_rate           # (T, S), s a frame
    end = second * max([len(alignment), *map(len, panels.values())])
    height = 1.55 * len(panels) + 5.0
    figure = Figure(figsize=(10, height))
    figure.suptitle(literal(title), fontsize=12, fontweight="bold", y=1.0 - 0.1 / height, va="top")
    # Fixed places: to find them from the size of every text takes as long as all the rest
    *grid, pitch, axes = figure.subplots(
        len(panels) + 2, 1, sharex=True, height_ratios=[1.3] * len(panels) + [1.2, 3.0],
        gridspec_kw={"left": 0.085, "right": 0.915, "top": 1.0 - 0.7 / height, "bottom": 0.55 / height, "hspace": 0.3})
    for panel, (caption, linear) in zip(grid, panels.items()):
        image = panel.imshow(linear.T, origin="lower", aspect="auto", cmap="magma", vmin=0.0, vmax=1.0,
                             extent=(0.0, second * len(linear), 0.0, hp.sample_rate / 2))
        panel.set_title(f"{literal(caption)}, {second * len(linear):.2f} s", loc="left", fontsize=10)
        panel.set_ylabel("frequency (Hz)", fontsize=9)
    low, high = grid[-1].get_position().y0, grid[0].get_position().y1
    bar = figure.colorbar(image, cax=figure.add_axes((0.925, low, 0.012, high - low)), ticks=np.linspace(0.0, 1.0, 5),
                          format=lambda level, _: f"{hp.range_db * (level - 1.0):.0f}")
    bar.set_label("level (dB re highest)", fontsize=9)
    bar.ax.tick_params(labelsize=8)

    for (label, hertz), colour in zip(pitches.items(), COLOURS):
        pitch.plot(second * np.arange(len(hertz)), np.where(hertz > 0.0, hertz, np.nan), color=colour, linewidth=1.3,
                   label=label)
    pitch.set_ylabel("frequency (Hz)", fontsize=9)
    pitch.grid(color="#dddddd", linewidth=0.6)
    pitch.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=2, fontsize=8, frameon=False)  # beside the title
    pitch.set_title("pitch", loc="left", fontsize=10)

    axes.imshow(alignment.T, origin="lower", aspect="auto", cmap="Greys", vmin=0.0, vmax=max(alignment.max(), 1e-8),
                extent=(0.0, second * len(alignment), 0.0, second * alignment.shape[1]))
    axes.plot([], [], color="#777777", linewidth=5, label="attention")           # an image has no legend entry
    for frames, label, colour in ((output.positions, "expected position", COLOURS[0]),
                                  (dtw_path, "DTW path of the target", COLOURS[1])):
        if frames is not None:
            # Half a frame further, so that the line runs through the middle of each frame's pixels in the image
            axes.plot(second * (np.arange(len(frames)) + 0.5), second * (np.asarray(frames) + 0.5), color=colour,
                      linewidth=0.9, label=label)
    axes.legend(loc="upper left", fontsize=8, framealpha=0.9)
    timing = ", at the source's own timing" if hp.pace == 0.0 else ""
    axes.set_title(f"alignment{timing}", loc="left", fontsize=10)
    axes.set_xlabel("output time (s)", fontsize=9)
    axes.set_ylabel("source time (s)", fontsize=9)
    axes.set(xlim=(0.0, end), ylim=(0.0, second * alignment.shape[1]))
    for panel in (*grid, axes):
        panel.set_facecolor("#e6e6e6")                                           # past the last frame; not silence
    for panel in (*grid, pitch, axes):
        panel.tick_params(labelsize=8)
    save_figure(figure, path)


def plot_curves(path: str | os.PathLike, curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str,
                ylabel: str) -> None:
    """Draw training curves, name to (steps, values), unless all are empty, with gaps where nothing finite was logged.
    The scale is logarithmic if all values are positive and the highest is more than 10 times the lowest."""
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    if not curves:
        return
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(literal(title), loc="left", fontsize=12, fontweight="bold")
    axes.set(xlabel="step", ylabel=literal(ylabel))
    axes.grid(which="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for index, (name, (steps, values)) in enumerate(curves.items()):
        apart = np.diff(steps)
        gaps = np.flatnonzero(apart > 2 * np.percentile(apart, 50, method="lower")) + 1 if len(apart) else []
        axes.plot(np.insert(np.asarray(steps, float), gaps, np.nan), np.insert(np.asarray(values, float), gaps, np.nan),
                  color=COLOURS[index % len(COLOURS)], linewidth=1.4, label=literal(name),
                  marker="o" if len(values) <= 30 else None, markersize=3.5)
    everything = np.concatenate([np.ravel(values) for _, values in curves.values()])
    everything = everything[np.isfinite(everything)]
    if len(everything) and everything.min() > 0 and everything.max() > 10 * everything.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=9)
    save_figure(figure, path)
