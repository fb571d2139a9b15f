# SPDX-License-Identifier: Apache-2.0
"""Settings of a prior's folder: published ones pass, all others are named."""

import json
import pathlib

import pytest

from vsd_jax.program.prior import accepted, json_files, settings_check
from vsd_jax.program.prior.json_files import WeightsError

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "folders.md"
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "tokenizer": "tokenizer/tokenizer_config.json",
    "scheduler": "scheduler/scheduler_config.json",
}

# As the publishers wrote them.
SD14_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD2_UNET = SD14_UNET | {
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": True,
}
CONVERTED_UNET = SD14_UNET | {"upcast_attention": None}  # as diffusers' script says
SD21_UNET = SD2_UNET | {"sample_size": 96, "upcast_attention": True}
BK_SDM_UNET = SD14_UNET | {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 1,
    "mid_block_type": None,
    "class_embed_type": None,
    "resnet_time_scale_shift": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
VAE14 = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
VAE_NEW = VAE14 | {
    "_name_or_path": "stabilityai/sd-vae-ft-mse",
    "force_upcast": True,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
TEXT14 = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.21.0.dev0",
    "vocab_size": 49408,
}
TEXT2 = TEXT14 | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
PNDM = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.7.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
DDIM2 = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
DPM = PNDM | {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "lambda_min_clipped": -float("inf"),
    "prediction_type": "epsilon",
    "solver_order": 2,
    "timestep_spacing": "leading",
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "variance_type": None,
}
TOKENIZER = {
    "add_prefix_space": False,
    "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>"},
    "do_lower_case": True,
    "eos_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
    "errors": "replace",
    "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14",
    "pad_token": "<|endoftext|>",
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": "<|endoftext|>",
}
PUBLISHED = {
    "unet": [
        SD14_UNET,
        SD14_UNET | {"sample_size": 32},  # miniSD
        SD2_UNET,
        SD21_UNET,
        CONVERTED_UNET,
        BK_SDM_UNET,
        SD14_UNET | {"decay": 0.9999, "power": 0.75, "optimization_step": 9},
    ],
    "vae": [VAE14, VAE_NEW],
    "text_encoder": [TEXT14, TEXT2],
    "tokenizer": [TOKENIZER, TOKENIZER | {"model_max_length": int(1e30)}],
    "scheduler": [PNDM, DDIM2, DPM],
}


@pytest.mark.parametrize("component", PUBLISHED)
def test_published_settings_are_understood(component):
    for config in PUBLISHED[component]:
        settings = settings_check.check(component, json.loads(json.dumps(config)))
        assert settings.keys() == accepted.TABLES[component].keys()
        for key in settings.keys() & config.keys():
            assert settings[key] == config[key]


def test_what_is_missing_is_what_diffusers_takes():
    vae = settings_check.check("vae", VAE14)
    assert vae["scaling_factor"] == 0.18215 and vae["norm_num_groups"] == 32
    assert settings_check.check("scheduler", PNDM)["prediction_type"] == "epsilon"
    unet = settings_check.check("unet", {"sample_size": 64})
    assert unet["block_out_channels"] == (320, 640, 1280, 1280)


