# SPDX-License-Identifier: Apache-2.0
"""The experiments in 2D, as data: theta is what is seen (Fig. 3; the family)."""

from vsd_jax.experiments.plan import Experiment, Row

_FLAT = "configs/image2d.py"
# Written seldom, and no turntables of hundreds of pictures.
_QUIET = {"log.image_every": 0, "log.checkpoint_every": 0, "log.sheet_views": 16}
_SDS = {"vsd.method": "sds", "vsd.x0_limit": 0.0}
_UNET = {
    "score.kind": "unet",
    "score.channels": (32, 64, 96),
    "score.num_groups": 8,
    "score.num_heads": 4,
}
# As in prolific_dreamer2d @f9c42d7: two particles a step, so that the score network is
# updated many times for each update of a particle. Each is updated 100 times, the last
# 50 with a learning rate that falls to 0.
_FEW = {"particles_per_step": 2, "num_steps": 6400}
_PASSAGE = {"score.pass_through": True}


def _samplers(kind: str, **settings) -> tuple[Row, ...]:
    """DDIM and DDPM at guidance 1 and 7.5."""
    return tuple(
        Row(
            name=f"{name} {scale:g}",
            kind=kind,
            settings={"sample.guidance_scale": scale, "sample.eta": eta, **settings},
        )
        for scale in (1.0, 7.5)
        for name, eta in (("DDIM", 0.0), ("DDPM", 1.0))
    )


IMAGE2D = Experiment(
    about=(
        "The 2D experiment (ProlificDreamer, arXiv:2305.16213, Fig. 3): VSD at 7.5"
        " behaves like ancestral sampling; SDS over-saturates, over-smooths and"
        " collapses. theta is an image, the prior the embedded one."
    ),
    config=_FLAT,
    prompts=("a mushroom",),
    seeds=3,
    settings={
        **_QUIET,
        "num_particles": 128,
        "num_steps": 100,
        "sample.num_steps": 50,
    },
    rows=(
        *_samplers("sample"),
        *(
            Row(
                name=f"SDS {scale:g}",
                settings={**_FEW, **_SDS, "vsd.guidance_scale": scale},
            )
            for scale in (1.0, 3.0, 7.5, 100.0)
        ),
        *(
            Row(
                name=f"VSD {scale:g}, {name}",
                settings={**_FEW, "vsd.guidance_scale": scale, **score},
            )
            for name, score in (
                ("LoRA", {}),
                ("LoRA, passage", _PASSAGE),
                ("small U-Net", _UNET),
            )
            for scale in (1.0, 7.5, 20.0)
        ),
        *(
            Row(
                name=f"{name}, falling t",
                settings={
                    **_FEW,
                    **method,
                    "vsd.guidance_scale": 7.5,
                    "vsd.t_schedule": "sqrt",
                    "optim.decay": 0.0,  # a falling t does its work at the end
                },
            )
            for name, method in (
                ("SDS 7.5", _SDS),
                ("VSD 7.5, LoRA, passage", _PASSAGE),
            )
        ),
        Row(
            name="VSD 1, LoRA, passage, all particles each step",
            settings={"vsd.guidance_scale": 1.0, **_PASSAGE},
        ),
    ),
    reference="DDIM 7.5",
    columns=(
        *("kind_precision", "saturation", "sharpness", "diversity"),
        *("frechet_truth", "kernel_truth", "frechet_reference", "kernel_reference"),
        "seconds",
    ),
    smoke={"num_particles": 3, "num_steps": 2, "sample.num_steps": 2},
)

_EXACT = {
    "field.kind": "latent",
    "field.init_std": 1.0,
    "vsd.x0_limit": 0.0,
    "num_particles": 128,
    "num_steps": 600,
    "sample.num_steps": 200,
    "score.learning_rate": 1e-2,
    "exact.score": "",
    "optim.image_lr": 0.03,  # [2D]
    "optim.decay": 0.0,  # a falling t does its work at the end
}
_MIXTURE = {"exact.score": "mixture", "score.steps_per_step": 1}


