"""What our decoder needs of vLLM's cache; needs no vLLM."""

import pytest

from rlzero.models.presets import preset
from rlzero.rollout.vllm_cpu_options import attention_shape, cpu_options


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("mixtral-8x7b", {}, (2, 32)),
        ("mixtral-8x7b", {"head_dim": 16}, (2, 32)),
        ("mixtral-8x7b", {"head_dim": 100}, (2, 112)),
        ("deepseek-v2", {}, (4, 96)),
        ("deepseek-v2", {"qk_nope_head_dim": 48, "v_head_dim": 120}, (4, 128)),
    ],
)
def test_narrow_heads_are_padded_to_a_width_that_vllm_knows(name, settings, shape):
    assert attention_shape(preset(name, tiny=True, **settings)) == shape


def test_heads_wider_than_vllm_knows_are_refused():
    with pytest.raises(ValueError, match=r"at most 512 numbers.*have 640 \(attention_kind='gqa'\)"):
        attention_shape(preset("mixtral-8x7b", tiny=True, head_dim=640))


def test_the_cache_holds_the_heads_that_our_class_keeps():
    for name, heads, width in (("mistral-7b", 2, 32), ("deepseek-v3", 4, 96)):
        config = preset(name, tiny=True)
        cache = cpu_options(config, "float32", max_model_len=200, max_num_seqs=8)["kv_cache_memory_bytes"]
        # Two blocks of 128 tokens a sequence.
        assert cache == 8 * 2 * 128 * config.num_hidden_layers * 2 * heads * width * 4
