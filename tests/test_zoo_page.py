"""The page of all models is what its script makes of the tables."""

import re
import runpy

from tool_process import ROOT

from mmpoolformer import list_models


def test_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / 'docs' / 'make_zoo.py'))
    stored = (ROOT / 'docs' / 'zoo.md').read_text()
    assert script['page']() == stored, 'run python docs/make_zoo.py'
    assert sorted(re.findall(r'^\| `(\w+)`', stored, re.M)) == sorted(list_models())
    assert stored.count('drive.google.com') == len(script['RELEASED']) == 11
