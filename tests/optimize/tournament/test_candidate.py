import msgspec

from optimize.manifest import Blob
from optimize.tournament.candidate import digest_of_files

GRAPH, WEIGHTS = Blob("model.onnx", "a" * 64, 10), Blob("model.onnx.data", "b" * 64, 1000)


def test_one_file_is_known_by_its_digest() -> None:
    assert digest_of_files([GRAPH]) == GRAPH.digest


def test_weights_in_a_file_of_their_own_change_the_digest() -> None:
    """The graph file is the same whatever the weights are."""
    other = msgspec.structs.replace(WEIGHTS, digest="c" * 64)
    assert len({digest_of_files([GRAPH]), digest_of_files([GRAPH, WEIGHTS]), digest_of_files([GRAPH, other])}) == 3
