"""Standard output without what libraries print of their doings."""

import contextlib
import io

from mmpoolformer.utils.prints import FilteredPrints


def test_prints_of_libraries_are_dropped_with_their_line() -> None:
    stream = io.StringIO()
    with contextlib.redirect_stdout(FilteredPrints(stream)):
        print('loading annotations into memory...')
        print('Done (t=0.00s)')
        print()
        print('Done with the first part')
        print('index created!')
        print('a', 'b', sep='\n')
    assert stream.getvalue() == '\nDone with the first part\na\nb\n'
