# SPDX-License-Identifier: Apache-2.0
"""What the settings of a prior's folder may say: keys, values, and what is ignored.

One table for each JSON file. A key that stands in no table changes the network in a way
that is not implemented, so it is refused; null says that what it names is absent. Keys
of `IGNORED` cannot change what is computed here. `docs/folders.md` shows all of this,
and a test compares them. Defaults are those of diffusers and transformers.
"""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from vsd_jax.diffusion.noise import PREDICTION_TYPES

REQUIRED = object()


class Key(NamedTuple):
    """One key of a table.

    Attributes:
      accepts: whether a value is implemented.
      values: the accepted ones, in words.
      default: what a missing key means; REQUIRED = it may not be missing.
      others: what other values are for, or "".
    """

    accepts: Callable[[Any], bool]
    values: str
    default: Any = REQUIRED
    others: str = ""


def one_of(*values: Any, others: str = "") -> Key:
    """A key with a few accepted values, the first of which is the default."""
    words = ", ".join(json.dumps(value) for value in values)
    return Key(lambda x: any(_same(x, v) for v in values), words, values[0], others)


def integer(default: Any = REQUIRED, *, low: int = 1) -> Key:
    """A whole number from `low` on."""
    return Key(lambda x: _is_int(x) and x >= low, f"a whole number >= {low}", default)


def number(low: float, high: float, default: Any = REQUIRED) -> Key:
    """A finite number above `low` and below `high`."""
    words = f"a number > {low:g}" + (f" and < {high:g}" if high < math.inf else "")
    return Key(lambda x: _is_number(x) and low < x < high, words, default)


def flag(default: bool) -> Key:
    """true or false, both implemented."""
    return Key(lambda x: isinstance(x, bool), "true, false", default)


def list_of(*words: str, default: tuple[str, ...]) -> Key:
    """A list of some of these words."""
    return Key(
        lambda x: is_list(x) and all(isinstance(w, str) and w in words for w in x),
        "a list of " + ", ".join(json.dumps(word) for word in words),
        default,
    )


def integers(default: tuple[int, ...]) -> Key:
    """A list of whole numbers above 0."""
    return Key(_are_ints, "a list of whole numbers >= 1", default)


def _same(value: Any, wanted: Any) -> bool:
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)


def is_list(value: Any) -> bool:
    """Whether a value is a list that holds something."""
    return isinstance(value, list | tuple) and len(value) > 0


def _are_ints(value: Any) -> bool:
    return is_list(value) and all(_is_int(x) and x > 0 for x in value)


def _all_same(wanted: Any) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        return all(_same(x, wanted) for x in (value if is_list(value) else [value]))

    return accepts


def _is_length(value: Any) -> bool:
    # transformers writes 1e30 for "no limit".
    return _is_number(value) and value >= 3 and value == int(value)


_SILU = ("silu", "swish")  # two names of one function
_SDXL = "SDXL, Kandinsky and others add more than the text"
_CLASSES = "a picture's or class's embedding, as in unCLIP, upscalers and depth models"
_PIXEL = "DeepFloyd IF and other models of pixels"
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")

