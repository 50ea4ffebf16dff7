"""Fonts of drawings: matplotlib's own, or an installed one for CJK letters."""

import warnings
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from PIL import ImageFont

# Fonts with Chinese, Japanese and Korean letters, those with all of them first.
CJK_FONTS = (
    *(f'Noto Sans CJK {part}' for part in ('SC', 'TC', 'JP', 'KR', 'HK')),
    *(f'Source Han Sans {part}' for part in ('SC', 'TC', 'JP', 'KR')),
    'WenQuanYi Zen Hei',
    'WenQuanYi Micro Hei',
    'Droid Sans Fallback',
    'Arial Unicode MS',
    'Microsoft YaHei',
    'SimHei',
    'PingFang SC',
    'Hiragino Sans GB',
    'Yu Gothic',
    'Malgun Gothic',
    'NanumGothic',
    'IPAGothic',
)
# First and last of: kana, ideographs and Hangul; their full-width forms; rarer ones.
CJK_LETTERS = (
    ('\u1100', '\u11ff'),
    ('\u2e80', '\ud7ff'),
    ('\uf900', '\ufaff'),
    ('\uff00', '\uffef'),
    ('\U00020000', '\U0003ffff'),
)


def font_for(size: int, text: str = '') -> ImageFont.FreeTypeFont:
    """Return a font that has the letters of a text, as far as one is installed."""
    return _font_file(size, _font_path(any(map(_is_cjk, text))))


@lru_cache
def _font_file(size: int, path: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache
def _font_path(cjk: bool) -> str:
    """Return the font that comes with matplotlib, or an installed one for CJK."""
    if cjk:
        found = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
        for name in CJK_FONTS:
            if name in found and Path(found[name]).is_file():
                return found[name]
        warnings.warn(
            'no font for Chinese, Japanese and Korean names is installed, so they are '
            'drawn as boxes: install Noto Sans CJK (Debian: fonts-noto-cjk)',
            stacklevel=2,
        )
    return str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf')


def _is_cjk(letter: str) -> bool:
    return any(first <= letter <= last for first, last in CJK_LETTERS)
