"""A Llama or Qwen3 model as a GGUF file for llama.cpp.

    python jobs/bench/peers/gguf_file.py MODEL_DIR FILE float32|bfloat16

The `gguf` package writes files but converts no model. Runs in llama.cpp's environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from safetensors.numpy import load_file

QUANTIZATION = {"float32": GGMLQuantizationType.F32, "bfloat16": GGMLQuantizationType.BF16}
FILE_TYPE = {"float32": LlamaFileType.ALL_F32, "bfloat16": LlamaFileType.MOSTLY_BF16}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(model: Path, file: Path, dtype: str) -> None:
    """The file holds the model's weights in the dtype, its shape and its tokenizer."""
    config = json.loads((model / "config.json").read_text())
    writer = GGUFWriter(str(file), config["model_type"])
    writer.add_file_type(FILE_TYPE[dtype])
    _write_shape(writer, config)
    _write_tokenizer(writer, json.loads((model / "tokenizer.json").read_text()), config)
    for name, weight in load_file(model / "model.safetensors").items():
        if name == "lm_head.weight":  # tied: it is the embedding
            continue
        if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
            key = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            weight = _interleaved(weight, config[key])
        kind = GGMLQuantizationType.F32 if weight.ndim == 1 else QUANTIZATION[dtype]
        writer.add_tensor(_gguf_name(name), quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: Any, config: dict[str, Any]) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _write_tokenizer(writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Token ids are given and taken, so that only the number and the kinds of tokens count."""
    pieces = dict(tokenizer["model"]["vocab"])
    special = {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    pieces |= special
    ordered = sorted(pieces, key=pieces.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(ordered)
    kinds = [TokenType.CONTROL if piece in special else TokenType.NORMAL for piece in ordered]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def _interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows as llama.cpp's Llama rotates them: pairs side by side, not half a head apart."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _gguf_name(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, inner = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{IN_LAYER[inner]}.weight"


if __name__ == "__main__":
    source, target, precision = sys.argv[1:]
    write(Path(source), Path(target), precision)
    print(json.dumps({"bytes": Path(target).stat().st_size}))
