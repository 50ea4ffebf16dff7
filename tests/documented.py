"""The pages of the documentation, and the commands in them and in help texts."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tool_process import ROOT


def text_of(page: Path) -> str:
    """Return the text of a page, of a notebook without its code."""
    if page.suffix == '.md':
        return page.read_text()
    cells = json.loads(page.read_text())['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] != 'code')


PAGES = [*ROOT.glob('*.md'), *sorted((ROOT / 'docs').rglob('*.md'))]
PAGES += sorted((ROOT / 'docs').glob('*.ipynb'))
BLOCKS = [
    (page, language, text)
    for page in PAGES
    for language, text in re.findall(r'```(\w+)\n(.*?)```', text_of(page), re.S)
]
# Their texts have commands as lines of their own, further in than the rest.
SOURCES = [
    *sorted((ROOT / 'tools').glob('*.sh')),
    *sorted((ROOT / 'mmpoolformer' / 'cli').glob('*.py')),
    *sorted((ROOT / 'docs' / 'examples').glob('*.py')),
    ROOT / 'mmpoolformer' / 'doctor' / '__init__.py',
]
SHELL = ('bash', 'sh', 'shell', 'console')
COMMENT = re.compile(r'\s+#.*$', re.M)
PROGRAMS = r'(?:python|make|pip|pre-commit|tensorboard|tools/\w+\.(?:py|sh))'
INLINE = re.compile(rf'`((?:[A-Z_]+=\S+\s)*{PROGRAMS}\s[^`]+)`')
INDENTED = re.compile(
    r'^ {2,}((?:[A-Z_]+=\S+ )*(?:python|mmpoolformer|tools/\w+\.sh) (?:.*\\\n)*.*)$',
    re.M,
)
OURS = re.compile(r'^((?:[A-Z_]+=\S+ )*)mmpoolformer ([a-z][\w-]*)')
TOOLS = {'doctor': 'python -m mmpoolformer.doctor'}
TOOLS |= {
    found[1]: f'python tools/{path.name}'
    for path in sorted((ROOT / 'tools').glob('*.py'))
    if (found := re.search(r"\brun\('([\w-]+)'", path.read_text()))
}


@dataclass(frozen=True)
class Command:
    """One command on one line, without its comment, and where it stands."""

    text: str
    place: Path


def in_pages() -> list[Command]:
    """Return the commands of blocks and within sentences."""
    found = [
        Command(one_line(line), page)
        for page, language, text in BLOCKS
        if language in SHELL
        for line in text.replace('\\\n', ' ').splitlines()
        if one_line(line)
    ]
    for page in PAGES:
        sentences = re.sub(r'```.*?```', '', text_of(page), flags=re.S)
        found += [Command(one_line(c), page) for c in INLINE.findall(sentences)]
    return found


def in_helps() -> list[Command]:
    """Return the examples that tools and modules give."""
    return [
        Command(one_line(found.replace('\\\n', ' ')), source)
        for source in SOURCES
        for text in _texts(source)
        for found in INDENTED.findall(text)
    ]


def one_line(text: str) -> str:
    """Return a command without a comment and without blanks that mean nothing.

    `mmpoolformer NAME` becomes the tool that runs the same, which needs no installing.
    """
    text = '' if text.startswith('#') else COMMENT.sub('', text)
    text = ' '.join(text.split())
    return OURS.sub(lambda found: f'{found[1]}{TOOLS[found[2]]}', text)


def _texts(source: Path) -> list[str]:
    text = source.read_text()
    if source.suffix != '.py':
        return [text]
    parts = ast.walk(ast.parse(text))
    values = [part.value for part in parts if isinstance(part, ast.Constant)]
    return [value for value in values if isinstance(value, str)]
