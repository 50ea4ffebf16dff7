import ast
import importlib.util
import io
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / 'tools' / 'setup_env.py'
PINS = """\
# a comment
pip==26.0
setuptools==81.0.0
numpy==2.2.6
torch==2.11.0
torchvision==0.26.0
opencv-python-headless==4.12.0.88
onedl-mmcv==2.3.6
timm==1.0.31
pytest==9.0.0
"""


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('setup_env', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple:
    """A repository with pins of its own and no environment yet."""
    root = tmp_path / 'repository'
    (root / 'requirements').mkdir(parents=True)
    (root / 'requirements' / 'forks.txt').write_text(PINS)
    (root / 'setup.py').write_text('# requirements')
    monkeypatch.setattr(tool, 'ROOT', root)
    monkeypatch.setattr(tool, 'check_disk', lambda needs, free: None)
    return tool.Place(tool.STACKS['forks'], tmp_path / 'venv')


class FakeRun:
    """Notes the commands; makes a Python where a venv is asked for."""

    def __init__(self, fail_at: Callable[[str], bool] = lambda line: False) -> None:
        self.lines: list[str] = []
        self.extras: list[dict[str, str]] = []
        self.fail_at = fail_at

    def __call__(self, command: list[str], extra: dict[str, str]) -> None:
        line = ' '.join(command[1:])
        self.lines.append(line)
        self.extras.append(extra)
        if self.fail_at(line):
            raise tool.SetupError(f'failed at {line}')
        if line.startswith('-m venv'):
            python = Path(command[-1], 'bin', 'python')
            python.parent.mkdir()
            python.symlink_to(sys.executable)

    def count(self, piece: str) -> int:
        return sum(piece in line for line in self.lines)


def run_tool(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def assert_one_error_line(done: subprocess.CompletedProcess, *pieces: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1
    for piece in pieces:
        assert piece in done.stderr


def old_pythons() -> list[str]:
    """Interpreters too old for us, from the path and from pyenv."""
    names = [f'python3.{minor}' for minor in range(6, 10)]
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'), 'versions')
    managed = [str(p) for n in names for p in pyenv.glob(f'*/bin/{n}')]
    return [name for name in [*managed, *names] if runs(name)]


def runs(python: str) -> bool:
    try:
        done = subprocess.run([python, '-c', ''], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


# ------------------------------------------------------------------- preflight


def test_syntax_is_read_by_python_3_6() -> None:
    tree = ast.parse(TOOL.read_text(), feature_version=(3, 6))
    imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert '__future__' not in imported  # annotations: a SyntaxError before 3.7


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse(TOOL.read_text())
    names = {
        a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    }
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split('.')[0] for name in names} <= sys.stdlib_module_names


def test_old_python_is_told_in_one_line() -> None:
    pythons = old_pythons()
    if not pythons:
        pytest.skip('no Python older than 3.10 on this machine')
    for python in pythons:
        done = subprocess.run([python, str(TOOL)], capture_output=True, text=True)
        assert_one_error_line(done, 'Python 3.10 or newer is needed', 'PYTHON=')


def test_python_too_new_for_the_originals() -> None:
    with pytest.raises(tool.SetupError, match=r'3\.12 is too new .*PYTHON=python3\.11'):
        tool.check_python((3, 12), tool.STACKS['originals'])
    tool.check_python((3, 12), tool.STACKS['forks'])


def test_python_without_venv() -> None:
    def find(name: str) -> object:
        return None if name == 'ensurepip' else object()

    with pytest.raises(tool.SetupError, match=r'no module ensurepip.*python3\.11-venv'):
        tool.check_modules((3, 11), find)


def test_missing_compiler_stops_before_anything_is_made(tmp_path: Path) -> None:
    venv = tmp_path / 'venv'
    done = run_tool('--venv', str(venv), PATH=str(tmp_path), CXX='')
    assert_one_error_line(done, 'no C++ compiler (c++) found', 'build-essential')
    assert not venv.exists()


@pytest.mark.parametrize(
    ('said', 'told'),
    [
        ('small.cpp:1:10: fatal error: Python.h: No such file or directory', '-dev'),
        ("small.cpp:1:10: fatal error: 'Python.h' file not found", '-dev'),
        ('c++: error: unrecognized option -std=c++17', 'unrecognized option'),
    ],
)
def test_compiler_that_fails(tmp_path: Path, said: str, told: str) -> None:
    compiler = tmp_path / 'c++'
    compiler.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    compiler.chmod(0o755)
    done = run_tool('--venv', str(tmp_path / 'venv'), CXX=str(compiler))
    assert_one_error_line(done, told)
    assert not (tmp_path / 'venv').exists()


def test_real_compiler_passes() -> None:
    tool.check_compiler(sys.version_info[:2], sysconfig.get_path('include'))


def test_full_disk_is_told_with_what_is_needed(tmp_path: Path) -> None:
    needs = {tmp_path: 6.0, tmp_path.parent: 3.0}
    with pytest.raises(
        tool.SetupError, match=r'9\.0 GB free .* there are 8\.9; .*VENV='
    ):
        tool.check_disk(needs, free=lambda folder: 8.9e9)
    tool.check_disk(needs, free=lambda folder: 9.1e9)


def test_disk_needs_shrink_with_what_is_done(place: tuple) -> None:
    def needs(*stages: str) -> float:
        return sum(tool.disk_needs(place, list(stages), cached=False).values())

    assert needs('venv', 'torch', 'mmcv', 'rest') > needs('mmcv', 'rest') + 5
    # Downloads of torch are gone when the next stage begins.
    assert needs('torch', 'proof') == needs('torch')
    assert needs('proof') == 0


def test_little_room_does_without_pips_cache(
    place: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # check_disk is the real one here
    monkeypatch.delenv('PIP_NO_CACHE_DIR', raising=False)
    stages = ['venv', 'torch', 'mmcv', 'rest']
    bare = sum(tool.disk_needs(place, stages, cached=False).values())
    full = sum(tool.disk_needs(place, stages, cached=True).values())
    assert full > bare + 3
    assert tool.room_for_cache(place, stages, lambda folder: (full + 0.1) * 1e9)
    assert not tool.room_for_cache(place, stages, lambda folder: (full - 0.1) * 1e9)
    with pytest.raises(tool.SetupError, match='make room'):
        tool.room_for_cache(place, stages, lambda folder: (bare - 0.1) * 1e9)
    monkeypatch.setenv('PIP_NO_CACHE_DIR', '1')
    assert not tool.room_for_cache(place, stages, lambda folder: (full + 9) * 1e9)


def test_set_up_tells_of_no_cache_and_passes_it_to_pip(
    place: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def runner(log: Path, stream: io.StringIO, variables: dict) -> FakeRun:
        given.update(variables)
        return FakeRun()

    monkeypatch.setattr(tool, 'preflight', lambda place, pending: False)
    monkeypatch.setattr(tool, 'Runner', runner)
    stream = io.StringIO()
    tool.set_up(place, stream)
    assert given == {'PIP_NO_CACHE_DIR': '1'}
    assert 'pip keeps no copies' in stream.getvalue()


def test_variables_reach_every_command(tmp_path: Path) -> None:
    run = tool.Runner(tmp_path / 'log', io.StringIO(), {'PIP_NO_CACHE_DIR': '1'})
    run([sys.executable, '-c', 'import os; print(os.environ["PIP_NO_CACHE_DIR"], "!")'])
    assert '\n1 !\n' in (tmp_path / 'log').read_text()


def test_folder_with_somebodys_work_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('all of it')
    done = run_tool('--venv', str(tmp_path))
    assert_one_error_line(done, 'not a virtual environment', 'VENV=')
    assert (tmp_path / 'thesis.tex').read_text() == 'all of it'


def test_file_in_place_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / 'venv').write_text('')
    done = run_tool('--venv', str(tmp_path / 'venv'))
    assert_one_error_line(done, 'is a file')


def test_broken_environment_of_somebody_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / 'pyvenv.cfg').write_text('version = 3.11.7\n')
    with pytest.raises(tool.SetupError, match='does not run; remove it'):
        tool.check_folder(tmp_path)
    assert (tmp_path / 'pyvenv.cfg').exists()


@pytest.mark.parametrize(
    ('stack', 'there', 'fits'),
    [
        ('forks', 'mmengine-0.10.7', False),
        ('forks', 'mmsegmentation-1.2.2', False),
        ('forks', 'onedl_mmengine-0.10.12', True),
        ('originals', 'onedl_mmcv-2.3.6', False),
        ('originals', 'mmdet-3.3.0', True),
        ('forks', 'mmpoolformer-0.1.0', True),
        ('originals', 'mmpoolformer-0.1.0', True),
    ],
)
def test_families_are_never_mixed(
    tmp_path: Path, stack: str, there: str, fits: bool
) -> None:
    (tmp_path / 'lib/python3.11/site-packages' / f'{there}.dist-info').mkdir(
        parents=True
    )
    place = tool.Place(tool.STACKS[stack], tmp_path)
    if fits:
        tool.check_family(place)
    else:
        with pytest.raises(tool.SetupError, match=f'holds {there}, which does not go'):
            tool.check_family(place)


def test_version_of_an_environment_counts(tmp_path: Path) -> None:
    (tmp_path / 'pyvenv.cfg').write_text('home = /usr\nversion = 3.12.1\n')
    found = tool.Place(tool.STACKS['originals'], tmp_path)
    assert tool.environment_version(found) == (3, 12)
    with pytest.raises(tool.SetupError, match='too new for the originals'):
        tool.preflight(found, [])


def test_check_only_changes_nothing(tmp_path: Path) -> None:
    done = run_tool('--check-only', '--venv', str(tmp_path / 'venv'))
    # Whether this machine has the room or not: nothing is made.
    assert done.stdout.count('to do') == len(tool.STAGES)
    assert not (tmp_path / 'venv').exists()


# ---------------------------------------------------------------------- stages


def test_everything_is_done_once_and_in_order(place: tuple) -> None:
    first, stream = FakeRun(), io.StringIO()
    tool.set_up(place, stream, first)
    order = [
        '-m venv',
        'ninja',
        'torch torchvision',
        'onedl-mmcv',
        '[all,dev]',
        'check',
    ]
    found = [next(i for i, x in enumerate(first.lines) if o in x) for o in order]
    assert found == sorted(found)
    assert '[3/6] torch and torchvision' in stream.getvalue()

    second, stream = FakeRun(), io.StringIO()
    tool.set_up(place, stream, second)
    assert second.lines == []
    assert stream.getvalue() == f'{place.venv} is set up (forks)\n'


def test_every_install_is_pinned_and_sees_the_torch_that_is_there(place: tuple) -> None:
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    installs = [line for line in run.lines if '-m pip install' in line]
    assert len(installs) >= 5
    for line in installs:
        assert f'-c {place.stack.pins}' in line
        assert '--no-build-isolation' in line


def test_headless_opencv_is_unpacked_last(place: tuple) -> None:
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    plain = next(i for i, line in enumerate(run.lines) if 'opencv-python numpy' in line)
    assert '--force-reinstall --no-deps opencv-python-headless' in run.lines[plain + 1]


def test_interrupted_run_goes_on_where_it_stopped(place: tuple) -> None:
    def stop(line: str) -> bool:
        return line.endswith('onedl-mmcv')

    with pytest.raises(tool.SetupError, match='failed at'):
        tool.set_up(place, io.StringIO(), FakeRun(stop))
    again, stream = FakeRun(), io.StringIO()
    tool.set_up(place, stream, again)
    assert again.lines[0].endswith('onedl-mmcv')
    assert 'torchvision (2 to 3 minutes, 5 GB): done before' in stream.getvalue()


def change_pin(place: tuple, old: str, new: str) -> FakeRun:
    tool.set_up(place, io.StringIO(), FakeRun())
    place.stack.pins.write_text(PINS.replace(old, new))
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    return run


def test_changed_pin_of_a_small_package_repeats_the_last_stages(place: tuple) -> None:
    run = change_pin(place, 'pytest==9.0.0', 'pytest==9.1.0')
    assert '[all,dev]' in run.lines[0]
    assert run.count('mmcv -v') == 0


def test_changed_torch_builds_mmcv_again_without_the_cache(place: tuple) -> None:
    run = change_pin(place, 'torch==2.11.0', 'torch==2.10.0')
    built = next(line for line in run.lines if line.endswith('onedl-mmcv'))
    assert '--no-cache-dir --force-reinstall --no-deps' in built


def test_comment_in_the_pins_changes_nothing(place: tuple) -> None:
    run = change_pin(place, '# a comment', '# another comment')
    assert run.lines == []


def test_changed_requirements_of_the_package_are_installed(place: tuple) -> None:
    tool.set_up(place, io.StringIO(), FakeRun())
    (tool.ROOT / 'setup.py').write_text('# more requirements')
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    assert '[all,dev]' in run.lines[0]


def test_package_of_a_moved_repository_is_installed_again(
    place: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.set_up(place, io.StringIO(), FakeRun())
    moved = tool.ROOT.with_name('moved')
    tool.ROOT.rename(moved)
    monkeypatch.setattr(tool, 'ROOT', moved)
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    assert f'{moved}[all,dev]' in run.lines[0]


def test_cached_mmcv_for_another_torch_is_built_again(place: tuple) -> None:
    proofs = []

    def first_proof_fails(line: str) -> bool:
        proofs.extend([line] if line == f'-c {tool.PROVE_MMCV}' else [])
        return proofs == [line]

    run = FakeRun(first_proof_fails)
    tool.set_up(place, io.StringIO(), run)
    builds = [line for line in run.lines if line.endswith('onedl-mmcv')]
    assert len(builds) == 2
    assert '--no-cache-dir' not in builds[0]
    assert '--no-cache-dir --force-reinstall --no-deps' in builds[1]


def test_mmcv_that_never_works_is_an_error_and_not_stamped(place: tuple) -> None:
    run = FakeRun(lambda line: 'mmcv.ops' in line)
    with pytest.raises(tool.SetupError, match='failed at'):
        tool.set_up(place, io.StringIO(), run)
    assert tool.pending_stages(place) == ['mmcv', 'rest', 'proof']


def test_mmcv_is_compiled_without_debug_information(place: tuple) -> None:
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    index = next(i for i, x in enumerate(run.lines) if x.endswith('onedl-mmcv'))
    assert run.extras[index]['CFLAGS'].endswith('-g0 -O2')
    mine = {'CFLAGS': '-march=native', 'MAX_JOBS': '1'}
    flags = tool.build_environment(mine, nvcc=True)
    assert flags == {'CFLAGS': '-march=native -g0 -O2', 'MAX_JOBS': '1'}


def test_gpu_is_hidden_from_mmcv_where_nothing_can_compile_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = tool.build_environment({}, nvcc=False)
    assert without['CUDA_VISIBLE_DEVICES'] == ''
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'nvcc').write_text('')
    assert tool.has_nvcc()


def test_environment_without_its_python_is_made_again(place: tuple) -> None:
    tool.set_up(place, io.StringIO(), FakeRun())
    place.python.unlink()
    run = FakeRun()
    tool.set_up(place, io.StringIO(), run)
    assert run.lines[0].startswith('-m venv')
    assert tool.pending_stages(place) == []


def test_half_installed_packages_are_dropped(tmp_path: Path) -> None:
    site = tmp_path / 'lib' / 'python3.11' / 'site-packages'
    for name, files in {
        'whole-1.0.dist-info': ['METADATA', 'RECORD'],
        'half-1.0.dist-info': ['METADATA'],
    }.items():
        (site / name).mkdir(parents=True)
        for file in files:
            (site / name / file).write_text('')
    assert tool.drop_half_installed(tmp_path) == ['half-1.0.dist-info']
    assert [p.name for p in site.iterdir()] == ['whole-1.0.dist-info']


def test_two_at_once_are_refused(place: tuple) -> None:
    with (
        tool.only_one(place),
        pytest.raises(tool.SetupError, match='another set-up is at work'),
        tool.only_one(place),
    ):
        pass
    with tool.only_one(place):
        assert True  # free again


# ---------------------------------------------------------------------- runner


def python_command(code: str) -> list[str]:
    return [sys.executable, '-c', code]


def test_runner_keeps_the_output_in_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    run = tool.Runner(tmp_path / 'notes' / 'log', stream)
    run(python_command('import os; print(os.environ["CFLAGS"])'), {'CFLAGS': '-g0'})
    assert '\n-g0\n' in (tmp_path / 'notes' / 'log').read_text()
    assert stream.getvalue() == ''


def test_temporary_files_lie_beside_the_environment(place: tuple) -> None:
    class Proof(FakeRun):
        def __call__(self, command: list[str], extra: dict[str, str]) -> None:
            super().__call__(command, extra)
            if command[-1] == 'check':
                real = tool.Runner(place.log)
                code = (
                    'import tempfile; tempfile.mkstemp(); print(tempfile.gettempdir())'
                )
                real(python_command(code))
                assert list((place.notes / 'tmp').iterdir())

    tool.set_up(place, io.StringIO(), Proof())
    assert f'\n{place.notes.resolve() / "tmp"}\n' in place.log.read_text()
    assert not (place.notes / 'tmp').exists()  # what was left there is gone


def test_runner_shows_the_end_of_the_log_and_the_cure(tmp_path: Path) -> None:
    stream = io.StringIO()
    run = tool.Runner(tmp_path / 'log', stream)
    code = (
        'import sys; print("earlier\\n" * 40); '
        'sys.exit("ERROR: OSError: No space left on device")'
    )
    with pytest.raises(
        tool.SetupError, match=r'the disk is full.*whole log: '
    ) as error:
        run(python_command(code))
    assert '\n' not in str(error.value)
    assert 'No space left on device' in stream.getvalue()
    assert stream.getvalue().count('earlier') < 15


def test_runner_gives_signs_of_life(tmp_path: Path) -> None:
    stream = io.StringIO()
    run = tool.Runner(tmp_path / 'log', stream, every=0.0)
    code = 'import time; print("[7/77] c++ a.o -c a.cpp", flush=True); time.sleep(2.5)'
    run(python_command(code))
    assert 'compiled 7 of 77 files' in stream.getvalue()


def test_stop_reaches_the_children_of_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, child: subprocess.Popen) -> None:
        while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(tool.Runner, 'watch', interrupted)
    run = tool.Runner(tmp_path / 'log')
    with pytest.raises(KeyboardInterrupt):
        # The shell's background child ignores Ctrl-C.
        run(['sh', '-c', f'sleep 60 & echo $! > {tmp_path / "pid"}; wait'])
    pid = int((tmp_path / 'pid').read_text())
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_pip_settings_of_the_user_stay_and_leaks_do_not() -> None:
    mine = {'PIP_INDEX_URL': 'file:///mirror', 'PYTHONPATH': '/old', 'PIP_USER': '1'}
    given = tool.child_environment(mine, {'CFLAGS': '-g0'})
    assert given['PIP_INDEX_URL'] == 'file:///mirror'
    assert given['CFLAGS'] == '-g0'
    assert not {'PYTHONPATH', 'PIP_USER'} & set(given)


@pytest.mark.parametrize(
    ('said', 'cure'),
    [
        ('OSError: [Errno 28] No space left on device', 'free some space'),
        ('NewConnectionError: Temporary failure in name resolution', 'network'),
        ('ERROR: No matching distribution found for torch==9', 'for this Python'),
        ('c++: fatal error: Killed signal terminated program', 'MAX_JOBS=1'),
        ('something never seen', 'goes on where it stopped'),
    ],
)
def test_failures_of_pip_have_a_cure(said: str, cure: str) -> None:
    assert cure in tool.find_cure(said)


@pytest.mark.parametrize(
    ('seconds', 'text'), [(8.4, '8 s'), (60, '1 min 00 s'), (754.6, '12 min 35 s')]
)
def test_durations(seconds: float, text: str) -> None:
    assert tool.span(seconds) == text
