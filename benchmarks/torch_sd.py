# SPDX-License-Identifier: Apache-2.0
"""The yardstick: the parts of the Stable Diffusion step in PyTorch.

diffusers' own classes, in float32, with its attention of one fused call. Weights and
inputs are those of `benchmarks/sd_models.py`, so that results can be compared. LoRA is
a layer around each attention projection, and only it and the camera MLP are trained.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks import sd_models, torch_nerf
from vsd_jax.scene.nerf.encoding import hash_grid

# Names of the projections of the VAE's attention in the checkpoints.
_VAE_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class LoRALinear(nn.Module):
    """h = W x + x down up, W frozen; down [in, rank] and up [rank, out]."""

    def __init__(self, base: nn.Linear, name: str, rank: int):
        super().__init__()
        self.base = base
        down, up = (base.in_features, rank), (rank, base.out_features)
        self.down = _trained(f"{name}.down", down)
        self.up = _trained(f"{name}.up", up)

    def forward(self, inputs):
        """[..., in] -> [..., out]."""
        update = inputs.float() @ self.down @ self.up
        return self.base(inputs) + update.to(inputs.dtype)


def _trained(name: str, shape) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(sd_models.adapter(name, shape)))


def _fill(module: nn.Module, component: str) -> nn.Module:
    """Draws every weight by its name; all are frozen."""
    drawn = {}
    for name, value in module.state_dict().items():
        stored = name
        if component == "vae" and "attentions" in name:
            for new, old in _VAE_NAMES.items():
                stored = stored.replace(f".{new}.", f".{old}.")
        weight = sd_models.weight(f"{component}.{stored}", tuple(value.shape))
        drawn[name] = torch.from_numpy(weight)
    module.load_state_dict(drawn, assign=True)
    return module.requires_grad_(False).eval()


def make_unet(size: str) -> nn.Module:
    """diffusers' U-Net; nothing is allocated before its weights are drawn."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**sd_models.unet_config(size))
    return _fill(unet, "unet")


