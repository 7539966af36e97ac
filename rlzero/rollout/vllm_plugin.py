"""How vLLM finds our decoder: the entry point of the group `vllm.general_plugins`, which vLLM calls when it starts."""

from __future__ import annotations

ARCHITECTURE = "MoEForCausalLM"


def register() -> None:
    """Make checkpoints of `rlzero_moe`, and those of DeepSeekMoE, known to vLLM; may be called often.

    Our decoder is imported when a checkpoint asks for it. vLLM has DeepSeekMoE's class, but no configuration for it.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from rlzero.models.config import MoEConfig
    from rlzero.models.native_table import DeepseekConfig

    for config_class in (MoEConfig, DeepseekConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"rlzero.rollout.vllm_decoder:{ARCHITECTURE}")
