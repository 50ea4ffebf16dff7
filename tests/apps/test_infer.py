"""Names of the files of results."""

import pytest

from mmpoolformer.apps.infer import distinct_names


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['a/x.png', 'b/X.jpg', 'b/y.png'], ['x', 'X_2', 'y']),
        (['a/x.png', 'b/x.png', 'b/x_2.png'], ['x', 'x_3', 'x_2']),
        (['x_2.png', 'a/x.png', 'b/x.png', 'c/x.png'], ['x_2', 'x', 'x_3', 'x_4']),
        (['x.png', 'x.mp4', 'X_2.mp4', 'x_2.png'], ['x', 'x_3', 'X_2', 'x_2_2']),
    ],
)
def test_no_number_makes_another_files_own_name(paths: list, names: list) -> None:
    assert distinct_names(paths) == dict(zip(paths, names, strict=True))
