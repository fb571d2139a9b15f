# SPDX-License-Identifier: Apache-2.0
"""`--config.KEY=VALUE` without `--config`: changes to the settings of a finished run.

Such a run is rendered, exported and judged with its own settings, in which only what
does not touch what was learned may be another.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import config_rules
from vsd_jax.program.terminal.errors import ConfigError

_NEGATIVE = re.compile(r"-[\d.]+(e[+-]?\d+)?")
_KEY = re.compile(r"--?(?:no)?config\.([^=]+)(=?)")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes the overrides out of a command line that names no configuration.

    Returns:
      (the other arguments, the overrides); all and none if `--config` is given.
    """
    if any(re.match(r"--?config(=|$)", argument) for argument in argv):
        return list(argv), []
    rest, found, is_value = [], [], False
    for argument in argv:
        match = _KEY.match(argument)
        is_flag = argument.startswith("-") and not _NEGATIVE.fullmatch(argument)
        if match or (is_value and not is_flag):
            found.append(argument)
        else:
            rest.append(argument)
        is_value = bool(match) and not match[2]
    return rest, found


def apply(base: Mapping[str, Any], arguments: Sequence[str]) -> ConfigDict:
    """The configuration of a finished run with what the command line changes.

    Args:
      base: of the run.
      arguments: from `split`.

    Raises:
      ConfigError: for an unknown key, one that was learned with, or a wrong type.
    """
    config = ConfigDict(base)
    known = config_lib.flatten(config)
    free = config_lib.MAY_CHANGE
    names = ", ".join(f"{key}*" if key.endswith(".") else key for key in free)
    faults = [
        f"{key} belongs to what was learned; of a finished run only these may be"
        f" another: {names}. The run keeps {key}={known[key]!r}."
        for key in _known_keys(known, arguments)
        if not config_lib.may_change(key, known)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    return set_values(config, arguments)


def set_values(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """A configuration with arguments `--config.KEY=VALUE` applied, in place.

    Raises:
      ConfigError: for an unknown key or a wrong type.
    """
    _known_keys(config_lib.flatten(config), arguments)
    values, argv = flags.FlagValues(), ["program", *arguments]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError(f"--config: {str(error).strip().splitlines()[-1]}") from error
    return config


def keys(arguments: Sequence[str]) -> list[str]:
    """The keys that arguments `--config.KEY` name, whether or not there are such."""
    return [match[1] for match in map(_KEY.match, arguments) if match]


def _known_keys(known: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """The keys that the arguments name; raises ConfigError for those that are none."""
    found = keys(arguments)
    faults = [config_rules.suggest(key, known) for key in found if key not in known]
    if faults:
        raise ConfigError("\n".join(faults))
    return found
