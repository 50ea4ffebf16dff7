"""The pages as a web site: `make docs`."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from tool_process import ROOT, environment

import mmpoolformer

pytestmark = pytest.mark.slow
pytest.importorskip('material')
pytest.importorskip('mkdocstrings')


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir']
    built = subprocess.run(
        [*command, folder],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    return folder


def test_every_link_leads_to_a_file_of_the_site(site: Path) -> None:
    count = 0
    for page in site.rglob('index.html'):
        for link in re.findall(r'<a [^>]*href="([^"#]+)', page.read_text()):
            if '://' not in link and not link.startswith('/'):
                count += 1
                place = page.parent / unescape(link)
                place = place / 'index.html' if place.is_dir() else place
                assert place.is_file(), f'{page}: {link}'
    assert count > 100


def test_reference_has_every_public_name(site: Path) -> None:
    anchors = re.findall(
        r' id="mmpoolformer\.([\w.]+)"', (site / 'api/index.html').read_text()
    )
    names = {anchor.rsplit('.', 1)[-1] for anchor in anchors}
    assert set(mmpoolformer.__all__) - {'__version__'} <= names


def test_configs_of_the_zoo_are_in_the_site(site: Path) -> None:
    name = 'configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py'
    assert f'href="../{name}"' in (site / 'zoo/index.html').read_text()
    assert (site / name).read_text() == (ROOT / name).read_text()
