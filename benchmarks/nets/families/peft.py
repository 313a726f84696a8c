"""Low-rank adapters: what they adapt is frozen, and one of their two factors starts at zero."""

from functools import partial

import peft
import transformers as hf

from benchmarks.nets.case import Build, Case, Task, by_its_own_loss, loader, tokens
from benchmarks.nets.families.transformers import DECODER


def adapted(config: peft.PeftConfig) -> Case:
    net = peft.get_peft_model(hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)), config)
    return Case(Task(net, by_its_own_loss), loader([{"input_ids": ids, "labels": ids} for ids in tokens()]))


TARGETS = ["q_proj", "v_proj"]
NETS: dict[str, Build] = {
    "Llama, LoRA": partial(adapted, peft.LoraConfig(r=4, target_modules=TARGETS)),
    "Llama, LoRA and a trained head": partial(
        adapted, peft.LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["lm_head"])
    ),
}