def _own(width: float) -> dict:
    return {"exact.score": "own", "exact.bandwidth": width}


def _exact_rows(width: float) -> tuple[Row, ...]:
    return (
        *_samplers("exact_sample"),
        *(
            Row(
                name=f"SDS {scale:g}",
                kind="exact",
                settings=_SDS | {"vsd.guidance_scale": scale},
            )
            for scale in (7.5, 100.0)
        ),
        *(
            Row(
                name=f"VSD {scale:g}, {name}",
                kind="exact",
                settings={"vsd.guidance_scale": scale, **score},
            )
            for name, score in (("learned score", _MIXTURE), ("own score", _own(width)))
            for scale in (1.0, 7.5, 20.0)
        ),
        Row(
            name="VSD 1, learned score, 4 updates",
            kind="exact",
            settings={
                "vsd.guidance_scale": 1.0,
                **_MIXTURE,
                "score.steps_per_step": 4,
            },
        ),
        Row(
            name="VSD 7.5, own score, late t below 0.1",
            kind="exact",
            settings={
                "vsd.guidance_scale": 7.5,
                "vsd.t_range_late": (0.02, 0.1),
                **_own(width),
            },
        ),
        Row(
            name="VSD 7.5, own score, falling t",
            kind="exact",
            settings={
                "vsd.guidance_scale": 7.5,
                "vsd.t_schedule": "sqrt",
                **_own(width),
            },
        ),
    )


_EXACT_COLUMNS = (
    *("kind_precision", "mode_error", "within", "log_density", "saturation"),
    *("diversity", "frechet_truth", "kernel_truth", "frechet_reference"),
    *("kernel_reference", "seconds"),
)
_EXACT_SMOKE = {"num_particles": 8, "num_steps": 3, "sample.num_steps": 3}

PLANE = Experiment(
    about=(
        "The 2D experiment on a mixture of Gaussians in the plane, whose score is known"
        " exactly: three of eight modes are wanted."
    ),
    config=_FLAT,
    prompts=("a mushroom",),
    seeds=3,
    settings={**_EXACT, "exact.world": "plane"},
    rows=_exact_rows(0.1),
    reference="DDIM 7.5",
    columns=_EXACT_COLUMNS,
    smoke=_EXACT_SMOKE,
)

IMAGES = Experiment(
    about=(
        "The 2D experiment on a prior of 26 images of 16 x 16 pixels, each a narrow"
        " Gaussian: 12 mushrooms are wanted, 12 ducks and 2 blurred means are not."
    ),
    config=_FLAT,
    prompts=("a mushroom",),
    seeds=3,
    settings={
        **_EXACT,
        "exact.world": "images",
        "num_steps": 300,
        "optim.image_lr": 0.06,
        "sample.num_steps": 50,
    },
    rows=_exact_rows(0.05),
    reference="DDIM 7.5",
    columns=_EXACT_COLUMNS,
    smoke=_EXACT_SMOKE,
)


