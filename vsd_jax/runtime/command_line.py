# SPDX-License-Identifier: Apache-2.0
"""Flags -> configuration, with errors a person can act on.

ml_collections answers an unknown key with a traceback, and a configuration file that
does not exist only when it is used.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from vsd_jax.runtime import config as config_lib
from vsd_jax.runtime.errors import ConfigError


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the command line for `absl.app.run`.

    Raises:
      ConfigError: naming the key at fault and the nearest known ones.
    """
    try:
        return flags.FLAGS(list(argv))
    except (AttributeError, KeyError) as error:
        # Overrides of keys that do not exist end up here.
        raise ConfigError(_explain(argv, error)) from error
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"--config: {_last_line(error)}") from error
    except flags.Error as error:
        raise ConfigError(f"{error}\nSee --help for all flags.") from error


def read_config(holder: flags.FlagHolder) -> ConfigDict | None:
    """The configuration of a `DEFINE_config_file` flag; None if it was not given.

    Raises:
      ConfigError: if the file does not exist.
    """
    try:
        config = holder.value
        if config is not None:
            len(config)
        return config
    except OSError as error:
        raise ConfigError(
            "--config: there is no such file. Give configs/object.py, configs/scene.py"
            f" or configs/image2d.py, seen from the current folder. ({error})"
        ) from error


def _explain(argv: Sequence[str], error: Exception) -> str:
    known = config_lib.flatten(_load(argv))
    overrides = [a.lstrip("-").partition("=")[0] for a in argv if "config." in a]
    keys = [name.removeprefix("config.") for name in overrides]
    sections = {key.rpartition(".")[0] for key in known}
    unknown = [key for key in keys if key not in known and key not in sections]
    if not unknown:
        return f"--config: {_last_line(error)}"
    return "\n".join(config_lib.suggest(key, known) for key in unknown)


def _load(argv: Sequence[str]) -> Any:
    for argument in argv:
        name, _, path = argument.lstrip("-").partition("=")
        if name == "config" and path:
            return config_flags.ConfigFileFlagParser("config").parse(path)
    return {}


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
