"""Bases of configs by the name of a package: `mmpoolformer::...` and `mmseg::...`.

mmengine knows packages by the names of their distributions, which the maintained forks
have changed, and not this one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from mmpoolformer.utils.paths import config_path

OWN = 'mmpoolformer::'
# Modules that are found by their own name, whatever their distribution is called.
MODULES = {'mmseg': 'mmseg'}


@contextmanager
def package_bases() -> Iterator[None]:
    """Let `_base_ = 'mmpoolformer::...'` and `'mmseg::...'` work inside the block."""
    find, packages = Config._get_cfg_path, dict(MODULE2PACKAGE)
    MODULE2PACKAGE.update(MODULES)

    def get_path(base: str, filename: str) -> tuple[str, str | None]:
        if base.startswith(OWN):
            # Without a scope: what these configs name is mostly mmdet's or mmseg's.
            return str(config_path(base.removeprefix(OWN))), None
        return find(base, filename)

    Config._get_cfg_path = staticmethod(get_path)
    try:
        yield
    finally:
        Config._get_cfg_path = staticmethod(find)
        MODULE2PACKAGE.clear()
        MODULE2PACKAGE.update(packages)
