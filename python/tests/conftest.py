"""The fixtures of several test files."""

import pytest

from helpers import golden_cases


@pytest.fixture(params=golden_cases(), ids=lambda case: case.name)
def golden(request):
    return request.param