UNET = {
    "_class_name": one_of(
        "UNet2DConditionModel",
        "FlaxUNet2DConditionModel",
        others="video, motion and unconditional U-Nets, ControlNets, transformers",
    ),
    "sample_size": integer(),
    "in_channels": integer(4),
    "out_channels": integer(4),
    "down_block_types": list_of(
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        default=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    ),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn", None, others=_PIXEL),
    "up_block_types": list_of(
        "CrossAttnUpBlock2D",
        "UpBlock2D",
        default=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ),
    "block_out_channels": integers((320, 640, 1280, 1280)),
    "layers_per_block": integer(2),
    "attention_head_dim": Key(
        lambda x: _are_ints(x if is_list(x) else [x]),
        "a whole number >= 1, or one for each level (the number of heads)",
        8,
    ),
    "cross_attention_dim": integer(1280),
    "use_linear_projection": flag(False),
    "upcast_attention": one_of(False, True, None),
    "flip_sin_to_cos": flag(True),
    "freq_shift": one_of(0, 1),
    "act_fn": one_of(*_SILU),
    "norm_num_groups": one_of(32),
    "norm_eps": one_of(1e-5),
    "transformer_layers_per_block": Key(
        _all_same(1), "1, or 1 for each level", 1, "SDXL"
    ),
    "only_cross_attention": Key(
        _all_same(False), "false, or false for each level", False, "upscalers"
    ),
    "downsample_padding": one_of(1),
    "mid_block_scale_factor": one_of(1),
    "center_input_sample": one_of(False),
    "conv_in_kernel": one_of(3),
    "conv_out_kernel": one_of(3),
    "dual_cross_attention": one_of(False, None),
    "num_attention_heads": one_of(None, others="attention_head_dim gives them"),
    "reverse_transformer_layers_per_block": one_of(None, others="SDXL"),
    "encoder_hid_dim": one_of(None, others=_SDXL),
    "encoder_hid_dim_type": one_of(None, others=_SDXL),
    "addition_embed_type": one_of(None, others=_SDXL),
    "class_embed_type": one_of(None, others=_CLASSES),
    "num_class_embeds": one_of(None, others=_CLASSES),
    "class_embeddings_concat": one_of(False, None, others=_CLASSES),
    "time_cond_proj_dim": one_of(
        None, others="the guidance scale as an input, as in latent consistency models"
    ),
    "time_embedding_type": one_of("positional", others=_PIXEL),
    "time_embedding_dim": Key(
        lambda x: x is None or _is_int(x),
        "null, or four times the first of block_out_channels",
        None,
    ),
    "time_embedding_act_fn": one_of(None, others=_PIXEL),
    "timestep_post_act": one_of(None, others=_PIXEL),
    "resnet_time_scale_shift": one_of("default", others=_PIXEL),
    "resnet_skip_time_act": one_of(False, others=_PIXEL),
    "resnet_out_scale_factor": one_of(1, others=_PIXEL),
    "cross_attention_norm": one_of(None, others=_PIXEL),
    "attention_type": one_of("default", others="GLIGEN's boxes"),
}

VAE = {
    "_class_name": one_of(
        "AutoencoderKL",
        "FlaxAutoencoderKL",
        others="tiny, asymmetric, consistency and vector-quantised autoencoders",
    ),
    "in_channels": one_of(3),
    "out_channels": one_of(3),
    "latent_channels": integer(4),
    "down_block_types": list_of("DownEncoderBlock2D", default=("DownEncoderBlock2D",)),
    "up_block_types": list_of("UpDecoderBlock2D", default=("UpDecoderBlock2D",)),
    "block_out_channels": integers((64,)),
    "layers_per_block": integer(1),
    "norm_num_groups": integer(32),
    "act_fn": one_of(*_SILU),
    "scaling_factor": number(0, math.inf, 0.18215),
    "shift_factor": one_of(None, 0, others="SD3 and Flux"),
    "latents_mean": one_of(None, others="SDXL's fine-tuned and video models"),
    "latents_std": one_of(None, others="SDXL's fine-tuned and video models"),
    "use_quant_conv": one_of(True, others="SD3 and Flux"),
    "use_post_quant_conv": one_of(True, others="SD3 and Flux"),
    "mid_block_add_attention": one_of(True),
}

TEXT = {
    "model_type": one_of(
        "clip_text_model", others="BERT, T5 and other towers, or CLIP with its pictures"
    ),
    "architectures": Key(
        list_of("CLIPTextModel", "CLIPTextModelWithProjection", default=()).accepts,
        '["CLIPTextModel"], ["CLIPTextModelWithProjection"]',
        ("CLIPTextModel",),
    ),
    "vocab_size": integer(49408),
    "hidden_size": integer(512),
    "intermediate_size": integer(2048),
    "num_hidden_layers": integer(12),
    "num_attention_heads": integer(8),
    "max_position_embeddings": integer(77, low=3),
    "hidden_act": one_of("quick_gelu", *_ACTIVATIONS),
    "layer_norm_eps": number(0, 1, 1e-5),
    "use_attention_mask": one_of(False, None),
    "pruned_heads": one_of({}, None),
}

TOKENIZER = {
    "tokenizer_class": one_of(
        "CLIPTokenizer",
        "CLIPTokenizerFast",
        others="other text towers",
    ),
    "model_max_length": Key(
        _is_length,
        "a whole number >= 3; at most max_position_embeddings are read",
        math.inf,
    ),
    "padding_side": one_of("right", "left"),
    "truncation_side": one_of("right", "left"),
}

