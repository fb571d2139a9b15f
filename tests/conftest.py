# SPDX-License-Identifier: Apache-2.0
"""Test set-up: CPU, eight virtual devices, strict checks, quick and cached compilation.

Everything here must happen before the first `import jax` of any test module.
"""

import gc
import importlib.metadata
import os
import pathlib

# The tests compile far longer than they compute: without LLVM's optimisations all of
# them take four fifths of the processor time. Without XLA's newer fusions the step of a
# U-Net is compiled in six tenths of that.
_FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_backend_optimization_level": 0,
}
_JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
if _JAXLIB <= (0, 10):  # later ones end at a flag that they do not know
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        _flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{_flags} {_flag}={_value}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax  # noqa: E402

_CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
    pathlib.Path.home() / ".cache" / "vsd_jax" / "xla"
)
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Traced programs are many small objects, nearly all of which stay: a twentieth of the
# time went into looking for those that do not.
gc.set_threshold(50_000, 20, 50)
