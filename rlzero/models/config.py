"""One configuration for every system of the MoE line: names as in transformers and DeepSeek's own files."""

# Annotations are not postponed here: `strict` checks the type of each field, and lets pass annotations that are text.
from dataclasses import field
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from rlzero.models.config_check import check


@strict
class MoEConfig(PreTrainedConfig):
    """A decoder of which router, experts and mixer are chosen by name.

    Mixer
        attention_kind: "gqa" (MHA where num_key_value_heads equals num_attention_heads), "mla" or "lstm".
        sliding_window: positions that attention looks back on, its own included (Mistral's W); None is all.
        use_qk_norm: RMSNorm on queries and keys, per head (Qwen3).
        q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: MLA (2405.04434, §2.1).
        rope_interleave: rotary pairs are neighbours (DeepSeek) and not halves (Llama). MLA only.
    Feed-forward
        gated_mlp: SwiGLU, w2(act(w1 x) * w3 x); otherwise w2 act(w1 x), as before 2020.
        intermediate_size: width of a dense layer. moe_intermediate_size: of one expert.
        mlp_layer_types: "dense", "sparse" (experts) or "none" per layer. By default from first_k_dense_replace
        (so many dense layers first) and moe_layer_freq (after them, layers whose index it divides are sparse).
    Experts and router
        n_routed_experts (0: no layer is sparse), num_experts_per_tok, n_shared_experts.
        topk_method: how experts are chosen, see rlzero/models/router.py. scoring_func: "sigmoid" for `noaux_tc`,
        "softmax" for the others; by default what topk_method needs.
        norm_topk_prob: gates of the chosen experts are divided by their sum (`greedy`, `group_limited_greedy`,
        `noaux_tc`; the other kinds say themselves). routed_scaling_factor: and multiplied by this.
        n_group, topk_group: groups of experts (devices, nodes), and how many a token may reach.
        router_jitter_noise: Switch's ε; the router's input is multiplied by U(1 - ε, 1 + ε) in training.
    Training only: none of it changes a rollout
        balance: name of a balance loss (rlzero/models/balance.py) -> its weight.
        bias_update_speed: V3's γ for the bias of `noaux_tc`.
        drop_policy: "capacity" (GShard, Switch) or "device" (V2), None drops nothing. capacity_factor_train,
        capacity_factor_eval: capacity of an expert in multiples of its even share; None is without bound.
        num_nextn_predict_layers, mtp_loss_weight: V3's multi-token prediction, its depth D and λ.
    """

    model_type = "rlzero_moe"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts"}

    vocab_size: int = 32000
    hidden_size: int = 256
    num_hidden_layers: int = 4
    max_position_embeddings: int = 2048
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-6
    tie_word_embeddings: bool = False
    use_cache: bool = True
    output_router_logits: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    attention_kind: str = "gqa"
    num_attention_heads: int = 4
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    use_qk_norm: bool = False
    sliding_window: int | None = None
    rope_parameters: RopeParameters | dict | None = None
    rope_interleave: bool = True
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None

    hidden_act: str = "silu"
    gated_mlp: bool = True
    intermediate_size: int = 512
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1

    n_routed_experts: int = 0
    num_experts_per_tok: int = 2
    n_shared_experts: int = 0
    topk_method: str = "greedy"
    norm_topk_prob: bool = False
    routed_scaling_factor: float | int = 1.0
    n_group: int = 1
    topk_group: int = 1
    router_jitter_noise: float | int = 0.0

    balance: dict[str, Any] = field(default_factory=dict)
    bias_update_speed: float | int = 0.0
    drop_policy: str | None = None
    capacity_factor_train: float | int | None = None
    capacity_factor_eval: float | int | None = None
    num_nextn_predict_layers: int = 0
    mtp_loss_weight: float | int = 0.3

    if TYPE_CHECKING:
        num_key_value_heads: int
        head_dim: int
        moe_intermediate_size: int
        mlp_layer_types: list[str]
        scoring_func: str
    else:  # None until __post_init__ derives them from the fields above
        num_key_value_heads: int | None = None
        head_dim: int | None = None
        moe_intermediate_size: int | None = None
        mlp_layer_types: list[str] | None = None
        scoring_func: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # first: it also sets fields given by another name (num_experts)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.moe_intermediate_size is None:
            self.moe_intermediate_size = self.intermediate_size
        if self.scoring_func is None:
            self.scoring_func = "sigmoid" if self.topk_method == "noaux_tc" else "softmax"
        if self.head_dim is None and self.attention_kind == "mla":
            # transformers' rotary embedding reads head_dim, and MLA rotates only its decoupled part.
            self.head_dim = self.qk_rope_head_dim
        elif self.head_dim is None and self.num_attention_heads > 0:
            width, rest = divmod(self.hidden_size, self.num_attention_heads)
            self.head_dim = None if rest else width
        if self.mlp_layer_types is None and self.moe_layer_freq > 0:
            self.mlp_layer_types = [self._default_mlp(layer) for layer in range(self.num_hidden_layers)]
        # Here as well as in the validator: what a validator raises, @strict wraps into an error that is no ValueError.
        self.validate_architecture()

    def _default_mlp(self, layer: int) -> str:
        sparse = self.n_routed_experts > 0 and layer >= self.first_k_dense_replace and not layer % self.moe_layer_freq
        return "sparse" if sparse else "dense"

    def validate_architecture(self) -> None:
        """Refuse what cannot be built or would be wrong; transformers calls it when a configuration is saved."""
        check(self)

    def validate_layer_type(self) -> None:
        """In place of transformers', which does not know a layer without feed-forward part; checked above."""
