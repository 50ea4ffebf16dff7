"""How users name weights."""

from pathlib import Path

import pytest

from mmpoolformer.utils.paths import split_entry

HASH = f'#sha256={"0" * 64}'


@pytest.mark.parametrize(
    ('source', 'parts'),
    [
        ('a.pth', ('a.pth', None)),
        ('a.pth#teacher', ('a.pth', 'teacher')),
        ('b#1.pth', ('b#1.pth', None)),
        ('b#1.pth#ema.model', ('b#1.pth', 'ema.model')),
        ('a.pth#of #1', ('a.pth', 'of #1')),
        ('a.pth#', ('a.pth', '')),
        ('missing.pth#teacher', ('missing.pth', 'teacher')),
        ('zoo://poolformer_s12', ('zoo://poolformer_s12', None)),
        ('https://host/a.pth#teacher', ('https://host/a.pth', 'teacher')),
        (f'https://host/a.pth{HASH}', (f'https://host/a.pth{HASH}', None)),
        (f'https://host/a.pth{HASH}#net', (f'https://host/a.pth{HASH}', 'net')),
        # A hash is not dropped, but part of an entry that no file has.
        (f'https://host/a.pth#net{HASH}', ('https://host/a.pth', f'net{HASH}')),
    ],
)
def test_an_entry_follows_the_source(
    source: str, parts: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('a.pth', 'b#1.pth'):
        (tmp_path / name).touch()
    assert split_entry(source) == parts
    if '://' not in source:
        assert split_entry(Path(source)) == parts


def test_an_entry_may_come_apart() -> None:
    assert split_entry('a.pth', 'teacher') == ('a.pth', 'teacher')
