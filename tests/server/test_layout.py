"""What tritonserver and its models' processes are started with."""

from server import layout


def test_the_malloc_of_tritonserver_is_not_the_models(server):
    assert server.triton.environ().items() >= layout.MALLOC.items()
    stubs = [child for child in server.triton.children() if len(child.cmdline()) > 1]
    assert len(stubs) > 5
    assert not any(layout.MALLOC.keys() & stub.environ().keys() for stub in stubs)
