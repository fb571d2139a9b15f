# SPDX-License-Identifier: Apache-2.0
"""Every public function of the front door has an example in its docstring that runs."""

import doctest
import inspect
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vsd_jax as vsd

WEIGHTS = pathlib.Path(vsd.__file__).parent / "toybox" / "weights" / "unet"
NAMES = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "vsd": vsd}
"""What an example may use without importing it; docs/reference/index.md says so."""


def front_door() -> dict[str, object]:
    """Functions of `vsd_jax.__all__` and of its modules, by the name a user writes."""
    found = {}
    for name in vsd.__all__:
        value = getattr(vsd, name)
        if inspect.isfunction(value):
            found[name] = value
        elif value is vsd.camera:  # many small functions: one example for all
            found[name] = value
        elif isinstance(value, types.ModuleType):
            found |= {f"{name}.{key}": fn for key, fn in functions_of(value).items()}
    return found


def functions_of(module: types.ModuleType) -> dict[str, object]:
    """Those in its `__all__`; without one, those that it defines itself."""
    listed = getattr(module, "__all__", None)
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and (name in listed if listed else value.__module__ == module.__name__)
    }


def examples_of(value: object, name: str) -> doctest.DocTest:
    text = inspect.getdoc(value) or ""
    return doctest.DocTestParser().get_doctest(text, dict(NAMES), name, None, None)


@pytest.mark.parametrize("name", front_door())
def test_has_an_example_that_runs(name):
    test = examples_of(front_door()[name], name)
    assert any(example.want for example in test.examples), "no example shows a result"
    if any("load_prior" in e.source for e in test.examples) and not WEIGHTS.is_dir():
        pytest.skip("the embedded prior is not there yet")
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_many_functions_are_seen():
    found = front_door()
    assert {"distil", "views", "methods.vsd", "exact.make_prior", "camera"} <= {*found}
    assert {"mesh.geometry", "presets.toybox", "timesteps.make_t_range"} <= {*found}


def test_a_wrong_example_is_seen():
    def wrong():
        """Says something else.

        Examples:
          >>> 1 + 1
          3
        """

    runner = doctest.DocTestRunner()
    runner.run(examples_of(wrong, "wrong"), out=lambda text: None)
    assert runner.failures == 1
