# SPDX-License-Identifier: Apache-2.0
"""Keys without meaning beside the others: refused where they were given."""

import pytest

from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import idle, named
from vsd_jax.program.terminal.errors import ConfigError


def faults(kind, **changes):
    config = named.NAMED[kind]("")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(changes)
    config_lib.validate(config)
    return idle.faults(config_lib.flatten(config), changes)


@pytest.mark.parametrize(
    ("kind", "changes", "by"),
    [
        ("object", {"mesh__resolution": 20}, "field.kind='nerf'"),
        ("object", {"optim__sdf_lr": 1.0}, "field.kind='nerf'"),
        ("object", {"render__early_steps": 50}, "render.early_size=0"),
        ("object", {"camera__adapt_candidates": 20}, "camera.adapt=''"),
        ("object", {"camera__position_radius": 0.7}, "camera.law='orbit'"),
        ("scene", {"camera__radius": (2.0, 3.0)}, "camera.law='inside'"),
        ("object", {"family__t_shift": 0.7}, "vsd.method='vsd'"),
        ("object", {"family__dreamtime_middle": 0.7}, "vsd.t_schedule='two_stage'"),
        (
            "object",
            {"vsd__t_schedule": "sqrt", "vsd__anneal_step": 7},
            "vsd.t_schedule='sqrt'",
        ),
        ("object", {"vsd__method": "sds", "score__rank": 64}, "vsd.method='sds'"),
        (
            "object",
            {"vsd__method": "sds", "family__exact_below": 0.9},
            "vsd.method='sds'",
        ),
        ("object", {"score__kind": "unet", "score__rank": 64}, "score.kind='unet'"),
        ("object", {"subset": "random"}, "particles_per_step=1"),
        (
            "object",
            {"vsd__perp_neg": True, "vsd__front_half_angle_deg": 40.0},
            "vsd.perp_neg=True",
        ),
        ("object", {"vsd__front_over_side": (1.0, 1.0, 0.0)}, "vsd.perp_neg=False"),
        (
            "scene",
            {"vsd__height_prompts": False, "vsd__height_limits_deg": (1.0, 2.0)},
            "vsd.height_prompts=False",
        ),
        (
            "object",
            {"vsd__method": "sdedit", "vsd__guidance_t": (0.1, 0.2)},
            "vsd.method='sdedit'",
        ),
        (
            "object",
            {"vsd__method": "nfsd", "vsd__not_overhead_deg": 20.0},
            "vsd.method='nfsd'",
        ),
        (
            "object",
            {"score__kind": "unet", "score__prompt": False},
            "score.kind='unet'",
        ),
        ("image2d", {"render__num_samples": 7}, "field.kind='image'"),
        ("image2d", {"optim__table_lr": 0.5}, "field.kind='image'"),
        ("image2d", {"eval__num_views": 3}, "field.kind='image'"),
        ("image2d", {"export__min_component": 0.5}, "field.kind='image'"),
        ("texture", {"export__level": 7.0}, "field.kind='texture'"),
        ("texture", {"mesh__smoothing": 7.0}, "field.kind='texture'"),
        ("object", {"field__scene_radius": 0.77}, "field.init='object'"),
        ("object", {"optim__environment_lr": 0.7}, "field.environment=False"),
        ("geometry", {"render__max_rays": 77}, "field.kind='geometry'"),
        ("geometry", {"render__capacity": 0.77}, "field.kind='geometry'"),
    ],
)
def test_what_does_not_act_is_refused(kind, changes, by):
    (fault,) = faults(kind, **changes)
    *_, last = changes
    assert fault.startswith(last.replace("__", ".")) and f"with {by};" in fault


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        # The value that some preset has may stand in a command for all methods.
        ("object", {"vsd__method": "sds", "family__exact_below": 0.0}),
        ("object", {"vsd__method": "csd", "score__steps_per_step": 1}),
        # These act.
        ("geometry", {"mesh__resolution": 20, "optim__sdf_lr": 1.0}),
        ("geometry", {"export__level": 7.0, "export__min_component": 0.5}),
        ("texture", {"render__capacity": 0.77}),
        ("scene", {"field__scene_radius": 0.77}),
        ("object", {"field__environment": True, "optim__environment_lr": 0.7}),
        ("geometry", {"field__object_radius": 0.33, "mesh__max_offset": 0.11}),
        ("object", {"camera__radius": (2.0, 3.0), "score__rank": 64}),
        ("object", {"vsd__method": "asd", "family__t_shift": 0.7}),
        ("object", {"num_particles": 2, "particles_per_step": 1, "subset": "random"}),
        ("image2d", {"optim__image_lr": 0.5}),
    ],
)
def test_what_acts_is_accepted(kind, changes):
    assert not faults(kind, **changes)


def test_presets_have_no_key_of_others():
    """But for what follows a number of steps, which nobody gives."""
    for kind in named.NAMED:
        config = named.NAMED[kind]("")
        stages = [config[name] for name in config.get("stages", ())] or [config]
        for flat in map(config_lib.flatten, stages):
            assert {fault.partition("=")[0] for fault in idle.faults(flat, flat)} <= {
                "render.early_steps"
            }


def test_bridge_needs_words_for_what_is_wrong():
    config = named.NAMED["object"]("")
    config.vsd.method = "bridge"
    with pytest.raises(ConfigError, match=r"family\.source_words, which is empty"):
        config_lib.require_words(config_lib.validate(config))
    config.prior.path = "some/model"
    config.family.source_words = ", oversaturated"
    config_lib.require_words(config_lib.validate(config))


@pytest.mark.parametrize(
    ("kind", "argument"),
    [("object", "optim.sdf_lr=3.0"), ("refined", "nerf.optim.sdf_lr=3.0")],
)
def test_the_command_line_is_refused_before_anything_is_written(
    tmp_path, kind, argument
):
    config = named.NAMED[kind]("smoke")
    key, _, value = argument.partition("=")
    config.update_from_flattened_dict({key: float(value)})
    with pytest.raises(ConfigError, match=r"optim\.sdf_lr=3\.0 has no meaning"):
        pipeline.start(
            *("train", config, str(tmp_path / "run")),
            overwrite=False,
            command=["python", f"--config.{argument}"],
        )
    assert not (tmp_path / "run").exists()
