"""Modules that have moved can be imported from where they were."""

from mmpoolformer.classification import dataset, pictures
from mmpoolformer.data import classification
from mmpoolformer.utils import images


def test_the_names_are_those_of_the_new_places() -> None:
    for old, new in ((dataset, classification), (pictures, images)):
        for name in old.__all__:
            assert getattr(old, name) is getattr(new, name)
