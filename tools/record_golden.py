# SPDX-License-Identifier: Apache-2.0
"""Records what PyTorch diffusers and transformers make of tiny Stable Diffusions.

  pip install torch diffusers==0.37.1 "transformers<5" && pip install -e .
  python tools/record_golden.py

Writes tests/golden/ARCHITECTURE.npz (inputs and outputs) and .json (names and shapes of
the weights, which `tests/golden_models.py` makes from their names). Only needed when an
architecture is added; the tests read the files without PyTorch.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import golden_models as golden  # noqa: E402

from configs import toybox_prior  # noqa: E402
from vsd_jax.toybox import prior_files  # noqa: E402

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def fill(model: torch.nn.Module, component: str) -> dict[str, list[int]]:
    """Gives a model its weights; returns names and shapes."""
    state = {
        name: torch.from_numpy(golden.tensor(f"{component}.{name}", tuple(old.shape)))
        for name, old in model.state_dict().items()
        if old.is_floating_point()
    }
    model.load_state_dict(state, strict=False)
    model.eval()
    return {name: list(value.shape) for name, value in state.items()}


def tokenizer() -> CLIPTokenizer:
    """The embedded prior's tokenizer at the length of these models."""
    with tempfile.TemporaryDirectory() as folder:
        config = toybox_prior.get_config("smoke").to_dict()
        config["text_length"] = golden.TEXT_LENGTH
        prior_files.write_folder(pathlib.Path(folder), config, list(golden.WORDS))
        return CLIPTokenizer.from_pretrained(str(pathlib.Path(folder) / "tokenizer"))


def encode_text(name: str, names: dict) -> tuple[np.ndarray, torch.Tensor]:
    """Ids [N, L] and embeddings [N, L, D] of the texts."""
    tokens = tokenizer()
    ids = tokens(
        list(golden.TEXTS),
        padding="max_length",
        truncation=True,
        max_length=golden.TEXT_LENGTH,
        return_tensors="pt",
    ).input_ids
    config = CLIPTextConfig(
        **golden.ARCHITECTURES[name]["text"],
        vocab_size=len(tokens),
        eos_token_id=tokens.eos_token_id,
        bos_token_id=tokens.bos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model = CLIPTextModel(config)
    names["text_encoder"] = fill(model, "text_encoder")
    return ids.numpy(), model(ids).last_hidden_state


def add_lora(unet: UNet2DConditionModel) -> None:
    """W + up^T down^T on every attention projection, as merged weights."""
    for name, module in unet.named_modules():
        if name.endswith(TARGETS):
            width_out, width_in = module.weight.shape
            path = "lora." + name.replace(".", "_")
            down = golden.score_tensor(f"{path}.down", (width_in, golden.RANK))
            up = golden.score_tensor(f"{path}.up", (golden.RANK, width_out))
            module.weight.data += torch.from_numpy((down @ up).T)


def camera_embedding(camera: torch.Tensor, features: int) -> torch.Tensor:
    """The two-layer MLP of the score network."""

    def layer(name, value, width):
        kernel = golden.score_tensor(f"camera.{name}.kernel", (value.shape[1], width))
        bias = golden.score_tensor(f"camera.{name}.bias", (width,))
        return value @ torch.from_numpy(kernel) + torch.from_numpy(bias)

    hidden = torch.nn.functional.silu(layer("linear_1", camera, features))
    return layer("linear_2", hidden, features)


def to_noise(raw, noisy, t, alphas_cumprod, prediction_type):
    """The noise that a prediction implies."""
    alpha = alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    return raw if prediction_type == "epsilon" else alpha * raw + sigma * noisy


def record(name: str) -> tuple[dict, dict]:
    """Arrays and names of one architecture."""
    names: dict = {}
    found: dict = {}
    kind = golden.ARCHITECTURES[name]["prediction_type"]
    found["ids"], text = encode_text(name, names)
    unet = UNet2DConditionModel(**golden.ARCHITECTURES[name]["unet"])
    names["unet"] = fill(unet, "unet")
    vae = AutoencoderKL(**golden.VAE)
    names["vae"] = fill(vae, "vae")
    scheduler = DDIMScheduler.from_config(golden.schedule(name))
    alphas_cumprod = scheduler.alphas_cumprod

    image = torch.sigmoid(torch.from_numpy(golden.random("image", (2, 16, 16, 3))))
    posterior = vae.encode(2 * image.permute(0, 3, 1, 2) - 1).latent_dist
    latents = posterior.mean * vae.config.scaling_factor
    decoded = vae.decode(latents / vae.config.scaling_factor).sample
    noise = torch.from_numpy(golden.random("noise", (2, 4, 8, 8)))
    t = torch.tensor([200, 700])
    noisy = scheduler.add_noise(latents, noise, t)
    teacher = unet(noisy, t, text[[2, 0]]).sample
    found |= {
        "alphas_cumprod": alphas_cumprod,
        "text": text,
        "image": image,
        "vae_mean": posterior.mean,
        "vae_std": posterior.std,
        "decoded": decoded,
        "noise": noise,
        "t": t,
        "noisy": noisy,
        "unet": teacher,
    }
    plain = unet(noisy, t, text[[1, 1]]).sample
    camera = torch.from_numpy(golden.random("camera", (2, 16)))
    features = unet.time_embedding.linear_2.out_features
    embedding = camera_embedding(camera, features)
    unet.time_embedding.register_forward_hook(lambda m, i, out: out + embedding)
    add_lora(unet)
    score = unet(noisy, t, text[[0, 0]]).sample
    guided = plain + 7.5 * (teacher - plain)
    noise_prior = to_noise(guided, noisy, t, alphas_cumprod, kind)
    noise_score = to_noise(score, noisy, t, alphas_cumprod, kind)
    weight = (1 - alphas_cumprod[t]).view(-1, 1, 1, 1)
    found |= {
        "camera": camera,
        "score": score,
        "vsd": weight * (noise_prior - noise_score),
        "sds": weight * (noise_prior - noise),
    }
    arrays = {key: np.asarray(value) for key, value in found.items()}
    return arrays, names


def main() -> None:
    """Records all architectures."""
    golden.GOLDEN.mkdir(exist_ok=True)
    for name in golden.ARCHITECTURES:
        with torch.no_grad():
            arrays, names = record(name)
        np.savez_compressed(golden.GOLDEN / f"{name}.npz", **arrays)
        (golden.GOLDEN / f"{name}.json").write_text(json.dumps(names))
        print(name, {key: value.shape for key, value in arrays.items()})


if __name__ == "__main__":
    main()