_BETAS = (
    *("DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LCM"),
    *("TCD", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep"),
    *("DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE"),
    *("DEISMultistep", "UniPCMultistep", "SASolver"),
)
_FLAX = ("DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "DPMSolverMultistep")
NO_BETAS = "flow matching, EDM, consistency and cosine schedules"

SCHEDULER = {
    "_class_name": one_of(
        *(f"{name}Scheduler" for name in _BETAS),
        *(f"Flax{name}Scheduler" for name in _FLAX),
        others=f"{NO_BETAS}, which have no betas",
    ),
    "num_train_timesteps": integer(1000, low=2),
    "beta_start": number(0, 1, None),
    "beta_end": number(0, 1, None),
    "beta_schedule": one_of("scaled_linear", "linear", others=NO_BETAS)._replace(
        default=None
    ),
    "trained_betas": Key(
        lambda x: (
            x is None or (is_list(x) and all(_is_number(b) and 0 <= b <= 1 for b in x))
        ),
        "null, or a list of num_train_timesteps numbers from 0 to 1",
        None,
    ),
    "prediction_type": one_of(*PREDICTION_TYPES, others="flow matching"),
    "rescale_betas_zero_snr": flag(False),
    "timestep_type": one_of("discrete", others="EDM and video models"),
    "use_flow_sigmas": one_of(False, None, others="flow matching"),
    "use_dynamic_shifting": one_of(False, None, others="flow matching"),
}

IGNORED = {
    "unet": (
        # Without what they belong to, these have no effect.
        *("addition_time_embed_dim", "addition_embed_type_num_heads"),
        *("projection_class_embeddings_input_dim", "mid_block_only_cross_attention"),
        # Of training, of memory.
        *("dropout", "gradient_checkpointing", "use_memory_efficient_attention"),
        *("split_head_dim", "dtype"),
        # Left by an average of weights (diffusers' EMAModel).
        *("decay", "inv_gamma", "max_value", "min_value", "min_decay", "power"),
        *("optimization_step", "update_after_step", "use_ema_warmup", "collected"),
    ),
    "vae": ("sample_size", "force_upcast", "gradient_checkpointing", "dtype"),
    "text_encoder": (
        # Only the pooled text reads these; Stable Diffusion does not.
        *("bos_token_id", "eos_token_id", "pad_token_id", "projection_dim"),
        # Of training and of how numbers are stored.
        *("attention_dropout", "dropout", "initializer_factor", "initializer_range"),
        *("torch_dtype", "dtype", "use_bfloat16", "gradient_checkpointing"),
        # Of the library that wrote the file.
        *("transformers_version", "torchscript", "return_dict", "output_attentions"),
        *("output_hidden_states", "use_cache", "tie_word_embeddings", "id2label"),
        *("label2id", "name_or_path", "chunk_size_feed_forward", "is_decoder"),
        *("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"),
        *("cross_attention_hidden_size", "attn_implementation", "problem_type"),
        *("finetuning_task", "task_specific_params", "tokenizer_class", "prefix"),
        # Of writing texts.
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
        *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "bad_words_ids"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "sep_token_id"),
        *("num_return_sequences", "output_scores", "return_dict_in_generate"),
        *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
        *("exponential_decay_length_penalty", "suppress_tokens"),
        *("begin_suppress_tokens", "decoder_start_token_id", "tf_legacy_loss"),
    ),
    "tokenizer": (
        # Handed on to the tokenizer as they are.
        *("bos_token", "eos_token", "unk_token", "pad_token", "added_tokens_decoder"),
        *("additional_special_tokens", "extra_special_tokens", "split_special_tokens"),
        # CLIP's always makes small letters and knows no space before a text.
        *("do_lower_case", "add_prefix_space", "errors", "use_fast", "legacy"),
        *("clean_up_tokenization_spaces", "model_input_names", "chat_template"),
        # Options of one call, written by mistake; names of files.
        *("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"),
        *("pad_token_type_id", "name_or_path", "special_tokens_map_file"),
        *("tokenizer_file", "vocab_file", "merges_file", "processor_class"),
        *("add_bos_token", "add_eos_token", "backend", "is_local", "model_specific"),
    ),
    "scheduler": (
        # How samples are drawn; here nothing is sampled with the scheduler.
        *("timestep_spacing", "steps_offset", "set_alpha_to_one", "skip_prk_steps"),
        *("clip_sample", "clip_sample_range", "thresholding", "sample_max_value"),
        *("dynamic_thresholding_ratio", "variance_type", "original_inference_steps"),
        *("timestep_scaling", "interpolation_type", "sigma_min", "sigma_max"),
        *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
        *("use_lu_lambdas", "final_sigmas_type", "solver_order", "solver_type"),
        *("solver_p", "algorithm_type", "lower_order_final", "euler_at_final"),
        *("lambda_min_clipped", "predict_x0", "disable_corrector", "predict_epsilon"),
        *("predictor_order", "corrector_order", "tau_func", "noise_sampler_seed"),
        *("flow_shift", "shift_terminal", "time_shift_type", "dtype"),
        *("tensor_format",),
    ),
}

TABLES = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": TEXT,
    "tokenizer": TOKENIZER,
    "scheduler": SCHEDULER,
}
