# SPDX-License-Identifier: Apache-2.0
"""Every key of the program, once: meaning, unit, source.

The values below are the paper's (ProlificDreamer, arXiv:2305.16213), as far as the
paper or the code published with it state them; `configs/variants.py` turns them into

    (none)   the embedded Toybox prior, 64 x 64: runs anywhere in minutes, no download
    :sd21    Stable Diffusion 2.1-base, score network on 2.1 (v-prediction): the paper
    :sd15    Stable Diffusion 1.5 for both
    :smoke   the same code as (none) in seconds; its result means nothing

Sources: [P] the paper; [O] thu-ml/prolificdreamer @5a30304, the authors' code;
[T] threestudio @28d9d80; [ours] chosen here. Lengths are scene units: the scene fills
the cube [-1, 1]^3. Angles are degrees. Pairs are (low, high).

Keys that follow `num_steps` keep following `--config.num_steps=...` until they are set
themselves. On the command line: `--config.vsd.guidance_scale=7.5`,
`--config.camera.radius="(1.0, 1.5)"`.
"""

from ml_collections import ConfigDict

from configs import outputs, variants

VARIANTS = ("", "sd21", "sd15", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    """All keys, with the values of a variant for an object.

    Args:
      variant: one of `VARIANTS`.

    Raises:
      ValueError: if the variant is unknown.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"Unknown variant {variant!r}: use one of {', '.join(VARIANTS[1:])}, or"
            " nothing after the file name for the embedded prior."
        )
    config = ConfigDict()
    config.prompt = "a red mushroom"  # what to make
    config.prompt_prefix = ""  # before it, for the networks: what kind of picture
    config.negative_prompt = ""  # what guidance moves away from; "" in [O][T]
    config.seed = 0  # of everything random in a run
    config.num_steps = 25_000  # updates of each particle [O run.sh]
    config.num_particles = 1  # n; the paper shows 1 and ablates up to 8 [P]
    # Particles updated in each step; fewer than n saves memory. [P] updates one [O].
    config.particles_per_step = config.get_oneway_ref("num_particles") * 1
    # That share the particles; where it is more than there are, also their views.
    config.num_devices = 1
    # Devices that hold one prior together, where one cannot; instead of num_devices.
    config.num_shards = 1
    # A particle whose steps are not finite for long: "stop" the run (its last
    # checkpoint stays), or "restart" that particle from another draw [ours].
    config.on_not_finite = "stop"
    config.subset = "rotating"  # which: "rotating" (in turn) or "random" [O]
    config.field = _field()
    config.render = _render(config.get_oneway_ref("num_steps"))
    config.mesh = _mesh()
    config.camera = _camera()
    config.prior = _prior()
    config.vsd = _vsd(config.get_oneway_ref("num_steps"))
    config.family = _family()
    config.score = _score()
    config.optim = _optim()
    config.regularize = _regularize()
    config.eval = outputs.evaluation()
    config.export = outputs.export()
    config.log = outputs.log(config.get_oneway_ref("num_steps"))
    if variant in ("sd21", "sd15"):
        variants.stable_diffusion(config, variant)
    else:
        variants.embedded(config)
    if variant == "smoke":
        variants.smoke(config)
    return config


def _field() -> ConfigDict:
    """The scene's parameters theta: a hash grid with a small decoder, or an image."""
    field = ConfigDict()
    # "nerf"; "geometry" and "texture" are the stages on a mesh (configs/geometry.py,
    # configs/texture.py); "image" or "latent": theta is what is seen (2D).
    field.kind = "nerf"
    field.num_levels = 16  # levels of the hash grid [O]
    field.features = 2  # features per level [O]
    field.log2_table_size = 19  # rows of a level, as a power of two [O]
    field.min_resolution = 16  # cells along an axis at the coarsest level [O]
    field.max_resolution = 2048  # and at the finest [O]; 4096 in [T]
    field.smooth = True  # smoothstep interpolation [O]; linear in [T]
    field.hidden = 0  # units of the decoder's hidden layer; 0 = one linear layer [P][O]
    field.environment = True  # learned background, direction -> colour [O]
    # Added to the density before softplus: "object" a blob, "scene" a hollow, and
    # "object_in_scene" a blob inside a hollow, switched at `switch_radius` [P].
    field.init = "object"
    field.object_strength, field.object_radius = 10.0, 0.5  # [P][O]
    field.scene_strength, field.scene_radius = -10.0, 2.5  # [P]
    field.switch_radius = 5 / 6  # [P]
    field.init_centre = (0.0, 0.0, 0.0)  # of the blob; a hollow is around the origin
    field.init_std = 1.0  # standard deviation of an image's or latent's start [2D code]
    return field


def _render(num_steps) -> ConfigDict:
    """From theta and a camera to an image."""
    render = ConfigDict()
    render.size = 512  # side of a training render, pixels [P][O]
    # A smaller side for the first steps: 0 = none [P][O]; 64 up to step 5,000 in [T].
    render.early_size = 0
    render.early_steps = num_steps // 5
    render.num_samples = 64  # stratified samples along a ray [P][O]
    render.num_fine = 32  # importance samples after them [P][O]
    render.near = 0.1  # least distance from the camera at which is sampled [O]
    render.density_noise = 1.0  # std of the noise before softplus in training [O]
    # Skipping empty space. 0 turns it off [O]; else cells along an axis [T: 32].
    render.occupancy_resolution = 0
    render.occupancy_threshold = 0.01  # density below which a cell is empty [T]
    render.occupancy_decay = 0.95  # of the cell maximum at each update [T]
    render.occupancy_interval = 16  # steps between updates [T]
    render.capacity = 1.0  # share of the samples that is evaluated in training, (0, 1]
    render.half_extent = 1.0  # half size of the cube that is sampled [O: bound]
    render.max_rays = 16_384  # rays rendered at a time (memory, not a result)
    # Backgrounds in training: the learned environment with this probability [O, from
    # its step 2,000 on], else one of these colours. [O] draws any uniform colour.
    render.environment_share = 0.5
    render.background_colors = ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
    render.background_words = ("", "", "")  # appended to the prompt for each colour
    render.background_shares = (1 / 3, 1 / 3, 1 / 3)
    return render


def _mesh() -> ConfigDict:
    """The mesh stages: marching tetrahedra, then a texture on the frozen mesh."""
    mesh = ConfigDict()
    # Folder of the finished run to go on with: a NeRF's for the geometry ("" = a ball
    # of field.object_radius), the geometry's for the texture.
    mesh.source = ""
    # Cells of the tetrahedral grid along an axis. 104 is as fine as the grid called 256
    # in [O], 52 as that called 128 in [T].
    mesh.resolution = 104
    mesh.max_offset = 0.2  # of a grid vertex, in cells; more turns tetrahedra over
    mesh.smoothing = 1.0  # of the NeRF's level set, cells of the export grid [ours]
    # Room for faces and for pixels, as a multiple of what a plain object needs
    # (memory, not a result; a run that needs more says so).
    mesh.surface_capacity = 1.0
    mesh.raster_capacity = 1.0
    return mesh


def _camera() -> ConfigDict:
    """The distribution of training cameras (`vsd_jax/scene/camera.py`)."""
    camera = ConfigDict()
    camera.law = "orbit"  # "orbit" looks at the middle, "inside" outwards from it
    camera.radius = (1.0, 1.5)  # distance from the middle [O][T]
    camera.fov_deg = (40.0, 70.0)  # full vertical field of view [O][T]
    camera.elevation_deg = (-10.0, 45.0)  # [T]; [O] draws 0 ... 90 or -30 ... 90
    camera.azimuth_deg = (-180.0, 180.0)  # 0 is the front [O][T]
    camera.area_uniform_share = 0.5  # drawn evenly in area, not in angle [T]
    camera.overhead_share = 0.0  # drawn from `overhead_deg` instead
    camera.overhead_deg = (60.0, 90.0)
    camera.target = (0.0, 0.0, 0.0)  # what "orbit" looks at
    camera.target_std = 0.0  # of a Gaussian shift of camera and target [O: off]
    camera.box_half_extent = 0.0  # "orbit" stays in this cube; 0 = no such limit
    camera.position_radius = 0.0  # "inside": positions fill a ball of this radius
    # Of some draws one is kept: "residual" where a particle's residual has been large;
    # "" none of it, as in the paper.
    camera.adapt = ""
    camera.adapt_candidates = 8
    return camera


def _prior() -> ConfigDict:
    """The frozen diffusion model."""
    prior = ConfigDict()
    # "toybox" (embedded), a local folder, or a hub id: owner/name[@revision].
    prior.path = "toybox"
    prior.variant = ""  # of its weight files: "fp16" halves what is downloaded
    prior.sha256 = ""  # that the U-Net's weight file must have; "" = any
    prior.dtype = "float32"  # of its weights and activations: float32 or bfloat16
    return prior


def _vsd(num_steps) -> ConfigDict:
    """What theta follows."""
    vsd = ConfigDict()
    # "vsd" or "sds"; "csd", "nfsd", "bridge", "esd", "ism", "sdi" (vsd_jax/family.py).
    vsd.method = "vsd"
    vsd.guidance_scale = 7.5  # s in unc + s (text - unc) [P]; SDS needs about 100 [P]
    # Bound of the guided x_0 of "vsd" and "sds" (Imagen, arXiv:2205.11487); 0 = none
    # [P]: for priors of images, which have a range; latents have none.
    vsd.x0_limit = 0.0
    vsd.weighting = "sigma_squared"  # w(t) = sigma_t^2 [O][T]
    vsd.views_per_step = 1  # renders of each particle in a step [O][T]
    # t, as a share of the diffusion's length: U(low, high), at first and from
    # `anneal_step` on [P Sec. 4.1]. "sqrt" (HiFA) and "dreamtime": one falling t.
    vsd.t_schedule = "two_stage"
    vsd.t_range = (0.02, 0.98)  # [P]
    vsd.t_range_late = (0.02, 0.50)  # [P]
    vsd.anneal_step = num_steps // 5  # 5,000 of 25,000 [P]
    vsd.view_prompts = True  # append ", front view" and so on for the prior [P]
    vsd.overhead_deg = 60.0  # above this elevation: "overhead view" [O][T]
    vsd.front_half_angle_deg = 30.0  # half width of front and back [O][T]
    # Words for the camera's elevation before the view's (", low front view"), from
    # below upwards, and up to which elevation each but the last holds [P: none; ours].
    vsd.height_words = ()
    vsd.height_limits_deg = ()
    vsd.perp_neg = False  # Perp-Neg guidance against several faces (arXiv:2304.04968)
    # Its weights a exp(-b r) + c, as (a, b, c) [T].
    vsd.front_over_side = (4.0, 0.5, -2.426)
    vsd.side_over_front = (4.0, 0.5, -2.426)
    vsd.side_over_back = (1.0, 0.5, -0.606)
    vsd.front_over_back = (1.0, 0.5, 0.967)
    return vsd


def _family() -> ConfigDict:
    """Settings of the methods beside VSD and SDS; each follows its own paper."""
    family = ConfigDict()
    family.t_switch = 0.2  # NFSD: share of T below which x_t counts as clean
    family.score_scale = 0.5  # ESD: guidance in the score network; 1 = VSD
    family.interval = 0.05  # ISM: t - s as a share of T (50 of 1,000)
    family.num_inversions = 5  # ISM, SDI: steps of DDIM inversion
    family.inversion_scale = -7.5  # SDI: guidance of the inversion
    # Bridge: what the renders look like, appended to the prompt.
    family.source_words = (
        ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad"
        " structure, noisy, malformed"
    )
    family.dreamtime_middle = 0.5  # DreamTime: m / T
    family.dreamtime_width = 0.125  # and s / T
    return family


def _score() -> ConfigDict:
    """The score network phi."""
    score = ConfigDict()
    score.kind = "lora"  # "lora" on `score.path`, or "unet": a small one from scratch
    score.path = ""  # its frozen network; "" = the prior's own
    score.rank = 4  # of LoRA, on every attention projection [O][T]
    score.zero_camera = False  # start the camera embedding at zero [O][T: no]
    score.lora_scale = 1.0  # factor of the LoRA update [O][T]
    # LoRA also learns the variance, by channel, of what its frozen network cannot say
    # (noise, for a network of coarse patches), and lets it through [P: no; ours].
    score.pass_through = False
    score.channels = (128, 256, 384, 512)  # of "unet", by resolution [O]
    score.num_groups, score.num_heads = 32, 8  # of its norms and attention [ours]
    score.steps_per_step = 1  # score updates in each step [O][T]
    score.prompt = True  # it reads the plain prompt [P][O][T]; False: no text at all
    score.camera_dropout = 0.1  # camera replaced by zeros [O][T]
    score.t_range = (0.0, 0.999)  # of its training, as a share of the length [O][T]
    # Bound on the loss weight 1 / sigma_t^2 of a network that predicts clean images;
    # of no effect on the networks of the paper [ours].
    score.sigma_floor = 0.1
    score.learning_rate = 1e-4  # AdamW [O][T]
    score.warmup_steps = 500  # linear [O]
    score.b1, score.b2 = 0.9, 0.999  # [O]
    score.weight_decay = 0.01  # [O]
    return score


def _optim() -> ConfigDict:
    """Adam for theta."""
    optim = ConfigDict()
    optim.table_lr = 1e-2  # hash grid [O][T]
    optim.decoder_lr = 1e-3  # [O][T]
    optim.environment_lr = 1e-3  # [O][T]
    optim.sdf_lr = 5e-3  # signed distances [O][T]
    optim.offset_lr = 5e-3  # moves of the grid vertices [O][T]
    optim.image_lr = 3e-2  # theta is an image or latent [2D code]
    optim.b1, optim.b2 = 0.9, 0.99  # [O][T]
    optim.tiny = 1e-15  # Adam's epsilon [O][T]
    return optim


def _regularize() -> ConfigDict:
    """Factors of the regularisers; 0 = off."""
    regularize = ConfigDict()
    regularize.entropy = 10.0  # of the compositing weights [O]
    regularize.sparsity = 0.0  # 10 in [T object]
    regularize.opaque = 0.0  # 1000 from step 10,000 on in [T object]
    regularize.opaque_start = 10_000  # first step of `opaque` [T]
    regularize.opacity_squared = 0.0  # [O: 0]
    regularize.z_variance = 0.0  # 1 in [T scene]; 300 in HiFA
    regularize.normal_consistency = 0.0  # geometry stage: 5000 in [O], 10,000 in [T]
    regularize.laplacian = 0.0  # geometry stage: 0.5 in [O], 10,000 in [T]
    regularize.orientation = 0.0  # needs normals in training: five times the cost
    return regularize
