import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mmpoolformer
from mmpoolformer.doctor import checks
from mmpoolformer.doctor.checks import Facts, Probe, diagnose, probe_all
from mmpoolformer.doctor.report import report

FORKS = {
    'torch': '2.11.0',
    'torchvision': '0.26.0+cpu',
    'numpy': '2.2.6',
    'timm': '1.0.31',
    'pycocotools': '2.0.11',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
    'opencv-python-headless': '4.12.0.88',
    'ftfy': '6.3.1',
    'regex': '2026.1.1',
}
ORIGINALS = {
    **{name: version for name, version in FORKS.items() if 'onedl' not in name},
    'torch': '2.1.2',
    'torchvision': '0.16.2',
    'numpy': '1.26.4',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'setuptools': '79.0.1',
    'opencv-python-headless': '4.11.0.86',
}
PROBES = {
    **{name: Probe() for name in checks.PROBES},
    'torch': Probe(data={'cuda': '13.0', 'gpus': []}),
    'mmcv.ops': Probe(data={'cuda': 'not available'}),
}


def facts(
    versions: dict[str, str] = FORKS,
    without: tuple[str, ...] = (),
    probes: dict[str, Probe] | None = None,
    **changes: object,
) -> Facts:
    healthy = Facts(
        python=(3, 11, 7),
        versions={k: v for k, v in versions.items() if k not in without},
        probes={**PROBES, **(probes or {})},
    )
    return replace(healthy, **changes)


def failing(name: str, error: str) -> dict[str, Probe]:
    return {name: Probe(error=error)}


def gpu(**changes: object) -> dict[str, Probe]:
    data = {'cuda': '13.0', 'gpus': ['NVIDIA H100'], **changes}
    return {'torch': Probe(data=data)}


@pytest.mark.parametrize('versions', [FORKS, ORIGINALS], ids=['forks', 'originals'])
def test_healthy_environment_has_no_problems(versions: dict[str, str]) -> None:
    found = facts(versions)
    assert diagnose(found) == []
    assert report(found, []).endswith('No problems found.')


