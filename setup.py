"""Builds mmpoolformer; everything static about tools is in ``pyproject.toml``."""

import os
import re
import runpy
import shutil
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CARRIED = ('configs', 'tools', 'model-index.yml')

# A requirement cannot say "this or that" (PEP 508 has no "or"), so the OpenMMLab family
# and the OpenCV are chosen here, when the metadata is made, as mmcv itself chooses its
# OpenCV: what the environment has already stays. An empty environment gets the forks,
# which run on a current torch, and the OpenCV that runs on servers.
TABLE = runpy.run_path(str(ROOT / 'mmpoolformer' / 'stacks.py'))
STACKS, OPENCVS = TABLE['STACKS'], TABLE['OPENCVS']
FAMILY_VARIABLE = 'MMPOOLFORMER_STACK'

# Ranges, not pins: an existing environment stays as it is. 2.1 is the oldest torch
# that the tests run on (the originals stop at 2.1 for want of newer mmcv wheels and
# at 2.5 altogether). The exact, tested versions are in requirements/*.txt.
BACKBONE = [
    'torch>=2.1',
    'timm>=1.0',
    'filelock',
    'fvcore',
    'huggingface-hub',
    'matplotlib',
    'numpy',
    'pillow<13',  # 13 refuses the 0 bits that timm's RandAugment asks for
    'pooch>=1.8',
    'requests',
    'safetensors',
    'tqdm',
    'urllib3>=2',  # older ones take a truncated download for a whole one
]
# COCO's metrics as by pycocotools, in a tenth of the time.
DETECTION = ['faster-coco-eval>=1.8']
# For tools/gradcam.py.
ANALYSIS = ['grad-cam>=1.5', 'torchvision']
# For tools/demo.py and tools/export.py.
DEMO = ['gradio>=5', 'pydantic', 'python-multipart', 'starlette']
EXPORT = ['onnx>=1.16', 'onnxruntime>=1.17', 'onnxscript']
# To run exported files in place of checkpoints.
ONNX = ['onnxruntime>=1.17']
OPENVINO = ['openvino>=2024.4']
INT8 = [*OPENVINO, 'nncf>=2.14']
# For `make docs`, which the tests run.
DOCS = ['mkdocs-material>=9', 'mkdocstrings[python]>=0.26']
DEV = [
    *DOCS,
    'hypothesis',
    'import-linter',
    'ipykernel',
    'nbclient',
    'playwright',
    'psutil',
    'pytest>=7.0',
    'pytest-timeout',
    'pytest-xdist',
    'pyyaml',
    'ruff',
    'supervision',  # converts data of other formats
    'tensorboard',
    'webdataset',
]


def read_version() -> str:
    """Read the version without importing the package, which needs torch."""
    text = (ROOT / 'mmpoolformer' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '([^']+)'", text).group(1)


def installed_names() -> set:
    """Names of the distributions in the environment that is installed into.

    pip builds in a scratch environment that hides the real one from ``sys.path``
    but runs the same interpreter, so the real one is looked up by its folders.
    """
    folders = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
    names = (d.metadata['Name'] for d in distributions(path=sorted(folders)))
    return {name.lower().replace('_', '-') for name in names if name}


def choose_family() -> str:
    """Pick the OpenMMLab family that the requirements name.

    Returns:
        The variable ``MMPOOLFORMER_STACK`` if set (for build front ends that hide
        the target environment entirely), else the family found installed, else
        ``'forks'``.

    Raises:
        ValueError: if the variable names no family.
    """
    asked = os.environ.get(FAMILY_VARIABLE)
    if asked and asked not in STACKS:
        raise ValueError(
            f'{FAMILY_VARIABLE}={asked!r} names no family; set it to one of '
            f'{sorted(STACKS)} or unset it'
        )
    if asked:
        return asked
    return 'originals' if 'mmengine' in installed_names() else 'forks'


def choose_opencv() -> str:
    """Return the OpenCV that is required: what is there, or the headless one.

    mmengine imports ``cv2`` and does not require it.
    """
    there = installed_names()
    return next((name for name in OPENCVS if name in there), OPENCVS[0])


def requirements() -> tuple:
    """Return what the backbone requires and the extras, for the chosen family."""
    family = STACKS[choose_family()].requires
    extras = {
        'det': [*family['det'], *DETECTION],
        'seg': family['seg'],
        'analysis': ANALYSIS,
        'demo': DEMO,
        'export': EXPORT,
        'onnx': ONNX,
        'openvino': OPENVINO,
        'int8': INT8,
    }
    extras['all'] = sorted({name for names in extras.values() for name in names})
    extras |= {'dev': DEV, 'docs': DOCS}
    return [*BACKBONE, *family['engine'], choose_opencv()], extras


class BuildWithMim(build_py):
    """Carry configs and tools inside the package, as OpenMMLab packages do.

    They go to ``mmpoolformer/.mim/``. An editable install uses the repository's
    own folders instead (see ``mmpoolformer.utils.paths``).
    """

    def run(self) -> None:
        """Build the modules, then copy the folders beside them."""
        super().run()
        if not self.editable_mode:
            self.carry(Path(self.build_lib) / 'mmpoolformer' / '.mim')

    def carry(self, target: Path) -> None:
        """Copy the carried files and folders to ``target``, replacing old ones."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        skip = shutil.ignore_patterns('__pycache__', '*.pyc')
        for source in (ROOT / name for name in CARRIED):
            if source.is_dir():
                shutil.copytree(source, target / source.name, ignore=skip)
            else:
                shutil.copy2(source, target / source.name)


def long_description() -> str:
    """Return the README without links into the repository; nothing if it is not there.

    Package indexes show it where such links lead nowhere.
    """
    readme = ROOT / 'README.md'
    text = readme.read_text(encoding='utf-8') if readme.is_file() else ''
    text = re.sub(r'!\[[^\]]*\]\((?!https?:)[^)]*\)\n*', '', text)
    return re.sub(r'\[([^\]]+)\]\((?!https?:|#)[^)]*\)', r'\1', text)


INSTALL_REQUIRES, EXTRAS = requirements()

setup(
    name='mmpoolformer',
    version=read_version(),
    description='PoolFormer and MetaFormer backbones for OpenMMLab',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='computer vision, backbone, poolformer, detection, segmentation',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Typing :: Typed',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=['mmpoolformer', 'mmpoolformer.*']),
    package_data={'mmpoolformer': ['py.typed']},
    python_requires='>=3.10',
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['mmpoolformer = mmpoolformer.cli:main']},
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
