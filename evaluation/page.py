"""The results page of an evaluation, made from page.html: it opens without a network. And its figures for a terminal.

The summary has one row for each measure, with source, converted, copy and target side by side. Below the summary, each
sentence has an entry.
"""
import html
import math
import numbers
import os
import pathlib
import string
import urllib.parse

from common import storage

import numpy as np

# Columns of the summary: the ending of a measure's name, and which recordings were measured
COLUMNS = {"": "converted", " of the source": "source", " of the copy": "copy", " of the target": "target"}
DASH = "\u2013"  # no value
RETRIEVAL = "content retrieval among "
MEASURES = {  # in the order of the table
    "MCD dB": "Mel-cepstral distortion, the distance from the target's recording. Lower is better.",
    "MCD gap closed": "How far the distortion comes from the source (0) to the copy (1). Higher is better.",
    RETRIEVAL: "Conversions that are nearer to the right sentence of the target than to any other. More is better.",
    "stops by itself": "Share of conversions that end before the limit of steps. Higher is better.",
    "stops within 15 %": "Share of them that end within 15 % of the target's length. Higher is better.",
    "duration difference s": "How much longer or shorter than the target's recording, on average. Lower is better.",
    "path distance frames": "How far the reading position is off the path of time warping. Lower is better.",
    "global variance ratio": "How much the spectrum varies, as a share of the target's. 1 is best, less is muffled.",
    "modulation distance dB": "How much the movements of the spectrum differ from the target's. Lower is better.",
    "F0 RMSE Hz": "Error of the pitch where both recordings have a pitch. Lower is better.",
    "F0 correlation": "Correlation of the pitch with the target's. Higher, up to 1, is better.",
    "long-term spectrum dB": "How far the mean spectrum is from the target's in shape. Lower is better.",
    "median F0 ratio": "Pitch as a share of the target's. Nearer to 1 is better.",
    "voicing error": "Share of frames that have a pitch in one recording and none in the other. Lower is better.",
}


def format_value(value: object) -> str:
    """Format a value for readers: three significant digits, yes or no, a dash for None or NaN; not escaped."""
    if value is None or isinstance(value, numbers.Real) and not math.isfinite(value):
        return DASH
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral) or not isinstance(value, numbers.Real):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def address(path: str | os.PathLike) -> str:
    """Escape a relative path, which may hold any characters, for an attribute in HTML."""
    return html.escape(urllib.parse.quote(pathlib.PurePath(path).as_posix()))


def measured(name: str) -> tuple[str, str]:
    """Split a name in the summary into its measure (a key of MEASURES) and its ending (a key of COLUMNS), or two ""."""
    kind = max((kind for kind in COLUMNS if name.endswith(kind)), key=len)
    measure = name[:len(name) - len(kind)]
    measure = RETRIEVAL if measure.startswith(RETRIEVAL) else measure
    return (measure, kind) if measure in MEASURES else ("", "")


def side_by_side(summary: dict) -> tuple[list[str], dict[str, list], dict]:
    """Sort a summary into names of columns, rows of measures (a value or None each), and entries that are none."""
    found = [measured(name) for name in summary]
    kinds = [kind for kind in COLUMNS if any(measure and ending == kind for measure, ending in found)]
    order, rows, facts = list(MEASURES), {}, {}
    for name, value in summary.items():
        measure, kind = measured(name)
        if measure:
            row = name[:len(name) - len(kind)]
            rows.setdefault(row, [None] * len(kinds))[kinds.index(kind)] = value
        else:
            facts[name] = value
    rows = {name: rows[name] for name in sorted(rows, key=lambda name: order.index(measured(name)[0]))}
    return [COLUMNS[kind] for kind in kinds], rows, facts


