"""A report as files: one HTML page, JSON, CSV, and PNG files of its figures."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from math import isfinite
from numbers import Integral, Real
from pathlib import Path

from PIL import Image

from mmpoolformer.analysis.report.parts import Report, Section
from mmpoolformer.utils.files import write_atomically, write_csv, write_json
from mmpoolformer.visual.curves import save_figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #191919; background: #fff;
  max-width: 1080px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; } h2 { margin-top: 2em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow: auto; max-height: 36em; }
table { border-collapse: collapse; font-size: 0.9em; }
th, td { padding: 3px 10px; text-align: left; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
thead th { position: sticky; top: 0; background: #fff; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.better { color: #00694d; } .worse { color: #a33c00; }
img { max-width: 100%; height: auto; } figure { margin: 16px 0; }
figcaption { color: #555; font-size: 0.9em; overflow-wrap: anywhere; }
.pictures { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
"""
CHANGE = 'Δ '


def write_files(
    report: Report, title: str, facts: Mapping[str, object], folder: Path
) -> Path:
    """Write `report.html`, `report.json`, `per_class.csv` and the figures.

    Args:
        report: What to write.
        title: The page's heading.
        facts: What stands below it, by name; also in the JSON file.
        folder: Where; it is made if need be.

    Returns:
        The page.
    """
    data = {**facts, 'per_class': report.per_class, **report.data()}
    write_json(folder / 'report.json', data)
    write_csv(folder / 'per_class.csv', report.per_class)
    parts = [_facts_html(facts)]
    parts += ['<h2>Each class</h2>', _table_html(report.per_class)]
    parts += [
        _section_html(section, kind, folder)
        for kind, sections in report.sections.items()
        for section in sections
    ]
    page = folder / 'report.html'
    write_atomically(page, _page_html(title, parts))
    return page


def with_changes(rows: Sequence[dict], others: Sequence[dict]) -> list[dict]:
    """Add to each row how far its numbers differ from those of another report.

    Args:
        rows: Rows with a `class`.
        others: Rows of the other report; classes that it lacks get NaN.
    """
    known = {row['class']: row for row in others}
    changed = []
    for row in rows:
        other, entries = known.get(row['class'], {}), {}
        for name, value in row.items():
            entries[name] = value
            if name not in ('class', 'objects', 'pictures'):
                before = other.get(name)
                gap = float('nan') if before is None else float(value) - before
                entries[f'{CHANGE}{name}'] = round(gap, 4)
        changed.append(entries)
    return changed


def _page_html(title: str, parts: Iterable[str]) -> str:
    lines = (
        *('<!doctype html>', '<html lang="en">', '<meta charset="utf-8">'),
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escape(title)}</title>',
        f'<style>{STYLE}</style>',
        f'<h1>{escape(title)}</h1>',
        *parts,
        '</html>',
    )
    return '\n'.join(lines) + '\n'


def _facts_html(facts: Mapping[str, object]) -> str:
    pairs = []
    for name, value in facts.items():
        entries = value.items() if isinstance(value, Mapping) else [(name, value)]
        pairs += [
            f'<dt>{escape(str(key))}</dt><dd>{escape(_shown(entry))}</dd>'
            for key, entry in entries
        ]
    return f'<dl>{"".join(pairs)}</dl>'


def _section_html(section: Section, kind: str, folder: Path) -> str:
    """Write the figures of a section into files, and return its HTML with them."""
    title = f'{section.title} ({kind})' if kind else section.title
    parts = [f'<h2>{escape(title)}</h2>', f'<p>{escape(section.text)}</p>']
    images = []
    for name, figure in section.figures.items():
        path = folder / f'{kind}_{name}.png'.removeprefix('_')
        content = save_figure(figure, path).read_bytes()
        images.append(_image_html(content, 'png', name))
    parts += _grid_html(images)
    parts += [_table_html(section.table)] if section.table else []
    pictures = []
    for text, pixels in section.pictures.items():
        content = BytesIO()
        Image.fromarray(pixels).save(content, 'JPEG', quality=88)
        image = _image_html(content.getvalue(), 'jpeg', text)
        pictures.append(f'{image}<figcaption>{escape(text)}</figcaption>')
    return '\n'.join([*parts, *_grid_html(pictures)])


def _grid_html(contents: Sequence[str]) -> list[str]:
    if not contents:
        return []
    boxes = ''.join(f'<figure>{content}</figure>' for content in contents)
    return [f'<div class="pictures">{boxes}</div>']


def _image_html(content: bytes, kind: str, text: str) -> str:
    data = b64encode(content).decode('ascii')
    return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{data}">'


def _table_html(rows: Sequence[Mapping]) -> str:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    cells = {name: _cells_html(name, values) for name, values in columns.items()}
    head = ''.join(
        f'<th{_class_of(_are_numbers(values))}>{escape(name)}</th>'
        for name, values in columns.items()
    )
    body = ''.join(
        f'<tr>{"".join(row)}</tr>' for row in zip(*cells.values(), strict=True)
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div>'
    )


def _cells_html(name: str, values: Sequence) -> list[str]:
    """Write a column; its numbers have the same digits, fewer where they are large."""
    is_number, is_change = _are_numbers(values), name.startswith(CHANGE)
    digits = 2 if is_number and any(abs(value) > 1 for value in values) else 3
    cells = []
    for value in values:
        kind = ''
        if is_change:
            kind = ' better' if value > 0 else ' worse' if value < 0 else ''
        text = _shown(value, digits, '+' if kind else '')
        cells.append(f'<td{_class_of(is_number, kind)}>{escape(text)}</td>')
    return cells


def _are_numbers(values: Sequence) -> bool:
    return isinstance(values[0], Real)


def _class_of(is_number: bool, more: str = '') -> str:
    names = f'{"number" if is_number else ""}{more}'.strip()
    return f' class="{names}"' if names else ''


def _shown(value: object, digits: int = 3, sign: str = '') -> str:
    if not isinstance(value, Real) or isinstance(value, Integral):
        return str(value)
    return f'{value:{sign}.{digits}f}' if isfinite(value) else '-'