def _family(name: str, method: str, score: dict, **settings) -> Row:
    """A row of the family; names in `settings` have `__` for the dot."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    own = {"vsd.method": method, "vsd.guidance_scale": 7.5, **score, **own}
    return Row(name=name, kind="exact", settings=own)


_WEIGHT = {"vsd__weighting": "sigma_over_alpha"}
# As in the authors' code: `vsd_jax/methods/inversion.py`. The number of inversions is
# one key for ISM and SDI, whose ten are its default.
_INVERSIONS = {"family__num_inversions": 5}
_ISM = _WEIGHT | _INVERSIONS
_ISM |= {"vsd__t_range": (0.02, 0.5), "vsd__t_range_late": (0.02, 0.5)}
_FALLS = {"vsd__t_schedule": "linear"}
_SDI_T = _FALLS | {"vsd__t_range": (0.25, 0.98)}
_SDI = _WEIGHT | _SDI_T
_CONSISTENT = {
    "vsd__weighting": "uniform",
    "vsd__t_schedule": "sqrt",
    "vsd__t_range": (0.1, 0.7),
}
_INTERVAL = {"vsd__guidance_interval": (0.1, 0.5)}
# The bound is to |x_0|, about 1.5 here, as SDXL's 15 is to its latents.
_APG = {"vsd__apg_parallel": 0.0, "vsd__apg_norm": 0.1}

FAMILY = Experiment(
    about=(
        "The family of score distillation on one prior in closed form (that of"
        " `plane`), all at guidance 7.5 but where it says 100: SDS (arXiv:2209.14988),"
        " VSD (arXiv:2305.16213), CSD (arXiv:2310.19415), NFSD (arXiv:2310.17590), ISM"
        " (arXiv:2311.11284), SDI (arXiv:2405.15891), ESD (arXiv:2401.00909), Bridge"
        " (arXiv:2406.09417), ASD (arXiv:2407.02040), SDEdit (arXiv:2108.01073), L2-VSD"
        " (arXiv:2507.09748), Consistent3D (arXiv:2401.09050); guidance in an interval"
        " of t (arXiv:2404.07724), projected (APG, arXiv:2410.02416) and at a t of its"
        " own (arXiv:2511.22677); DMD's weight (arXiv:2311.18828); HiFA's falling t"
        " (arXiv:2305.18766), SDI's and DreamTime's (arXiv:2306.12422). With one camera"
        " ESD is VSD: its score network has no camera to leave out."
    ),
    config=_FLAT,
    prompts=("a mushroom",),
    seeds=3,
    settings={**_EXACT, "exact.world": "plane"},
    rows=(
        *_samplers("exact_sample")[2:3],
        _family("SDS", "sds", {}),
        _family("SDS 100", "sds", {}, vsd__guidance_scale=100.0),
        _family("VSD", "vsd", _MIXTURE),
        _family("CSD", "csd", {}),
        _family("NFSD", "nfsd", {}),
        _family("ISM", "ism", {}, **_ISM),
        _family(
            "ISM, HiFA's t", "ism", {}, **_WEIGHT, **_INVERSIONS, vsd__t_schedule="sqrt"
        ),
        _family("SDI", "sdi", {}, **_SDI),
        _family("SDI, t to .02", "sdi", {}, **_WEIGHT, **_FALLS),
        _family("SDI, t drawn evenly", "sdi", {}, **_WEIGHT),
        _family("ESD", "esd", _MIXTURE),
        _family("Bridge", "bridge", {}),
        _family("ASD", "asd", {}),
        _family("SDEdit", "sdedit", {}),
        _family("L2-VSD", "l2_vsd", _MIXTURE),
        _family("Consistent3D", "consistent3d", {}, **_CONSISTENT),
        _family(
            *("Consistent3D, new noise each step", "consistent3d", {}),
            **_CONSISTENT,
            family__shared_noise=False,
        ),
        _family("VSD, interval .1 to .5", "vsd", _MIXTURE, **_INTERVAL),
        _family("VSD, APG", "vsd", _MIXTURE, **_APG),
        _family(
            "VSD, guidance at t < .2", "vsd", _MIXTURE, vsd__guidance_t=(0.02, 0.2)
        ),
        _family("SDS, DMD's weight", "sds", {}, vsd__weighting="dmd"),
        _family("VSD, DMD's weight", "vsd", _MIXTURE, vsd__weighting="dmd"),
        _family("SDS, HiFA's t", "sds", {}, vsd__t_schedule="sqrt"),
        _family("VSD, HiFA's t", "vsd", _MIXTURE, vsd__t_schedule="sqrt"),
        _family("SDS, SDI's t", "sds", {}, **_SDI_T),
        _family("SDS, SDI's t to .02", "sds", {}, **_FALLS),
        _family("SDS, DreamTime's t", "sds", {}, vsd__t_schedule="dreamtime"),
        _family("VSD, DreamTime's t", "vsd", _MIXTURE, vsd__t_schedule="dreamtime"),
    ),
    reference="DDIM 7.5",
    columns=_EXACT_COLUMNS,
    smoke=_EXACT_SMOKE,
)