# facts, level, a piece of what is said, a piece of the cure
CASES = {
    'old python': (facts(python=(3, 9, 1)), 'error', '3.9.1 is too old', 'PYTHON='),
    'no torch': (
        facts(without=('torch',)),
        'error',
        'torch is not installed',
        'pip install torch torchvision',
    ),
    'old torch': (
        facts({**ORIGINALS, 'torch': '1.13.1', 'torchvision': '0.14.1'}),
        'error',
        'torch 1.13.1 is too old',
        'pip install torch',
    ),
    'other torchvision': (
        facts({**FORKS, 'torchvision': '0.25.0'}, made_for='2.10.0'),
        'error',
        'torchvision 0.25.0 does not belong to torch 2.11.0, it was made for 2.10.0',
        '--force-reinstall torch==2.11.0 torchvision',
    ),
    'torchvision without its operators': (
        facts(
            {**FORKS, 'torch': '2.13.0+cpu', 'torchvision': '0.28.0'},
            probes=failing(
                'torchvision',
                'RuntimeError: operator torchvision::nms does not exist',
            ),
        ),
        'error',
        'torchvision 0.28.0 does not belong to torch 2.13.0+cpu',
        '--force-reinstall torch==2.13.0 torchvision',
    ),
    'no torchvision': (
        facts(without=('torchvision',)),
        'error',
        'torchvision is not installed',
        'torch==2.11.0 torchvision',
    ),
    'no libGL': (
        facts(
            probes=failing(
                'cv2',
                'ImportError: libGL.so.1: cannot open shared object file: No such file',
            )
        ),
        'error',
        'libGL.so.1',
        '--force-reinstall --no-deps opencv-python-headless==4.12.0.88',
    ),
    'two opencvs': (
        facts({**FORKS, 'opencv-python': '4.13.0.90'}),
        'warning',
        'different versions',
        'opencv-python-headless==4.13.0.90',
    ),
    'mixed families': (
        facts({**FORKS, 'mmdet': '3.3.0'}),
        'error',
        'families are mixed: mmdet with onedl-mmengine',
        'pip uninstall --yes mmdet onedl-mmengine onedl-mmcv',
    ),
    'no mmengine': (
        facts(without=('onedl-mmengine',)),
        'error',
        'onedl-mmengine is not installed',
        "pip install 'onedl-mmengine>=0.10.8'",
    ),
    'mmcv without operators': (
        facts(
            probes=failing(
                'mmcv.ops', "ModuleNotFoundError: No module named 'mmcv._ext'"
            )
        ),
        'error',
        'installed without its operators',
        '--no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv',
    ),
    'mmcv for another torch': (
        facts(
            ORIGINALS,
            probes=failing('mmcv.ops', 'ImportError: _ext.so: undefined symbol: _ZN2'),
        ),
        'error',
        'undefined symbol',
        'mmcv==2.1.0',
    ),
    'mmcv too new for mmdet': (
        facts({**ORIGINALS, 'mmcv': '2.2.0'}),
        'error',
        'mmcv 2.2.0 does not fit, mmdet needs mmcv>=2.1,<2.2',
        "--no-deps 'mmcv>=2.1,<2.2'",
    ),
    'no mmcv for mmdet': (
        facts(without=('onedl-mmcv',)),
        'error',
        'onedl-mmcv is not installed, mmdet needs it',
        "'onedl-mmcv>=2.3'",
    ),
    'pycocotools with a bug': (
        facts({**FORKS, 'pycocotools': '2.0.10'}),
        'error',
        'pycocotools 2.0.10 does not fit, mmdet needs pycocotools>=2.0.11',
        "'pycocotools>=2.0.11'",
    ),
    'no pycocotools': (
        facts(without=('pycocotools',)),
        'error',
        'pycocotools is not installed',
        "'pycocotools>=2.0.11'",
    ),
    'no ftfy': (
        facts(without=('ftfy',)),
        'error',
        'ftfy is not installed, mmseg needs it',
        'pip install ftfy',
    ),
    'no timm': (
        facts(without=('timm',)),
        'error',
        'timm is not installed',
        'pip install timm',
    ),
    'new python': (
        facts(python=(3, 99, 0)),
        'warning',
        'Python 3.99.0 is newer than what is tested',
        'PYTHON=',
    ),
    'old fork': (
        facts({**FORKS, 'onedl-mmengine': '0.10.7'}),
        'error',
        'onedl-mmengine 0.10.7 does not fit, mmengine needs onedl-mmengine>=0.10.8',
        "'onedl-mmengine>=0.10.8'",
    ),
    'full disk': (facts(free=10**9), 'warning', 'only 1.0 GB are free', 'df -h'),
    'pip that installs elsewhere': (
        facts(elsewhere=('/etc/pip.conf',)),
        'warning',
        'as /etc/pip.conf says',
        'PIP_CONFIG_FILE=/dev/null',
    ),
    'unused gpu': (facts(driver=True), 'warning', 'finds no GPU', 'nvidia-smi'),
    'mmcv for the CPU beside a gpu': (
        facts(probes=gpu()),
        'error',
        'compiled for the CPU only',
        'onedl-mmcv==2.3.6',
    ),
    'unknown failure': (
        facts(probes=failing('mmseg', 'TypeError: something new')),
        'error',
        'mmseg cannot be imported: TypeError: something new',
        'VENV=',
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_problem_is_found_with_its_cure(case: str) -> None:
    found, level, text, cure = CASES[case]
    problems = diagnose(found)
    assert len(problems) == 1
    assert problems[0].level == level
    assert text in problems[0].text
    assert cure in problems[0].cure


@pytest.mark.parametrize('case', CASES)
def test_report_fits_80_columns_and_cure_can_be_copied(case: str) -> None:
    found = CASES[case][0]
    problems = diagnose(found)
    lines = report(found, problems).splitlines()
    assert max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.startswith('cure:'))
    end = lines.index('', start)
    copied = '\n'.join(lines[start:end]).removeprefix('cure:')
    # What a shell makes of the broken lines is the command itself.
    told = subprocess.run(
        ['sh', '-c', f'printf "%s\\n" {copied.split("&&")[0]}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        told.stdout.split() == problems[0].cure.split('&&')[0].replace("'", '').split()
    )


def test_backbone_alone_is_only_a_warning() -> None:
    only = {k: v for k, v in FORKS.items() if not k.startswith('onedl')}
    found = facts({**only, 'onedl-mmengine': '0.10.12'}, probes={})
    found = replace(found, probes={'torch': PROBES['torch']})
    assert [p.level for p in diagnose(found)] == ['warning']


def test_one_cause_is_told_once() -> None:
    broken = {
        name: Probe(error='OSError: libtorch.so: cannot open shared object file')
        for name in ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmcv.ops')
    }
    problems = diagnose(facts(probes=broken))
    assert [problem.about for problem in problems] == ['torch']


def test_errors_come_before_warnings() -> None:
    found = facts(without=('timm',), free=0)
    levels = [problem.level for problem in diagnose(found)]
    assert levels == ['error', 'warning']


@pytest.mark.parametrize(
    ('text', 'elsewhere'),
    [
        ('[global]\ntarget = /opt/lib\n', True),
        ('[install]\nuser = true\n', True),
        ('[install]\nuser = false\n', False),
        ('[global]\nindex-url = https://example.org/user=1\n', False),
    ],
)
def test_pip_that_installs_elsewhere(tmp_path, text: str, elsewhere: bool) -> None:
    (tmp_path / 'pip.conf').write_text(text)
    assert checks.installs_elsewhere(tmp_path / 'pip.conf') is elsewhere


def test_probe_goes_on_behind_a_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        'json': 'data = dict(a=1)',
        're': 'raise ImportError("broken here")',
        'os': 'os = __import__("os"); os.kill(os.getpid(), 9)',
        'sys': 'print("noise"); data = dict(b=2)',
        'absent_module': 'data = dict(c=3)',
    }
    monkeypatch.setattr(checks, 'PROBES', steps)
    assert probe_all() == {
        'json': Probe(data={'a': 1}),
        're': Probe(error='ImportError: broken here'),
        'os': Probe(error='crashed with signal 9'),
        'sys': Probe(data={'b': 2}),
    }


@pytest.mark.parametrize(
    ('requirements', 'torch'),
    [
        (['numpy', 'torch (==2.11.0)', 'pillow'], '2.11.0'),
        (['torch==2.1.2'], '2.1.2'),
        (['torch>=2.14.0'], ''),
        (['torchdata==0.9'], ''),
        ([], ''),
    ],
)
def test_torch_that_torchvision_names(requirements: list[str], torch: str) -> None:
    assert checks.pinned_torch(requirements) == torch


@pytest.mark.slow
@pytest.mark.long
def test_this_environment_can_train() -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'mmpoolformer.doctor', '--json'],
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)
    errors = [p for p in told['problems'] if p['level'] == 'error']
    assert errors == []
    assert done.returncode == 0
    assert told['facts']['python'] == list(sys.version_info[:3])


def test_bare_python_is_told_what_is_missing(tmp_path: Path) -> None:
    # -S -I: no site-packages at all; the package is found through the path alone.
    bare = tmp_path / 'python'
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    root = Path(mmpoolformer.__file__).parent.parent
    code = (
        f'import sys; sys.path.insert(0, {str(root)!r}); sys.executable = {str(bare)!r}'
        '\nfrom mmpoolformer.doctor import main; sys.exit(main([]))'
    )
    done = subprocess.run([bare, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ''
    assert 'torch is not installed' in done.stdout
    assert 'mmengine is not installed' in done.stdout
    assert 'training would stop.' in done.stdout
