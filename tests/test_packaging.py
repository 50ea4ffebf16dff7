import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import setuptools
import yaml
from mmengine.config import Config
from PIL import Image

from mmpoolformer.utils import paths
from mmpoolformer.utils.paths import config_path, list_configs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ('mmpoolformer', 'configs', 'tools', 'requirements', 'tests', 'docs')
IMPORTED = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
METAFILES = [yaml.safe_load((ROOT / name).read_text()) for name in IMPORTED]
MODELS = [model for metafile in METAFILES for model in metafile['Models']]
COLLECTIONS = [one['Name'] for file in METAFILES for one in file.get('Collections', [])]

# Read by a process in another folder: the names of all configs, and the published ones
# of the smallest size.
LOAD_ALL = """
import json
from mmengine.config import Config
import mmpoolformer
from mmpoolformer.utils.paths import config_path, list_configs
files = {name: config_path(name) for name in list_configs()}
published = ('_1x_coco.py', '_40k.py', '_in1k.py')
some = [n for n in files if 'poolformer_s12' in n and n.endswith(published)]
texts = {name: repr(Config.fromfile(files[name]).to_dict()) for name in some}
paths = {name: str(path) for name, path in files.items()}
told = dict(package=mmpoolformer.__file__, paths=paths, configs=texts)
print('@' + json.dumps(told))
"""


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the repository."""
    target = tmp_path_factory.mktemp('source')
    for name in SHIPPED:
        shutil.copytree(
            ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__')
        )
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, target)
    return target


@pytest.fixture(scope='module')
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp('wheel')
    pip('wheel', '--no-build-isolation', '-w', str(target), str(source))
    return next(target.glob('mmpoolformer-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp('site')
    pip('install', '--target', str(target), str(wheel))
    return target


@pytest.fixture(scope='module')
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the configs for one's own data read class names from."""
    root = tmp_path_factory.mktemp('data')
    (root / 'annotations').mkdir()
    for part in ('train', 'val'):
        text = json.dumps({'categories': [{'id': 1, 'name': 'cup'}]})
        (root / 'annotations' / f'{part}.json').write_text(text)
    (root / 'classes.txt').write_text('cup\n')
    for part in ('train', 'val'):
        (root / part / 'cup').mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(root / part / 'cup' / '0.png')
    return root


def pip(command: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, '-m', 'pip', command, '-q', '--no-deps', *arguments],
        check=True,
        capture_output=True,
    )


def under(folder: Path, names: list[str]) -> set[str]:
    return {
        file.relative_to(ROOT).as_posix()
        for name in names
        for file in (folder / name).rglob('*')
        if file.is_file() and '__pycache__' not in file.parts
    }


# ------------------------------------------------------------------------ wheel


