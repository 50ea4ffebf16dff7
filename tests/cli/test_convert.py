"""Test the command line of `mmpoolformer convert`."""

import pytest
import torch

from mmpoolformer import create_model
from mmpoolformer.cli.convert import main


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_a_prefix_needs_no_dot(tmp_path, prefix):
    weights = create_model('poolformer_s12').state_dict()
    source, found, given = (tmp_path / f'{name}.pth' for name in 'abc')
    torch.save({f'backbone.{name}': value for name, value in weights.items()}, source)
    main([str(source), str(found), '--to', 'sail'])
    main([str(source), str(given), '--to', 'sail', '--prefix', prefix])
    expected = torch.load(found, weights_only=True)
    converted = torch.load(given, weights_only=True)
    expected, converted = (x.get('state_dict', x) for x in (expected, converted))
    assert expected.keys() == converted.keys()
    assert not expected.keys() & {f'backbone.{name}' for name in weights}
    assert all(torch.equal(expected[name], converted[name]) for name in expected)
