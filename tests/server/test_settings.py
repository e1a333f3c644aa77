"""The checks of a server's settings."""

from __future__ import annotations

import pytest

from server.settings import CannotServe, check_bfloat16


@pytest.mark.parametrize(
    ("gpus", "processor_has_it", "sentence"),
    [
        ((0,), True, "--bfloat16: the networks run on GPU 0; --gpus none is expected with it."),
        ((0, 2), True, "--bfloat16: the networks run on GPU 0, 2; --gpus none is expected"),
        ((), False, "--bfloat16: this processor has neither avx512_bf16 nor amx_bf16, one of"),
    ],
)
def test_bfloat16_where_it_is_impossible_is_refused(gpus, processor_has_it, sentence):
    with pytest.raises(CannotServe) as caught:
        check_bfloat16(gpus, processor_has_it)
    assert str(caught.value).startswith(sentence)


def test_bfloat16_on_a_processor_that_has_it_is_accepted():
    check_bfloat16((), True)