def test_wheel_carries_modules_configs_and_tools(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    carried = under(ROOT, ['configs', 'tools']) | {'model-index.yml'}
    assert {f'mmpoolformer/.mim/{name}' for name in carried} <= names
    modules = {name for name in under(ROOT, ['mmpoolformer']) if name.endswith('.py')}
    assert modules <= names
    tops = {name.split('/')[0] for name in names}
    assert all(top.startswith('mmpoolformer') for top in tops), tops


def test_installed_package_finds_and_loads_its_configs_from_anywhere(
    installed: Path,
    own_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('DATA_ROOT', str(own_data))
    done = subprocess.run(
        [sys.executable, '-c', LOAD_ALL],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    line = next(x for x in done.stdout.splitlines() if x.startswith('@'))
    told = json.loads(line[1:])
    assert Path(told['package']).is_relative_to(installed)
    # The repository's own files are the reference, reached without the package.
    root = ROOT / 'configs'
    here = {p.relative_to(root).as_posix(): p for p in root.rglob('*.py')}
    runnable = {name: p for name, p in here.items() if '_base_' not in name}
    assert set(told['paths']) == set(runnable)
    for name, path in told['paths'].items():
        assert Path(path).is_relative_to(installed)
        assert Path(path).read_bytes() == runnable[name].read_bytes()
    folders = {name.split('/')[0] for name in runnable}
    assert {name.split('/')[0] for name in told['configs']} == folders
    for name, text in told['configs'].items():
        assert text == repr(Config.fromfile(runnable[name]).to_dict())


def test_index_page_has_no_links_into_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        page = archive.read(name).decode()
    assert '# ' in page and 'make quickstart' in page
    targets = re.findall(r'\]\(([^)]*)\)', page)
    assert all(target.startswith('https://') for target in targets), targets


def test_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'sdist', '-d', str(tmp_path)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    archive = next(tmp_path.glob('*.tar.gz'))
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path)
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    pip('wheel', '--no-build-isolation', '-w', str(tmp_path), str(unpacked))
    assert (unpacked / 'CITATION.cff').is_file()
    tests = {path.name for path in (ROOT / 'tests').rglob('*.py')}
    assert tests <= {path.name for path in (unpacked / 'tests').rglob('*.py')}
    again = next(tmp_path.glob('*.whl'))
    names = zipfile.ZipFile(again).namelist()
    assert sorted(names) == sorted(zipfile.ZipFile(wheel).namelist())


# -------------------------------------------------------------- config_path


def test_clone_uses_its_own_folder() -> None:
    assert paths.config_root() == ROOT / 'configs'


@pytest.mark.parametrize('form', ['{}', 'configs/{}', '{}.py', 'configs/{}.py'])
def test_config_is_found_by_every_usual_name(form: str) -> None:
    name = 'detection/retinanet_poolformer_s12_fpn_1x_coco'
    found = config_path(form.format(name))
    assert found == ROOT / 'configs' / f'{name}.py'
    assert found.is_file()


def test_unknown_config_names_close_ones() -> None:
    close = 'detection/retinanet_poolformer_s12_fpn_1x_coco.py'
    with pytest.raises(ValueError, match=r"no config 'retinanet_s12_fpn'") as error:
        config_path('retinanet_s12_fpn')
    assert 'detection/retinanet_p' in str(error.value)
    with pytest.raises(ValueError, match=re.escape(close)):
        config_path('detection/retinanet_poolformer_s21_fpn_1x_coco.py')


def test_config_outside_the_folder_is_not_found() -> None:
    with pytest.raises(ValueError, match='no config'):
        config_path('../setup.py')


def test_parts_of_configs_are_not_listed() -> None:
    names = list_configs()
    assert 'detection/mask_rcnn_poolformer_s36_fpn_1x_coco.py' in names
    assert not [name for name in names if '_base_' in name]


def test_package_without_configs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, '_PACKAGE', tmp_path / 'mmpoolformer')
    with pytest.raises(FileNotFoundError, match='install the package anew'):
        paths.config_root()


# ------------------------------------------------------------- requirements


def requirements(
    monkeypatch: pytest.MonkeyPatch, site: Path, stack: str | None = None
) -> dict:
    """Run setup.py as if ``site`` were where packages are installed."""
    given: dict = {}
    monkeypatch.setattr(setuptools, 'setup', given.update)
    monkeypatch.setattr('sysconfig.get_path', lambda name: str(site))
    monkeypatch.delenv('MMPOOLFORMER_STACK', raising=False)
    if stack is not None:
        monkeypatch.setenv('MMPOOLFORMER_STACK', stack)
    runpy.run_path(str(ROOT / 'setup.py'))
    return given


def pretend_installed(site: Path, name: str, version: str) -> None:
    folder = site / f'{name}-{version}.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')


@pytest.mark.parametrize(
    ('there', 'chosen'),
    [
        (None, 'onedl-mmengine'),
        ('mmengine', 'mmengine'),
        ('onedl_mmengine', 'onedl-mmengine'),
    ],
)
def test_family_that_is_there_is_the_one_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None, chosen: str
) -> None:
    if there:
        pretend_installed(tmp_path, there, '0.10.9')
    given = requirements(monkeypatch, tmp_path)
    wanted = [*given['install_requires'], *given['extras_require']['all']]
    families = {re.match(r'[\w-]+', name)[0] for name in wanted}
    families = {name for name in families if re.match(r'(onedl-)?mm', name)}
    assert chosen in families
    assert len({name.startswith('onedl-') for name in families}) == 1


def test_family_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(tmp_path, 'onedl_mmengine', '0.10.12')
    given = requirements(monkeypatch, tmp_path, 'originals')
    assert any(name.startswith('mmengine') for name in given['install_requires'])
    with pytest.raises(ValueError, match=r"'orginals' names no family.*'forks'"):
        requirements(monkeypatch, tmp_path, 'orginals')


def test_backbone_needs_no_compiled_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = requirements(monkeypatch, tmp_path)
    names = {re.match(r'[\w-]+', x)[0] for x in given['install_requires']}
    assert {'torch', 'timm', 'onedl-mmengine'} <= names
    assert not {name for name in names if re.search('mmcv|mmdet|mmseg', name)}
    extras = {'det', 'seg', 'analysis', 'demo', 'export', 'onnx', 'openvino', 'int8'}
    assert set(given['extras_require']) == extras | {'all', 'dev', 'docs'}


