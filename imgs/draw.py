"""Draw the diagrams of the networks, with the numbers of hyperparams.py.

    python imgs/draw.py             # writes Tacotron_generator.png and Tacotron_discriminator.png

Coordinates are tenths of an inch, y upwards.
"""
import argparse
import pathlib
import sys

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from common import storage  # noqa: E402
from corpus import linear_map  # noqa: E402
from hyperparams import HyperParams  # noqa: E402

DATA, LEARNT, FIXED, PANEL = "#fff2cc", "#dbe9f6", "#e9e9e9", "#f8f9fb"
INK, BACK = "#22272e", "#c0392b"


class Sheet:
    """A figure on which boxes and arrows are drawn."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width / 10, height / 10))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, size: float = 8.5, **style) -> None:
        self.axes.text(x, y, text, fontsize=size, **{"color": INK, "ha": "center", "va": "center", "zorder": 5,
                                                     "linespacing": 1.25, **style})

    def box(self, left: float, right: float, bottom: float, top: float, text: str, colour: str = LEARNT) -> None:
        """Draw a block; the first line of its text is its name, in bold."""
        self.axes.add_patch(FancyBboxPatch((left, bottom), right - left, top - bottom, facecolor=colour, edgecolor=INK,
                                           linewidth=0.9, boxstyle="round,pad=0,rounding_size=0.8", zorder=4))
        name, *rest = text.split("\n")
        middle, centre = (bottom + top) / 2, (left + right) / 2
        self.text(centre, middle + 0.92 * len(rest), name, weight="bold")
        for number, line in enumerate(rest, 1):
            self.text(centre, middle + 0.92 * len(rest) - 1.84 * number, line, size=7.8)

    def panel(self, left: float, right: float, bottom: float, top: float, title: str) -> None:
        self.axes.add_patch(FancyBboxPatch((left, bottom), right - left, top - bottom, facecolor=PANEL,
                                           edgecolor="#c5ccd6", linewidth=0.9,
                                           boxstyle="round,pad=0,rounding_size=1.2", zorder=0))
        self.text(left + 1.2, top - 1.9, title, size=10.5, weight="bold", ha="left", color="#44546a")

    def arrow(self, *points: tuple[float, float], back: bool = False) -> None:
        """Draw an arrow through the points; it is dashed and red if its data go `back` to an earlier block."""
        colour, style = (BACK, (0, (3.5, 1.8))) if back else (INK, "-")
        self.axes.plot(*zip(*points), color=colour, linewidth=1.1, linestyle=style, zorder=2, solid_capstyle="butt")
        (x0, y0), (x1, y1) = points[-2:]
        length = abs(x1 - x0) + abs(y1 - y0)
        near = (x1 - (x1 - x0) / length * 0.1, y1 - (y1 - y0) / length * 0.1)
        self.axes.annotate("", points[-1], near, zorder=3, arrowprops={
            "arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": colour, "linewidth": 1.1, "shrinkA": 0,
            "shrinkB": 0})

    def line(self, *points: tuple[float, float], back: bool = False) -> None:
        """Draw an arrow that branches off another arrow, with a dot at the branch."""
        self.axes.plot(*points[0], "o", markersize=3, color=BACK if back else INK, zorder=3)
        self.arrow(*points, back=back)

    def shape(self, x: float, y: float, text: str, **style) -> None:
        """Write the shape of an array beside an arrow, to the right of x."""
        self.text(x, y, text, **{"size": 7.8, "ha": "left", "color": "#44546a", **style})

    def sign(self, x: float, y: float, text: str) -> None:
        self.axes.add_patch(Circle((x, y), 1.3, facecolor="white", edgecolor=INK, linewidth=0.9, zorder=4))
        self.text(x, y - 0.05, text, size=10)

    def save(self, path: pathlib.Path) -> None:
        with storage.replacing(path) as temporary:
            self.figure.savefig(temporary, format="png", dpi=180)
            with Image.open(temporary) as image:
                few = image.convert("RGB").quantize(64)  # a third of the file size, with no visible difference
            few.save(temporary, format="png", optimize=True)


def draw_encoder(sheet: Sheet, hp: HyperParams) -> None:
    sheet.panel(1, 27.5, 29, 109, "Encoder")
    stack = hp.encoder_stack
    sheet.box(2.5, 26, 32, 37, "source speech\nlinear spectrogram, less its mean", DATA)
    sheet.arrow((9, 37), (9, 42))
    sheet.shape(9.8, 39.5, "(N, S, F)")
    sheet.box(2.5, 15.5, 42, 46, f"stack {stack} frames", FIXED)
    sheet.arrow((9, 46), (9, 51))
    sheet.shape(9.8, 48.5, f"(N, Tx, {stack}F)")
    sheet.box(2.5, 15.5, 51, 57.5, "pre-net\nFC E, FC E/2\nReLU, dropout")
    sheet.arrow((9, 57.5), (9, 62.5))
    sheet.shape(9.8, 60, "(N, Tx, E/2)")
    sheet.box(2.5, 15.5, 62.5, 68, f"CBHG\nK = {hp.encoder_banks}, C = E/2")
    sheet.arrow((9, 68), (9, 73))
    sheet.shape(9.8, 70.5, "(N, Tx, E)")
    sheet.box(2.5, 15.5, 73, 78.5, f"unfold\nFC {stack}E, to frames")
    sheet.arrow((9, 78.5), (9, 84.7))
    sheet.shape(9.8, 81.5, "(N, S, E)")
    sheet.arrow((21.75, 37), (21.75, 51))
    sheet.shape(21, 44, "(N, S, F)", ha="right")
    sheet.box(17.2, 26.3, 51, 57.5, "pre-net\nFC 2E, FC E\nof a frame")
    sheet.arrow((21.75, 57.5), (21.75, 73.8))
    sheet.shape(21, 65.5, "(N, S, E)", ha="right")
    sheet.box(17.2, 26.3, 73.8, 77.8, "FC E")
    sheet.arrow((21.75, 77.8), (21.75, 86), (10.3, 86))
    sheet.sign(9, 86, "+")
    sheet.arrow((9, 87.3), (9, 93))
    sheet.shape(9.8, 90.2, "(N, S, E)")
    sheet.box(2.5, 26, 93, 98.5, "memory\none vector a source frame", DATA)
    sheet.arrow((9, 98.5), (9, 101.5))
    sheet.box(2.5, 26, 101.5, 105.5, "head: FC M, corrects the map")
    sheet.arrow((26, 103.5), (29.5, 103.5), (29.5, 110.6), (44.2, 110.6))


def draw_base(sheet: Sheet, hp: HyperParams) -> None:
    sheet.panel(1, 99, 112, 124.5, "Base, solved before training")
    sheet.box(4, 26, 114, 119.5, "source speech, less its mean\nmel without harmonics, pitch", DATA)
    sheet.arrow((26, 116.7), (34.7, 116.7))
    sheet.shape(30.3, 118, "(N, S, M + 2)", ha="center")
    sheet.box(34.7, 56.3, 114, 119.5, f"linear map\n{2 * linear_map.CONTEXT + 1} frames to one, pitch to pitch", FIXED)
    sheet.arrow((56.3, 116.7), (62.5, 116.7))
    sheet.box(62.5, 84.5, 114, 119.5, "restoration\nlost movement, source's detail", FIXED)
    sheet.arrow((45.5, 114), (45.5, 111.9))
    sheet.sign(45.5, 110.6, "+")
    sheet.arrow((45.5, 109.3), (45.5, 106.4))
    sheet.shape(47.3, 110.5, "read from p to p' (N, r, M + 2)")
    sheet.arrow((73.5, 114), (73.5, 97.8))
    sheet.shape(74.3, 110.5, "read where the mel was (N, T, M)")


def draw_decoder(sheet: Sheet, hp: HyperParams) -> None:
    sheet.panel(31, 62, 29, 109, "Decoder step")
    sheet.arrow((26, 95.7), (29.3, 95.7), (29.3, 71), (34.7, 71))
    sheet.shape(29.3, 83, "memory (N, S, E)", rotation=90, ha="center", backgroundcolor="white")
    sheet.box(34.7, 55.6, 32, 37, f"frame before\nhidden in {hp.frame_dropout:.0%} of the steps", DATA)
    sheet.arrow((45.5, 37), (45.5, 41))
    sheet.shape(46.3, 39, "(N, M)")
    sheet.box(34.7, 55.6, 41, 46, "pre-net\nFC E, FC E/2, ReLU, dropout")
    sheet.arrow((45.5, 46), (45.5, 50))
    sheet.shape(46.3, 48, "(N, E/2)")
    sheet.box(34.7, 55.6, 50, 54, "attention GRU")
    sheet.arrow((45.5, 54), (45.5, 58))
    sheet.shape(46.3, 56, "h (N, E)")
    sheet.box(34.7, 55.6, 58, 63.5, "move the position\np' = p + r · pace, smoothed, of [h; c]")
    sheet.arrow((45.5, 63.5), (45.5, 68))
    sheet.shape(44.7, 65.7, "p, p' (N,)", ha="right")
    sheet.box(34.7, 55.6, 68, 75, f"local attention, r = {hp.r} looks\nat points from p to p', query h,\n"
              f"Gaussian window, {hp.sigma:g} frames")
    sheet.arrow((45.5, 75), (45.5, 79.5))
    sheet.shape(46.3, 76.3, "contexts (N, r, E)")
    sheet.box(34.7, 55.6, 79.5, 84, "FC E, tanh\nof [contexts; h]")
    sheet.arrow((45.5, 84), (45.5, 88))
    sheet.shape(44.7, 86, "c (N, E)", ha="right")
    sheet.box(34.7, 55.6, 88, 92, "2 residual GRUs")
    sheet.arrow((45.5, 92), (45.5, 95.5))
    sheet.shape(46.3, 93.7, "(N, E)")
    sheet.box(34.7, 55.6, 95.5, 100.5, "correction, r frames at once\nFC, + FC of each context")
    sheet.arrow((45.5, 100.5), (45.5, 103.7))
    if hp.correction != 1.0:
        sheet.shape(44.7, 102.1, f"× {hp.correction:g} at synthesis", ha="right")
    sheet.sign(45.5, 105, "+")
    sheet.line((45.5, 77.8), (33, 77.8), (33, 98), (34.7, 98))
    # Values that the next step gets
    sheet.line((60.6, 105), (60.6, 34.5), (55.6, 34.5), back=True)
    sheet.shape(60.6, 70, "last of the r frames (N, M)", rotation=90, ha="center", color=BACK, backgroundcolor=PANEL)
    sheet.line((45.5, 86), (58.3, 86), (58.3, 52), (55.6, 52), back=True)
    sheet.line((58.3, 59.5), (55.6, 59.5), back=True)
    sheet.shape(58.3, 79.5, "context c", rotation=90, ha="center", color=BACK, backgroundcolor=PANEL)
    sheet.line((45.5, 65.7), (57, 65.7), (57, 62.2), (55.6, 62.2), back=True)


def draw_postnet(sheet: Sheet, hp: HyperParams) -> None:
    sheet.panel(65, 99, 29, 109, "Post-net")
    sheet.arrow((46.8, 105), (91.5, 105), (91.5, 85.5))
    sheet.line((68, 105), (68, 96.5), (72.2, 96.5))
    sheet.shape(67.3, 100.8, "mel", ha="right")
    sheet.shape(92.2, 99, "pitch,\nvoicing\n(N, T, 2)")
    sheet.sign(73.5, 96.5, "+")
    sheet.arrow((73.5, 95.2), (73.5, 92), (70, 92), (70, 80))
    sheet.shape(74.3, 94, "(N, T, M)")
    sheet.line((73.5, 92), (78.5, 92), (78.5, 89))
    sheet.box(73.5, 84, 83.5, 89, f"CBHG\nK = {hp.postnet_banks}, C = E/2")
    sheet.arrow((76.4, 83.5), (76.4, 78.5))
    sheet.arrow((81.5, 83.5), (81.5, 78.5))
    sheet.shape(77.1, 81.2, "(N, T, E)", size=7)
    sheet.box(66, 73, 74.5, 80, "spread\nover bins", FIXED)
    sheet.box(74.2, 78.6, 74.5, 78.5, "FC F")
    sheet.box(79.1, 83.9, 74.5, 78.5, "FC 2F")
    sheet.box(85.3, 96.7, 78, 85.5, "harmonics\ncos(2π n f / pitch)\n· voicing, n = 1, 2", FIXED)
    sheet.arrow((91, 78), (91, 70.3))
    sheet.shape(91.7, 74.5, "(N, T, F)")
    sheet.arrow((81.5, 74.5), (81.5, 69), (89.7, 69))
    sheet.shape(82.2, 71.6, "depth for\neach bin", size=7)
    sheet.sign(91, 69, "×")
    sheet.arrow((91, 67.7), (91, 62.5), (77.7, 62.5))
    sheet.arrow((76.4, 74.5), (76.4, 63.8))
    sheet.shape(75.9, 69, "difference", ha="right", size=7)
    sheet.arrow((69, 74.5), (69, 62.5), (75.1, 62.5))
    sheet.sign(76.4, 62.5, "+")
    sheet.arrow((76.4, 61.2), (76.4, 56))
    sheet.shape(77.2, 58.5, "(N, T, F)")
    sheet.box(67, 93.5, 51, 56, "linear spectrogram", DATA)
    sheet.arrow((80.2, 51), (80.2, 47))
    sheet.box(67, 93.5, 41, 47, "texture of noise, then Griffin-Lim\n"
              f"{hp.griffin_lim_iters} iterations from pulses at the pitch", FIXED)
    sheet.line((91.5, 90.2), (98, 90.2), (98, 44), (93.5, 44))
    sheet.arrow((80.2, 41), (80.2, 37))
    sheet.box(67, 93.5, 32, 37, "converted speech", DATA)


def draw_cbhg(sheet: Sheet, hp: HyperParams) -> None:
    sheet.panel(1, 99, 5, 26, "CBHG")
    sheet.text(13.5, 24.1, "every norm over valid frames only; K kernel sizes, C channels", size=7.8, ha="left",
               color="#44546a")
    blocks = ((8, 18, "conv bank\nkernels 1 to K\nnorm, ReLU"), (25.5, 33, "max pool\nsize 2"),
              (36, 45.5, "conv 3\nnorm, ReLU"), (48.5, 56, "conv 3\nnorm"), (63.5, 69, "FC C"),
              (72, 81.5, f"{hp.highway_layers} highway\nlayers"))
    for left, right, text in blocks:
        sheet.box(left, right, 11.5, 18.5, text)
    sheet.text(3.6, 15, "(N, T, ·)", size=7.8, color="#44546a")
    sheet.arrow((5.9, 15), (8, 15))
    sheet.arrow((18, 15), (25.5, 15))
    sheet.text(21.6, 16.3, "(N, T, KC)", size=7.8, color="#44546a")
    for start, end in ((33, 36), (45.5, 48.5), (56, 58.4), (61, 63.5), (69, 72)):
        sheet.arrow((start, 15), (end, 15))
    sheet.sign(59.7, 15, "+")
    sheet.line((6.7, 15), (6.7, 8.8), (59.7, 8.8), (59.7, 13.7))
    sheet.text(33, 9.9, "residual", size=7.8, color="#44546a")
    sheet.box(84.5, 90.5, 16, 20, "GRU →")
    sheet.box(84.5, 90.5, 10, 14, "← GRU")
    sheet.arrow((81.5, 17.3), (84.5, 17.3))
    sheet.arrow((81.5, 12.7), (84.5, 12.7))
    sheet.axes.plot((90.5, 92, 92, 90.5), (18, 18, 12, 12), color=INK, linewidth=1.1, zorder=2)
    sheet.arrow((92, 15), (94, 15))
    sheet.text(96.4, 16.6, "(N, T, 2C)", size=7.2, color="#44546a")


def draw_generator(hp: HyperParams) -> Sheet:
    sheet = Sheet(100, 126)
    draw_base(sheet, hp)
    draw_encoder(sheet, hp)
    draw_decoder(sheet, hp)
    draw_postnet(sheet, hp)
    draw_cbhg(sheet, hp)
    sheet.text(1.5, 2.4, f"N sentences · S source frames · Tx = S/{hp.encoder_stack} · T target frames, r = {hp.r} a "
                         f"step · F = {hp.n_linear} bins · M = {hp.n_mels} mel bands · E = {hp.width}",
               size=8, ha="left")
    sheet.text(98.5, 2.4, "dashed: to the next step", size=8, ha="right", color=BACK)
    return sheet


def draw_discriminator(hp: HyperParams) -> Sheet:
    sheet = Sheet(100, 86)
    sheet.panel(1, 99, 5, 85, "Discriminator")
    sheet.box(4, 26, 9, 15, "target's speech\nlinear spectrogram", DATA)
    sheet.box(32, 54, 9, 15, "converted speech\npost-net's linear spectrogram", DATA)
    sheet.arrow((15, 15), (15, 18), (27, 18), (27, 21.5))
    sheet.arrow((43, 15), (43, 18), (31, 18), (31, 21.5))
    sheet.shape(14.2, 17, "(N, T, F)", ha="right")
    sheet.shape(43.8, 17, "(N, T, F)")
    chain = (("cut into windows\nof " + f"{hp.dis_frames} frames, {hp.dis_frames / hp.frames_per_second:.1f} s", FIXED,
              f"(W, {hp.dis_frames}, F)", "A window counts by the share of it\nthat is speech and not padding."),
             ("pre-net\nFC E, FC E/2, ReLU", LEARNT, f"(W, {hp.dis_frames}, E/2)", "As in the encoder, but without "
              "dropout."),
             (f"CBHG\nK = {hp.encoder_banks}, C = E/2, layer norm", LEARNT, f"(W, {hp.dis_frames}, E)",
              "Layer norm: statistics of a batch would tell\na batch of speech from one of conversions."),
             ("last valid time step", FIXED, "(W, E)", "Of both directions of the GRU, by the mask."),
             ("FC 1", LEARNT, "scores (W,)", "Linear: a least-squares loss needs no sigmoid."))
    for number, (text, colour, shape, note) in enumerate(chain):
        bottom = 21.5 + 9 * number
        sheet.box(16, 42, bottom, bottom + 5, text, colour)
        if number < len(chain) - 1:
            sheet.arrow((29, bottom + 5), (29, bottom + 9))
        sheet.shape(29.8, bottom + 7, shape)
        sheet.text(57.5, bottom + 2.5, note, size=8.5, ha="left", color="#44546a")
    sheet.axes.plot((29, 29), (62.5, 68.5), color=INK, linewidth=1.1)
    sheet.arrow((29, 68.5), (18, 68.5), (18, 71.5))
    sheet.arrow((29, 68.5), (43, 68.5), (43, 71.5))
    sheet.box(4, 32, 71.5, 79, "the discriminator learns\nD(target) → 1, D(converted) → 0\n"
              "mean (D(target) − 1)² + mean D(converted)²", DATA)
    sheet.box(34, 54, 71.5, 79, "the generator learns\nD(converted) → 1\nmean (D(converted) − 1)²", DATA)
    sheet.arrow((54, 75), (95, 75), (95, 12), (54, 12), back=True)
    sheet.text(57.5, 78.2, "its gradient at the spectrogram, scaled\n"
               f"to {hp.gan_weight:g} times the norm of the L1 loss's", ha="left", color=BACK)
    sheet.text(57.5, 14.2, "to the post-net", ha="left", color=BACK)
    sheet.text(1.5, 2.4, f"N sentences · T frames · W windows · F = {hp.n_linear} bins · E = {hp.width} · one "
                         f"update of the discriminator, then {hp.k} of the generator · CBHG: see the generator",
               size=8, ha="left")
    return sheet


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    draw_generator(HyperParams()).save(HERE / "Tacotron_generator.png")
    draw_discriminator(HyperParams()).save(HERE / "Tacotron_discriminator.png")
