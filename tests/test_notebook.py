import os
from pathlib import Path

import nbclient
import nbformat
import pytest
from tool_process import ROOT

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / 'docs' / 'quickstart.ipynb'
SHORT = """
FOLDER = 'made'
SCENES, EPOCHS, STEPS = 6, 1, 2
"""
# What is printed however short the trainings are.
PRINTED = (
    '11.915176 million parameters',
    'logits: (2, 1000)',
    'the same logits: True',
    'top-1 accuracy:',
    'missing_keys=[',
)


@pytest.fixture(scope='module')
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_with_the_outputs_of_one_run(notebook):
    nbformat.validate(notebook)
    assert all(len(cell.source) < 1500 for cell in notebook.cells)
    codes = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [c.execution_count for c in codes] == list(range(1, len(codes) + 1))
    text = printed(notebook.cells)
    assert [words for words in PRINTED if words not in text] == []
    text += ''.join(cell.source for cell in notebook.cells)
    assert str(Path.home()) not in text
    assert '/tmp' not in text and ROOT.as_posix() not in text
    assert NOTEBOOK.stat().st_size < 2e6


@pytest.fixture(scope='module')
def executed(notebook, tmp_path_factory):
    pytest.importorskip('mmdet')
    pytest.importorskip('pytorch_grad_cam')
    folder = tmp_path_factory.mktemp('notebook')
    notebook = nbformat.from_dict(notebook.copy())
    cells = [c for c in notebook.cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(cells) == 1
    cells[0].source = SHORT
    client = nbclient.NotebookClient(
        notebook,
        timeout=240,
        kernel_name='python3',
        resources={'metadata': {'path': str(folder)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            patch.setenv(name, '1')
        path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
        patch.setenv('PYTHONPATH', path)
        # Away from the user's own settings and kernels.
        patch.setenv('JUPYTER_CONFIG_DIR', str(folder / 'config'))
        patch.setenv('IPYTHONDIR', str(folder / 'ipython'))
        client.execute()
    return folder, notebook.cells


def printed(cells) -> str:
    outputs = [out for c in cells if c.cell_type == 'code' for out in c.outputs]
    return ''.join(out.text for out in outputs if out.output_type == 'stream')


def test_it_runs_from_the_first_cell_to_the_last(executed):
    folder, cells = executed
    text = printed(cells)
    assert [words for words in PRINTED if words not in text] == []
    assert (folder / 'made' / 'classifier' / 'epoch_1.pth').is_file()
    assert (folder / 'made' / 'detector' / 'iter_2.pth').is_file()


def pictures(cell) -> list[str]:
    outputs = cell.get('outputs', [])
    return [
        out.data['image/png'] for out in outputs if 'image/png' in out.get('data', {})
    ]


def test_it_shows_pictures_and_is_stored_with_them(notebook, executed):
    shown = [pictures(cell) for cell in executed[1]]
    # Scenes, classes, maps, class-activation maps, curves, boxes.
    assert sum(map(len, shown)) == 6
    assert sum(len(picture) for of_cell in shown for picture in of_cell) > 50_000
    stored = [pictures(cell) for cell in notebook.cells]
    assert list(map(len, stored)) == list(map(len, shown))
