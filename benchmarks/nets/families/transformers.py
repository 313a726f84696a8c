"""Small transformers of Hugging Face, untrained: encoders, decoders, both, experts, speech."""

from functools import partial
from typing import Any

import torch
import transformers as hf

from benchmarks.nets.case import Build, Case, Task, by_its_own_loss, draws, loader, tokens

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 16}


def classifying(config: Any, model: type[Any]) -> Case:
    samples = [{"input_ids": ids, "labels": torch.tensor(i % 4)} for i, ids in enumerate(tokens())]
    return Case(Task(model(config(num_labels=4)), by_its_own_loss), loader(samples))


def speaking(config: Any, model: type[Any]) -> Case:
    samples = [{"input_ids": ids, "labels": ids} for ids in tokens()]
    return Case(Task(model(config()), by_its_own_loss), loader(samples))


def vit() -> Case:
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    config.num_labels = 4
    generator = draws()
    samples = [
        {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.tensor(i % 4)}
        for i in range(12)
    ]
    return Case(Task(hf.ViTForImageClassification(config), by_its_own_loss), loader(samples))


def speech() -> Case:
    """A convolution over positions with weight norm."""
    config = hf.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        num_labels=4,
        apply_spec_augment=False,
        classifier_proj_size=16,
    )
    generator = draws()
    samples = [
        {"input_values": torch.randn(800, generator=generator), "labels": torch.tensor(i % 4)}
        for i in range(12)
    ]
    return Case(Task(hf.Wav2Vec2ForSequenceClassification(config), by_its_own_loss), loader(samples))


BERT = partial(hf.BertConfig, **SMALL, intermediate_size=64, max_position_embeddings=16)
GPT2 = partial(hf.GPT2Config, vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
T5 = partial(
    hf.T5Config,
    vocab_size=50,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=2,
    num_heads=4,
    decoder_start_token_id=0,
)
MIXTRAL = partial(hf.MixtralConfig, **DECODER, num_local_experts=4)

NETS: dict[str, Build] = {
    "Bert": partial(classifying, BERT, hf.BertForSequenceClassification),
    "GPT2": partial(speaking, GPT2, hf.GPT2LMHeadModel),
    "Llama": partial(speaking, partial(hf.LlamaConfig, **DECODER), hf.LlamaForCausalLM),
    "T5": partial(speaking, T5, hf.T5ForConditionalGeneration),
    "Mixtral": partial(speaking, MIXTRAL, hf.MixtralForCausalLM),
    "ViT": vit,
    "Wav2Vec2": speech,
}
