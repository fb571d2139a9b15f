# SPDX-License-Identifier: Apache-2.0
import jax
import pytest


@pytest.fixture
def float64():
    """64-bit types for one test; the switch has moved between JAX versions."""
    if hasattr(jax, "enable_x64"):
        switch = jax.enable_x64
    else:
        from jax.experimental import enable_x64 as switch
    with switch(True):
        yield