def make_encoder(size: str) -> nn.Module:
    """diffusers' autoencoder without its decoder."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**sd_models.vae_config(size))
        vae.decoder = nn.Identity()
    return _fill(vae, "vae")


def add_lora(
    unet: nn.Module, size: str, rank: int, device="cpu"
) -> dict[str, nn.Parameter]:
    """Puts LoRA and the camera embedding into a U-Net; returns what is trained."""
    trained = {}
    for name, module in list(unet.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(_PROJECTIONS):
            layer = LoRALinear(module, f"lora.{name}", rank)
            trained |= {f"lora.{name}.down": layer.down, f"lora.{name}.up": layer.up}
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, layer)
    width = unet.time_embedding.linear_2.out_features
    for layer, features in (("linear_1", 16), ("linear_2", width)):
        name = f"camera.{layer}"
        weight = _trained(f"{name}.weight", (features, width))
        bias = nn.Parameter(
            torch.from_numpy(sd_models.adapter(f"{name}.bias", (width,)))
        )
        trained |= {f"{name}.weight": weight, f"{name}.bias": bias}
    unet.to(device)  # and what was added
    trained = {k: nn.Parameter(x.detach().to(device)) for k, x in trained.items()}
    for name, module in unet.named_modules():
        if isinstance(module, LoRALinear):
            key = f"lora.{name}"
            module.down, module.up = trained[f"{key}.down"], trained[f"{key}.up"]
    camera = torch.from_numpy(sd_models.inputs(size)["camera"]).to(device)
    unet.time_embedding.register_forward_hook(_make_camera_hook(trained, camera))
    return trained


def _make_camera_hook(trained, camera):
    def hook(module, arguments, out):
        hidden = camera @ trained["camera.linear_1.weight"]
        hidden = nn.functional.silu(hidden + trained["camera.linear_1.bias"])
        hidden = hidden @ trained["camera.linear_2.weight"]
        return out + (hidden + trained["camera.linear_2.bias"]).to(out.dtype)

    return hook


def make_part(
    size: str, name: str, *, rank: int, noise, device="cpu", dtype=torch.float32
) -> Callable[[], dict]:
    """`run()`, which returns named arrays as our parts do.

    Args:
      size: of `sd_models.SIZES`.
      name: of the part, as in `benchmarks/sd_parts.py`.
      rank: of LoRA.
      noise: [1, h, w, 4] that the VAE's part adds to its mean.
      device: of weights and inputs.
      dtype: of the networks; what is trained and the render stay in float32.
    """
    given = {
        k: _placed(torch.from_numpy(x), device, dtype)
        for k, x in sd_models.inputs(size).items()
    }
    if name == "vae":
        noise = _placed(torch.from_numpy(noise), device, dtype)
        return _make_vae(make_encoder(size).to(device, dtype), given, noise)
    if name == "render":
        return _make_render(size, device)
    unet = make_unet(size).to(device, dtype)
    trained = {} if name == "unet" else add_lora(unet, size, rank, device)

    def denoise(batch, t):
        latents = given["latents"][:batch].permute(0, 3, 1, 2)
        out = unet(latents, t, given["text"][:batch], return_dict=False)[0]
        return out.permute(0, 2, 3, 1)

    def forward():
        batch = 2 if name == "unet" else 1
        with torch.no_grad():
            out = denoise(batch, given["t"][2 - batch])
        return {"out": _numbers(out)}

    def train():
        loss = torch.mean((denoise(1, given["t"][1]) - given["target"]) ** 2)
        grads = torch.autograd.grad(loss, list(trained.values()))
        named = zip(trained, grads, strict=True)
        return {"loss": _numbers(loss)} | {k: _numbers(g) for k, g in named}

    return train if name == "train" else forward


def _placed(value, device, dtype):
    return value.to(device, dtype if value.is_floating_point() else None)


def _numbers(value):
    return value.detach().float().cpu().numpy()


def _make_vae(vae, given, noise) -> Callable[[], dict]:
    def run():
        image = given["image"].requires_grad_()
        pixels = (2 * image - 1).permute(0, 3, 1, 2)
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise.permute(0, 3, 1, 2)
        latents = latents.permute(0, 2, 3, 1) * vae.config.scaling_factor
        (grads,) = torch.autograd.grad(torch.sum(latents * given["direction"]), [image])
        return {"latents": _numbers(latents), "image": _numbers(grads)}

    return run


# Chunks of rays that PyTorch is timed on, and how many such shares an image has.
_RAYS, _SHARES = 16_384, 16


def _make_render(size: str, device: str) -> Callable[[], dict]:
    """A sixteenth of the render: densities, then the image, then both again and back.

    As our render, rays are taken in chunks that are computed again for their gradient.
    Less is asked than of ours: no importance sampling (its density pass is there, its
    samples are stratified), linear interpolation in the grid, no environment.
    """
    grid, num_rays, chunk = _grid(size), _RAYS, 2048
    if size == "tiny":
        num_rays = chunk = 16
    params = {
        "table": (sum(grid.sizes), grid.features),
        "out/kernel": (grid.width, 4),
        "out/bias": (4,),
    }
    params = {
        k: nn.Parameter(_trained(k, shape).detach().to(device))
        for k, shape in params.items()
    }
    rays = sd_models.normal("rays", (num_rays, 3))
    directions = torch.from_numpy(rays).to(device)
    directions = nn.functional.normalize(directions)
    near, far = (torch.full((num_rays,), x, device=device) for x in (0.2, 1.8))
    rays, wave = (-directions, directions), torch.ones_like(directions)

    def render(start, num_samples):
        some = slice(start, start + chunk)
        return torch_nerf.render(
            params,
            [x[some] for x in rays],
            grid=grid,
            bounds=(near[some], far[some]),
            num_samples=num_samples,
            jitter=True,
        )

    def run():
        for value in params.values():
            value.grad = None
        with torch.no_grad():
            for start in range(0, num_rays, chunk):
                render(start, 64), render(start, 96)
        for start in range(0, num_rays, chunk):
            with torch.no_grad():
                render(start, 64)
            image = render(start, 96)
            torch.sum(image * wave[start : start + chunk]).backward()
        return {}

    return run


def share(name: str) -> int:
    """How many times the work of `make_part` the whole part is."""
    return _SHARES if name == "render" else 1


def _grid(size: str):
    levels, rows, finest = (16, 19, 2048) if size == "full" else (2, 8, 32)
    return hash_grid(
        num_levels=levels,
        features=2,
        log2_table_size=rows,
        min_resolution=16,
        max_resolution=finest,
    )
