import pytest

from raygen.networks.graph.anatomy import examine


@pytest.fixture(scope="session")
def crop_corner():
    """Return (row, column) in the whole image of a crop's first pixel."""

    def corner(network, cut):
        anatomy = examine(network)
        return anatomy.fields[anatomy.end(cut.layer, after=cut.after)].corner(cut.position)

    return corner
