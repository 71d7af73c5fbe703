"""Decoders: tokens and a cache in, logits and the cache out."""

from __future__ import annotations

from typing import Any

from zoo.architecture import POSITIONS, VOCABULARY, Architecture
from zoo.tiny import shrunk

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
_OWN_HEAD_SIZE: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 16}
"""Not hidden_size / heads, which would be 8: what Qwen3 and Gemma do."""
_HYBRID: dict[str, Any] = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
_MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}


def _row(name: str, **differing: Any) -> Architecture:
    return Architecture(name=name, family="decoder", task="text-generation", config={**_SIZES, **differing})


DECODERS: tuple[Architecture, ...] = (
    _row("GPT2LMHeadModel"),
    _row("OpenAIGPTLMHeadModel"),
    _row("GPTNeoXForCausalLM", rotary_pct=0.5),
    _row("GPTNeoXJapaneseForCausalLM"),
    _row("GPTJForCausalLM", rotary_dim=4),
    _row("GPTNeoForCausalLM", attention_types=[[["global", "local"], 1]], window_size=5),
    _row("OPTForCausalLM", ffn_dim=64, word_embed_proj_dim=32),
    _row("BloomForCausalLM"),
    _row("LlamaForCausalLM", **_GROUPED),
    _row("MistralForCausalLM", **_GROUPED, sliding_window=5),
    _row("MinistralForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID),
    _row("Ministral3ForCausalLM", **_OWN_HEAD_SIZE),
    _row("Qwen2ForCausalLM", **_GROUPED),
    _row("Qwen3ForCausalLM", **_OWN_HEAD_SIZE),
    _row("PhiForCausalLM", rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    _row("Phi3ForCausalLM", **_GROUPED, sliding_window=5, original_max_position_embeddings=POSITIONS),
    _row("GemmaForCausalLM", **_OWN_HEAD_SIZE),
    _row("Gemma2ForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID, query_pre_attn_scalar=16),
    _row("Gemma3ForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID, query_pre_attn_scalar=16),
    _row("VaultGemmaForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID, query_pre_attn_scalar=16),
    _row("SmolLM3ForCausalLM", **_GROUPED, no_rope_layers=[1, 0]),
    _row("FalconForCausalLM", new_decoder_architecture=True, num_kv_heads=2, alibi=False),
    _row("MptForCausalLM", n_layers=2, max_seq_len=POSITIONS, expansion_ratio=2),
    _row("Starcoder2ForCausalLM", **_GROUPED, sliding_window=5),
    _row("GPTBigCodeForCausalLM", multi_query=True),
    _row("OlmoForCausalLM", **_GROUPED, clip_qkv=8.0),
    _row("Olmo2ForCausalLM", **_GROUPED),
    _row("Olmo3ForCausalLM", **_GROUPED, **_HYBRID),
    _row("MixtralForCausalLM", **_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    _row("Qwen2MoeForCausalLM", **_GROUPED, **_MOE, num_experts=4, shared_expert_intermediate_size=40),
    _row("Qwen3MoeForCausalLM", **_OWN_HEAD_SIZE, **_MOE, num_experts=4),
    _row("OlmoeForCausalLM", **_GROUPED, num_experts=4, num_experts_per_tok=2),
    _row("PhimoeForCausalLM", **_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    _row("GptOssForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID, num_local_experts=4, num_experts_per_tok=2),
    _row("StableLmForCausalLM", **_GROUPED),
    _row("GraniteForCausalLM", **_GROUPED, embedding_multiplier=2.0, residual_multiplier=0.5, logits_scaling=2.0),
    _row("GraniteMoeForCausalLM", **_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    _row("CohereForCausalLM", **_GROUPED, logit_scale=0.5),
    _row("Cohere2ForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID, logit_scale=0.5),
    _row("BioGptForCausalLM"),
    _row("XGLMForCausalLM", ffn_dim=64),
    _row("CodeGenForCausalLM", rotary_dim=4),
    _row("PersimmonForCausalLM"),
    _row("NemotronForCausalLM", **_GROUPED, head_dim=8),
    _row("HeliumForCausalLM", **_GROUPED, head_dim=8),
    _row("GlmForCausalLM", **_OWN_HEAD_SIZE),
    _row("Glm4ForCausalLM", **_OWN_HEAD_SIZE),
    _row("Exaone4ForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID),
    _row("ArceeForCausalLM", **_GROUPED),
    _row("ApertusForCausalLM", **_GROUPED),
    _row("HunYuanDenseV1ForCausalLM", **_OWN_HEAD_SIZE),
    _row("Ernie4_5ForCausalLM", **_OWN_HEAD_SIZE),
    _row("SeedOssForCausalLM", **_OWN_HEAD_SIZE),
    _row("DiffLlamaForCausalLM", **_GROUPED),
    _row("JetMoeForCausalLM", num_key_value_heads=2, kv_channels=8, num_local_experts=4),
    _row("CwmForCausalLM", **_OWN_HEAD_SIZE, **_HYBRID),
    _row("BitNetForCausalLM", **_GROUPED),
    _row("DogeForCausalLM", **_GROUPED),
    _row("NanoChatForCausalLM", **_GROUPED),
    _row("CTRLLMHeadModel", dff=64),
    _row("ModernBertDecoderForCausalLM", local_attention=8, layer_types=["sliding_attention", "full_attention"]),
    _row("Lfm2ForCausalLM", **_GROUPED, layer_types=["conv", "full_attention"], block_ff_dim=64),
    _row("MambaForCausalLM", state_size=8),
    shrunk("DeepseekV32ForCausalLM", "text-generation"),
)