def print_summary(summary: dict) -> None:
    """Print the summary of the page: first entries that are no measures, then one row for each measure."""
    columns, rows, facts = side_by_side(summary)
    table = {"": columns, **{name: ["" if value is None else format_value(value) for value in values]
                             for name, values in rows.items()}}
    widths = [max(map(len, cells)) for cells in zip(*table.values())]
    margin = max(map(len, [*table, *facts]))
    for name, value in facts.items():
        print(f"{name:{margin}}  {format_value(value)}")
    for name, cells in table.items() if rows else ():
        print(f"{name:{margin}}  {'  '.join(f'{cell:>{width}}' for cell, width in zip(cells, widths))}".rstrip())


def table_row(name: str, cells: list[tuple[str, str]]) -> str:
    """The HTML of a row of a table: its name, and (text, class) of the other cells."""
    tail = "".join(f'<td class="{kind}">{html.escape(text)}</td>' for text, kind in cells)
    return f'<tr><th scope="row">{html.escape(name)}</th>{tail}</tr>\n'


def summary_html(summary: dict) -> dict[str, str]:
    """The HTML of the tables above the sentences, for the places of these names in page.html."""
    columns, rows, facts = side_by_side(summary)
    measures = [table_row(name, [("" if value is None else format_value(value), "number") for value in values]
                          + [(MEASURES[measured(name)[0]], "meaning")]) for name, values in rows.items()]
    return {"no_measures": "" if rows else "hidden", "only_recordings": "hidden" if rows else "",
            "measures": "".join(measures),
            "columns": "".join(f'<th scope="col" class="number">{html.escape(column)}</th>' for column in columns),
            "facts": "".join(table_row(name, [(format_value(value), "fact")]) for name, value in facts.items())}


def write_page(folder: str | os.PathLike, title: str, rows: list[dict], summary: dict[str, float | str | list]) -> None:
    """Write folder/index.html: a summary, then a table with one entry for each utterance, which can be sorted.

    row: {"id": str, "audio": {kind: relative path}, "picture": relative path, "measures": {name: float | bool | None},
    "warnings": [str]}; it may lack a kind, a measure, picture or warnings.
    """
    kinds = sorted(dict.fromkeys(kind for row in rows for kind in row["audio"]), key=lambda kind: kind != "converted")
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    head = ['<th scope="col" aria-sort="none"><button type="button">utterance</button></th>']
    head += [f'<th scope="col">{html.escape(kind)}</th>' for kind in kinds]
    head += [f'<th scope="col" class="number" aria-sort="none"><button type="button">{html.escape(name)}</button></th>'
             for name in names]
    bodies = []
    for row in rows:
        name = html.escape(row["id"])
        warnings = "".join(f'<small>{html.escape(text)}</small>' for text in row.get("warnings", []))
        cells = [f'<th scope="row" data-value="{name}">{name}{warnings}</th>']
        for kind in kinds:
            path = row["audio"].get(kind)
            cells.append(f"<td>{DASH}</td>" if path is None else
                         f'<td><audio controls preload="none" src="{address(path)}" '
                         f'aria-label="{name}, {html.escape(kind)}"></audio></td>')
        for value in map(row["measures"].get, names):
            key = "" if value is None or not math.isfinite(value) else float(value)
            cells.append(f'<td class="number" data-value="{key}">{html.escape(format_value(value))}</td>')
        body = f"<tr>{''.join(cells)}</tr>"
        if row.get("picture") is not None:
            body += (f'\n<tr class="picture"><td colspan="{len(cells)}"><details><summary>spectrograms and alignment'
                     f'</summary><img loading="lazy" src="{address(row["picture"])}" '
                     f'alt="Spectrograms and alignment of {name}"></details></td></tr>')
        bodies.append(f"<tbody>\n{body}\n</tbody>\n")
    template = string.Template((pathlib.Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    with storage.replacing(pathlib.Path(folder) / "index.html") as temporary:
        temporary.write_text(template.substitute(
            summary_html(summary), title=html.escape(title), count=len(rows), head="".join(head),
            rows="".join(bodies)), encoding="utf-8")