# Of each: (what differs, what the sentence names). Where diffusers would build another
# network or give it another input, or reads another noise level.
CHANGES = {
    "unet": [
        ({"class_embed_type": "projection"}, 'class_embed_type="projection"'),
        ({"class_embed_type": "timestep"}, "unCLIP"),
        ({"num_class_embeds": 1000}, "num_class_embeds=1000"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim=256.*consistency"),
        ({"attention_type": "gated"}, 'attention_type="gated".*GLIGEN'),
        ({"encoder_hid_dim": 1024}, "encoder_hid_dim=1024"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type.*SDXL"),
        ({"act_fn": "gelu"}, 'act_fn="gelu".*"silu"'),
        ({"act_fn": "mish"}, "act_fn"),
        ({"norm_num_groups": 16}, "norm_num_groups=16.*32"),
        ({"norm_num_groups": None}, "norm_num_groups=null"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06"),
        ({"cross_attention_dim": [768] * 4}, "cross_attention_dim"),
        ({"sample_size": None}, "sample_size=null"),
        ({"sample_size": [64, 64]}, r"sample_size=\[64, 64\]"),
        ({"sample_size": 0}, "sample_size=0"),
        ({"sample_size": True}, "sample_size=true"),
        ({"sample_size": 60}, "sample_size=60 cannot be halved 3 times"),
        ({"layers_per_block": [2, 2, 2, 1]}, "layers_per_block"),
        ({"in_channels": 9}, "in_channels=9.*inpainting"),
        ({"in_channels": 5}, "in_channels=5.*depth"),
        ({"in_channels": 8}, "in_channels=8.*InstructPix2Pix"),
        ({"out_channels": 8}, "out_channels=8.*variances"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types"),
        ({"up_block_types": ["SimpleCrossAttnUpBlock2D"] * 4}, "up_block_types"),
        ({"down_block_types": ["DownBlock2D"] * 3}, r"\[4, 3, 4\] entries"),
        ({"down_block_types": "DownBlock2D"}, "down_block_types"),
        ({"block_out_channels": [320, 640, 1280, 1290]}, "multiples of 32"),
        ({"block_out_channels": "320"}, "block_out_channels"),
        ({"attention_head_dim": [8, 8]}, "not one for each of 4"),
        ({"attention_head_dim": 7}, "7: that many heads do not divide 320"),
        ({"attention_head_dim": None}, "attention_head_dim=null"),
        ({"num_attention_heads": 8}, "num_attention_heads=8"),
        ({"only_cross_attention": [True, True, True, False]}, "only_cross_attention"),
        ({"transformer_layers_per_block": [1, 2, 10, 10]}, "transformer_layers"),
        ({"dual_cross_attention": True}, "dual_cross_attention=true"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"resnet_skip_time_act": True}, "resnet_skip_time_act"),
        ({"resnet_out_scale_factor": 2.0}, "resnet_out_scale_factor"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"time_embedding_dim": 1000}, "time_embedding_dim=1000 is not 4 x 320"),
        ({"time_embedding_act_fn": "silu"}, "time_embedding_act_fn"),
        ({"timestep_post_act": "silu"}, "timestep_post_act"),
        ({"center_input_sample": True}, "center_input_sample"),
        ({"downsample_padding": 0}, "downsample_padding"),
        ({"mid_block_scale_factor": 1.41}, "mid_block_scale_factor"),
        ({"conv_in_kernel": 1}, "conv_in_kernel"),
        ({"conv_out_kernel": 1}, "conv_out_kernel"),
        ({"class_embeddings_concat": True}, "class_embeddings_concat"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm"),
        ({"freq_shift": 2}, "freq_shift=2"),
        ({"flip_sin_to_cos": "yes"}, "flip_sin_to_cos"),
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"num_frames": 16}, "num_frames=16 .no such key is known"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config"),
    ],
    "vae": [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"shift_factor": 0.0609}, "shift_factor=0.0609.*SD3"),
        ({"latents_mean": [0.0] * 4}, "latents_mean"),
        ({"latents_std": [1.0] * 4}, "latents_std"),
        ({"use_quant_conv": False}, "use_quant_conv"),
        ({"use_post_quant_conv": False}, "use_post_quant_conv"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention"),
        ({"scaling_factor": None}, "scaling_factor=null"),
        ({"scaling_factor": 0}, "scaling_factor=0"),
        ({"scaling_factor": float("nan")}, "scaling_factor=NaN"),
        ({"layers_per_block": [2, 2, 2, 2]}, "layers_per_block"),
        ({"in_channels": 4}, "in_channels=4"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, r"\[4, 4, 3\]"),
        ({"norm_num_groups": 48}, "norm_num_groups=48"),
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ({"_class_name": "VQModel", "num_vq_embeddings": 8192}, "VQModel.*num_vq"),
    ],
    "text_encoder": [
        ({"model_type": "bert"}, 'model_type="bert"'),
        ({"model_type": "clip", "text_config": {}}, "text_config"),
        ({"architectures": ["T5EncoderModel"]}, "architectures"),
        ({"hidden_act": "mish"}, 'hidden_act="mish"'),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps"),
        ({"use_attention_mask": True}, "use_attention_mask"),
        ({"num_attention_heads": 7}, "does not divide hidden_size=768"),
        ({"max_position_embeddings": None}, "max_position_embeddings=null"),
        ({"vocab_size": 49408.5}, "vocab_size"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
    "tokenizer": [
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "XLMRobertaTokenizer"),
        ({"model_max_length": None}, "model_max_length=null"),
        ({"model_max_length": "77"}, "model_max_length"),
        ({"model_max_length": 2}, "model_max_length=2"),
        ({"padding_side": "middle"}, "padding_side"),
        ({"auto_map": {"AutoTokenizer": "code.py"}}, "auto_map"),
    ],
    "scheduler": [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch.*no betas"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, "CogVideoX"),
        ({"prediction_type": None}, "prediction_type=null"),
        ({"prediction_type": "v-prediction"}, 'v-prediction".*"v_prediction"'),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"beta_start": None}, "beta_start=null"),
        ({"beta_end": "0.012"}, 'beta_end="0.012"'),
        ({"beta_end": 1.5}, "beta_end=1.5"),
        ({"beta_schedule": None}, "beta_schedule=null"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2.*scaled_linear"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps"),
        ({"trained_betas": [0.1, "0.2"]}, "trained_betas"),
        ({"trained_betas": [0.1, 0.2]}, "2 entries, num_train_timesteps=1000"),
        ({"trained_betas": []}, "trained_betas"),
        ({"rescale_betas_zero_snr": "yes"}, "rescale_betas_zero_snr"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=true"),
        ({"timestep_type": "continuous"}, "timestep_type"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale"),
    ],
}
CASES = [
    pytest.param(component, change, match, id=f"{component}-{i}-{next(iter(change))}")
    for component, changes in CHANGES.items()
    for i, (change, match) in enumerate(changes)
]


@pytest.mark.parametrize("component, change, match", CASES)
def test_anything_else_is_named(component, change, match):
    config = PUBLISHED[component][0] | change
    with pytest.raises(WeightsError, match=match) as caught:
        settings_check.check(component, config, "HERE/config.json")
    said = str(caught.value)
    assert said.startswith("HERE/config.json") and "docs/folders.md" in said
    assert "\n" not in said


def test_all_faults_are_told_at_once():
    config = SD14_UNET | {"time_cond_proj_dim": 256, "act_fn": "gelu"}
    with pytest.raises(WeightsError, match="act_fn.*time_cond_proj_dim"):
        settings_check.check("unet", config)


def test_a_schedule_needs_betas():
    config = {k: v for k, v in PNDM.items() if not k.startswith("beta_")}
    with pytest.raises(WeightsError, match="no beta_start, beta_end, beta_schedule"):
        settings_check.check("scheduler", config)
    betas = {"trained_betas": [0.1] * 5, "num_train_timesteps": 5}
    assert settings_check.check("scheduler", config | betas)["trained_betas"]
    with pytest.raises(WeightsError, match="lacks sample_size"):
        settings_check.check("unet", {})


def test_unknown_keys_pass_only_if_they_say_nothing():
    assert settings_check.check("unet", SD14_UNET | {"_anything": 1, "new_part": None})
    for value in (False, 0, [], "x"):
        with pytest.raises(WeightsError, match="new_part"):
            settings_check.check("unet", SD14_UNET | {"new_part": value})


def test_no_key_is_both_read_and_ignored():
    for component, table in accepted.TABLES.items():
        assert not table.keys() & set(accepted.IGNORED[component])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_any_unicode_is_read(tmp_path, encoding):
    file = tmp_path / "config.json"
    file.write_bytes(json.dumps({"a": "ü"}, ensure_ascii=False).encode(encoding))
    assert json_files.read_object(file) == {"a": "ü"}


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1059962\n"
ODD = {
    "[]": r"holds \[\], not an object",
    "null": "holds null",
    '"text"': "not an object",
    "": "cannot be read as JSON",
    '{"a": 1': "cannot be read as JSON",
    "[" * 100_000: "cannot be read as JSON",
    '{"a": 1, "b": 2, "a": 3}': "the key 'a' stands twice",
    LFS: "Git LFS.*git lfs pull",
}


@pytest.mark.parametrize("text", ODD, ids=lambda text: repr(text[:12]))
def test_odd_files_are_a_sentence(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(WeightsError, match=ODD[text]) as caught:
        json_files.read_object(file)
    assert str(file) in str(caught.value)
    file.write_bytes(b"\xff\xfe\xff{")
    with pytest.raises(WeightsError, match="cannot be read"):
        json_files.read_object(file)


def section(component: str) -> str:
    """A component's part of `docs/folders.md`."""
    rows = [
        f"| `{key}` | {row.values} | {_default(row)} | {row.others} |"
        for key, row in accepted.TABLES[component].items()
    ]
    head = "| key | accepted | if it is missing | other values are for |"
    ignored = ", ".join(f"`{key}`" for key in accepted.IGNORED[component])
    table = "\n".join([head, "|---|---|---|---|", *rows])
    return f"## `{FILES[component]}`\n\n{table}\n\nIgnored: {ignored}.\n"


def _default(row: accepted.Key) -> str:
    if row.default is accepted.REQUIRED:
        return "refused"
    return settings_check.show(row.default)


@pytest.mark.parametrize("component", accepted.TABLES)
def test_the_document_shows_the_tables(component):
    assert section(component) in DOCS.read_text(), section(component)
