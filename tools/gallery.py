"""The page to listen to, docs/index.html, made from samples/.

    python -m tools.gallery            # write the page; nothing on it is typed by hand but the headings below
    python -m tools.gallery --open     # and open it in a browser

samples/KIND/ID.PART.wav are recordings; PART is a key of PARTS. samples/KIND/heard.json holds what
tools/hear.py measured: {"sentences": how many were measured, "mean": figures, "said": {ID: words}, "files": {file name:
figures}}; figures are {"WER %", "DistillMOS", "DNSMOS", "likeness"}, and for a file "heard", the words that the
recogniser understood.
"""
import html
import os
import pathlib
import string
import sys
import webbrowser
from typing import NamedTuple

from common import cli, storage
from common.cli import UserError
from evaluation.page import DASH, address

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = {"source": "source", "converted": "conversion", "target": "target", "2017": "system of 2017, 435 steps"}


class Kind(NamedTuple):
    """A kind of use; `folder` is below samples/."""
    folder: str
    title: str
    text: str
    command: str


KINDS = (
    Kind("demo", "Two hundred sentences of both: the demo",
         "Two synthetic voices, which belong to the repository, so that source and target can be heard, too. Trained "
         "on two cores in ten minutes.", "make demo"),
    Kind("bdl-slt", "A recording of a speaker whom the pretrained voice knows",
         "A man (bdl of CMU Arctic) as a woman (slt). The voice was trained on an hour of each of three people and ten "
         "minutes of each of six more, and its post-net from a discriminator.", "python eval.py my.wav"),
    Kind("slt-bdl", "The same, the other way round",
         "A woman (slt) as a man (bdl).",
         "python eval.py my.wav --voice bdl"),
    Kind("stranger", "Nothing but a recording",
         "SF1, a woman, and SM1, a man, of VCC 2016 as slt, by the voice as it was before they joined its training.",
         "python eval.py my.wav"),
    Kind("ten-minutes-gan", "Ten minutes of both",
         "A man (SM1) as a woman (TF1), with ten minutes of two more people who said the same sentences, behind a "
         "pretrained voice to which he was a stranger.",
         'make pair SOURCE=DIR TARGET=DIR OTHERS="DIR DIR"'),
    Kind("ten-minutes", "The same without a discriminator",
         "Before the last step of that command, in which the post-net learns from a discriminator; and by the system "
         "of 2017.", "python train.py --data data/me-her --init-from pretrained/slt --logdir logdir/me-her"),
    Kind("unpaired", "Five minutes of both, different sentences",
         "The same two people, but no sentence was said by both.", "make pair SOURCE=DIR TARGET=DIR"),
    Kind("voice", "Recordings of the target alone",
         "The same man through a pretrained voice to which he was a stranger, and which learnt TF1 from ten minutes of "
         "her.", "make voice TARGET=DIR"),
)


def figures_html(figures: dict) -> str:
    """Figures of a file or of many, in one line."""
    texts = {"WER %": "{:.1f} % of words wrong", "DistillMOS": "D {:.1f}", "DNSMOS": "O {:.1f}",
             "likeness": "likeness {:.2f}"}
    return ", ".join(text.format(figures[name]) for name, text in texts.items() if name in figures)


def player_html(path: pathlib.Path, part: str, sentence: str, figures: dict) -> str:
    """A recording with what was measured on it."""
    heard = f"<p class=heard>\u201c{html.escape(figures['heard'])}\u201d</p>" if figures.get("heard") else ""
    return (f'<div class="part {part}"><h4>{html.escape(PARTS[part])}</h4>'
            f'<audio controls preload="metadata" src="{address(path)}" aria-label="{html.escape(sentence)}, '
            f'{html.escape(PARTS[part])}"></audio>{heard}<p class=figures>{figures_html(figures)}</p></div>\n')


def kind_html(kind: Kind, samples: pathlib.Path, page: pathlib.Path) -> str:
    """A section of the page; raises UserError if a recording was not measured."""
    folder = samples / kind.folder
    note = storage.read_json(folder / "heard.json")
    sentences: dict[str, dict[str, pathlib.Path]] = {}
    for path in sorted(folder.glob("*.wav")):
        sentence, part = path.stem.rsplit(".", 1)
        if path.name not in note.get("files", {}):
            raise UserError(f"{folder / 'heard.json'} has no figures of {path.name}: measure it with tools/hear.py")
        sentences.setdefault(sentence, {})[part] = path
    rows = []
    for sentence, found in sentences.items():
        players = "".join(player_html(pathlib.Path(os.path.relpath(found[part], page.parent)), part, sentence,
                                      note["files"][found[part].name]) for part in PARTS if part in found)
        said = html.escape(note["said"].get(sentence, DASH))
        rows.append(f"<article><h3>{html.escape(sentence)} <small>{said}</small></h3>\n<div class=parts>{players}</div>"
                    "</article>\n")
    return (f'<section id="{kind.folder}"><h2>{html.escape(kind.title)}</h2>\n<p>{html.escape(kind.text)} '
            f"<code>{html.escape(kind.command)}</code></p>\n<p class=mean>{note['sentences']} sentences on average: "
            f"{figures_html(note['mean'])}</p>\n{''.join(rows)}</section>\n")


def write_gallery(samples: pathlib.Path, page: pathlib.Path) -> None:
    """Write the page from the kinds of use that `samples` holds; raises UserError."""
    kinds = [kind for kind in KINDS if (samples / kind.folder / "heard.json").exists()]
    if not kinds:
        raise UserError(f"{samples} holds no samples: git checkout {samples} brings them back")
    links = "".join(f'<li><a href="#{kind.folder}">{html.escape(kind.title)}</a></li>' for kind in kinds)
    template = string.Template(pathlib.Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    content = template.substitute(links=links, kinds="".join(kind_html(kind, samples, page) for kind in kinds))
    with storage.replacing(page) as temporary:
        temporary.write_text(content, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    args, page = parser.parse_args(argv), ROOT / "docs" / "index.html"

    def run() -> None:
        write_gallery(ROOT / "samples", page)
        print(f"wrote {page}")
        if args.open and not webbrowser.open(page.as_uri()):
            print("no browser was found; open that file in one")
    return cli.run_main("tools.gallery", run)


if __name__ == "__main__":
    sys.exit(main())