@pytest.mark.parametrize(
    ('there', 'required'),
    [
        (None, 'opencv-python-headless'),
        ('opencv_python', 'opencv-python'),
        ('opencv_contrib_python', 'opencv-contrib-python'),
    ],
)
def test_opencv_that_is_there_is_the_one_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None, required: str
) -> None:
    if there:
        pretend_installed(tmp_path, there, '4.12.0.88')
    given = requirements(monkeypatch, tmp_path)['install_requires']
    assert [name for name in given if name.startswith('opencv')] == [required]


def test_every_import_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = requirements(monkeypatch, tmp_path)
    wanted = [*given['install_requires'], *given['extras_require']['all']]
    required = {re.match(r'[\w-]+', x)[0] for x in wanted}
    providers = packages_distributions()
    for name in third_party_imports():
        names = {x.lower().replace('_', '-') for x in providers[name]}
        assert names & required, f'{name} (of {names}) is imported and not required'


# Not ours to name: OpenCV has several packages, of which mmcv brings one; torch brings
# Triton where there is one, mmengine yapf for its configs; transformers and mmpretrain
# are peers in the benchmark, if installed; tifffile is what mmcv reads some images by,
# if a config says so; mlflow gets what `--log mlflow` sends.
ELSEWHERE = {'cv2', 'tifffile', 'triton', 'yapf'}
ELSEWHERE |= {'transformers', 'mmpretrain', 'mlflow'}


def third_party_imports() -> set[str]:
    found = set()
    for file in (ROOT / 'mmpoolformer').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split('.')[0])
    return found - set(sys.stdlib_module_names) - {'mmpoolformer'} - ELSEWHERE


def pins(stack: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (ROOT / 'requirements' / f'{stack}.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            exact = re.fullmatch(r'([\w-]+)==([\w.]+)( ; .+)?', line)
            assert exact, f'{line!r} is no exact pin'
            found.setdefault(exact[1], []).append(exact[2])
    return found


@pytest.mark.parametrize('stack', ['forks', 'originals'])
def test_pins_name_one_family_and_all_that_is_required(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = pins(stack)
    given = requirements(monkeypatch, tmp_path, stack)
    extras = given['extras_require']
    wanted = [*given['install_requires'], *extras['all'], *extras['dev']]
    names = {re.match(r'[\w-]+', requirement)[0] for requirement in wanted}
    assert names <= set(pinned)
    other = {'forks': {'mmengine', 'mmcv'}, 'originals': {'onedl-mmengine'}}[stack]
    assert not other & set(pinned)
    assert pinned['opencv-python'] == pinned['opencv-python-headless']


def test_pre_commit_uses_the_pinned_ruff() -> None:
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    used = {
        requirement
        for repository in hooks['repos']
        for hook in repository['hooks']
        for requirement in hook['additional_dependencies']
    }
    assert used == {f'ruff=={pins("forks")["ruff"][0]}'}
    assert pins('originals')['ruff'] == pins('forks')['ruff']


# -------------------------------------------------------------- model-index


def test_index_imports_every_metafile() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob('configs/*/metafile.yml')
    }
    assert set(IMPORTED) == found
    assert len(COLLECTIONS) == len(set(COLLECTIONS))


def test_index_lists_exactly_the_published_recipes() -> None:
    files = {model['Config'] for model in MODELS}
    heads = {path: head_of(path) for path in ROOT.glob('configs/*/*.py')}
    # What shows a single row of a study is no recipe of its own.
    published = [
        path
        for path, head in heads.items()
        if 'Published: ' in head and 'ablation' not in path.name
    ]
    assert files == {path.relative_to(ROOT).as_posix() for path in published}
    assert len(MODELS) == len(files) == 11 + 29 + 8


def head_of(path: Path) -> str:
    lines = path.read_text().splitlines()
    return ' '.join(line for line in lines if line.startswith('#'))


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model['Name'])
def test_index_agrees_with_the_head_of_the_config(model: dict) -> None:
    path = ROOT / model['Config']
    assert path.stem == model['Name']
    assert model['In Collection'] in COLLECTIONS
    head = head_of(path)
    assert f'{model["Metadata"]["Parameters"] / 1e6:.1f} M' in head
    for result in model['Results']:
        for metric, value in result['Metrics'].items():
            assert 30 < value < 90
            # 'box / mask AP 37.3 / 34.6' or 'mIoU 37.2'
            assert re.search(rf'\b{re.escape(str(value))}\b', head), (metric, head)
