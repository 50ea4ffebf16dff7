import json
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


@pytest.fixture(scope='module')
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_clean(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert len(cell.source) < 1500
        if cell.cell_type == 'code':
            assert cell.outputs == []
            assert cell.execution_count is None
    text = NOTEBOOK.read_text(encoding='utf-8')
    assert str(Path.home()) not in text
    assert '/tmp' not in text


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
    assert '11.915176 million parameters' in text
    assert 'logits: (2, 1000)' in text
    assert 'the same logits: True' in text
    assert 'top-1 accuracy:' in text
    assert 'missing_keys=[' in text
    assert (folder / 'made' / 'classifier' / 'epoch_1.pth').is_file()
    assert (folder / 'made' / 'detector' / 'iter_2.pth').is_file()


def test_it_shows_pictures(executed):
    _, cells = executed
    outputs = [out for c in cells if c.cell_type == 'code' for out in c.outputs]
    pictures = [out for out in outputs if 'image/png' in out.get('data', {})]
    # Scenes, classes, maps, class-activation maps, curves, boxes.
    assert len(pictures) == 6
    assert len(json.dumps([out.data['image/png'] for out in pictures])) > 50_000
