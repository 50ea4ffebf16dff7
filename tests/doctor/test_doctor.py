import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mmpoolformer import doctor
from mmpoolformer.doctor import Facts, Probe

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
    **{name: Probe() for name in doctor.PROBES},
    'torch': Probe(data={'cuda': '13.0', 'gpus': [], 'threads': 2}),
    'mmcv.ops': Probe(data={'cuda': 'not available'}),
    'cv2': Probe(data={'version': '4.12.0', 'headless': True}),
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
        providers={'mmengine': ['onedl-mmengine']},
        probes={**PROBES, **(probes or {})},
        cores=2,
    )
    return replace(healthy, **changes)


def failing(name: str, error: str) -> dict[str, Probe]:
    return {name: Probe(error=error)}


def gpu(**changes: object) -> dict[str, Probe]:
    data = {'cuda': '13.0', 'gpus': ['NVIDIA H100'], 'threads': 2, **changes}
    return {'torch': Probe(data=data)}


@pytest.mark.parametrize('versions', [FORKS, ORIGINALS], ids=['forks', 'originals'])
def test_healthy_environment_has_no_problems(versions: dict[str, str]) -> None:
    found = facts(versions)
    assert doctor.diagnose(found) == []
    assert doctor.report(found, []).endswith('No problems found.')


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
    'numpy 2 beside old torch': (
        facts({**ORIGINALS, 'numpy': '2.0.1'}),
        'error',
        'torch 2.1.2 was built before numpy 2',
        "'numpy<2' 'opencv-python-headless<4.12'",
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
        'mmengine is not installed',
        'pip install onedl-mmengine',
    ),
    'old mmengine on new torch': (
        facts({**ORIGINALS, 'torch': '2.6.0', 'torchvision': '0.21.0'}),
        'error',
        'mmengine 0.10.7 fails on torch 2.6',
        'STACK=originals',
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
        'refuses mmcv 2.2.0',
        'mmcv==2.1.0',
    ),
    'no mmcv for mmdet': (
        facts(without=('onedl-mmcv',)),
        'error',
        'mmcv is not installed and mmdet and mmseg cannot run',
        'onedl-mmcv',
    ),
    'pycocotools with a bug': (
        facts({**FORKS, 'pycocotools': '2.0.10'}),
        'error',
        'pycocotools 2.0.10 raises KeyError',
        "'pycocotools>=2.0.11'",
    ),
    'no pycocotools': (
        facts(without=('pycocotools',)),
        'error',
        'pycocotools is not installed',
        "'pycocotools>=2.0.11'",
    ),
    'no ftfy': (
        facts(without=('ftfy', 'regex')),
        'error',
        'mmseg imports ftfy and regex',
        'pip install ftfy regex',
    ),
    'new setuptools': (
        facts({**ORIGINALS, 'setuptools': '82.0.0'}),
        'error',
        'setuptools had until 81; it is 82.0.0 here',
        "'setuptools<80'",
    ),
    'no setuptools': (
        facts(ORIGINALS, without=('setuptools',)),
        'error',
        'it is missing here',
        "'setuptools<80'",
    ),
    'no timm': (
        facts(without=('timm',)),
        'error',
        'timm is not installed',
        'pip install timm',
    ),
    'unused gpu': (facts(driver=True), 'warning', 'finds no GPU', 'nvidia-smi'),
    'mmcv for the CPU beside a gpu': (
        facts(probes=gpu()),
        'error',
        'compiled for the CPU only',
        'onedl-mmcv==2.3.6',
    ),
    'one thread': (
        facts(probes=gpu(gpus=[], threads=1)),
        'warning',
        '1 thread of 2 cores',
        'unset OMP_NUM_THREADS',
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
    problems = doctor.diagnose(found)
    assert len(problems) == 1
    assert problems[0].level == level
    assert text in problems[0].text
    assert cure in problems[0].cure


@pytest.mark.parametrize('case', CASES)
def test_report_fits_80_columns_and_cure_can_be_copied(case: str) -> None:
    found = CASES[case][0]
    problems = doctor.diagnose(found)
    lines = doctor.report(found, problems).splitlines()
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
    assert [p.level for p in doctor.diagnose(found)] == ['warning']


def test_one_cause_is_told_once() -> None:
    broken = {
        name: Probe(error='OSError: libtorch.so: cannot open shared object file')
        for name in ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmcv.ops')
    }
    problems = doctor.diagnose(facts(probes=broken))
    assert [problem.about for problem in problems] == ['torch']


def test_errors_come_before_warnings() -> None:
    found = facts(without=('timm',), probes=gpu(gpus=[], threads=1))
    levels = [problem.level for problem in doctor.diagnose(found)]
    assert levels == ['error', 'warning']


def test_probe_goes_on_behind_a_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        'json': 'told = dict(a=1)',
        're': 'raise ImportError("broken here")',
        'os': 'os = __import__("os"); os.kill(os.getpid(), 9)',
        'sys': 'print("noise"); told = dict(b=2)',
        'absent_module': 'told = dict(c=3)',
    }
    monkeypatch.setattr(doctor, 'PROBES', steps)
    assert doctor.probe_all() == {
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
    assert doctor.pinned_torch(requirements) == torch


def test_cpu_is_read_from_the_list_of_processors(tmp_path) -> None:
    source = tmp_path / 'cpuinfo'
    source.write_text(
        'processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_bf16\n'
    )
    name, features = doctor.read_cpu(source)
    assert name == 'Some CPU'
    assert features == ('AVX2', 'AVX-512', 'AMX bf16')


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


def test_bare_python_is_told_what_is_missing() -> None:
    # -S -I: no site-packages at all; the package is found through the path alone.
    root = doctor.Path(doctor.__file__).parent.parent
    code = (
        f'import sys; sys.path.insert(0, {str(root)!r}); '
        'from mmpoolformer.doctor import main; sys.exit(main([]))'
    )
    done = subprocess.run(
        [sys.executable, '-S', '-I', '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ''
    assert 'torch is not installed' in done.stdout
    assert 'mmengine is not installed' in done.stdout
    assert 'training would stop.' in done.stdout
