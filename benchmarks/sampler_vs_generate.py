"""The grouped sampler against transformers' `generate`, on the same model, prompts and lengths.

Run from the repository: `python -m benchmarks.sampler_vs_generate`. Both sample the same number of
rows, from left-padded prompts of several lengths, until the end token or the limit; a random model
ends its completions at mixed lengths. With `--rows` only so many completions run at once, as where
memory is short: `generate` takes them batch by batch, and ours begin as others end. The two
alternate within one process, so that a busy machine slows both; what counts is the ratio of tokens
per second, not either number.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tests.rollout_models import character_tokenizer
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from bapo.config.settings import RolloutSettings
from bapo.rollout import decoder
from bapo.rollout.embedded import EmbeddedEngine
from bapo.rollout.encoding import PromptEncoder
from bapo.types import Prompt

END = 1


def main() -> None:
    """Measures and prints the ratio."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    decoder.WIDEST = arguments.widest
    tokenizer = character_tokenizer()
    model = _model(arguments, len(tokenizer))
    generator = np.random.default_rng(0)
    prompts = [
        Prompt(f"p{number}", "".join(generator.choice(list("0123456789 "), size=size)), {})
        for number, size in enumerate(generator.integers(8, 15, size=arguments.groups))
    ]
    widest = max(len(prompt.content) for prompt in prompts)
    rows = arguments.rows or arguments.groups * arguments.group_size
    settings = RolloutSettings(
        max_new_tokens=arguments.new_tokens,
        decoder=arguments.decoder,
        token_budget=rows * (widest + arguments.new_tokens),
        refill=arguments.refill,
    )
    encoder = PromptEncoder(tokenizer, 1024, None, arguments.new_tokens)
    engine = EmbeddedEngine(model, encoder, settings)
    engine.publish(0, dict(model.named_parameters()), share=True)

    def ours(number: int) -> int:
        rollouts = engine.sample(
            prompts,
            version=0,
            group_size=arguments.group_size,
            step=number,
            seed=0,
            temperature=1.0,
        )
        return sum(len(one.token_ids) for rollout in rollouts for one in rollout.completions)

    other = copy.deepcopy(model)
    extra: dict[str, Any] = {}
    if arguments.compile:
        other.forward = torch.compile(other.forward, dynamic=True)
        extra = {"cache_implementation": "static", "disable_compile": True}  # not a second time
    theirs = _generate(other, tokenizer, prompts, arguments, extra)
    ratios: list[float] = []
    rates: list[tuple[float, float]] = []
    for number in range(arguments.repeats + 1):
        pair = (_tokens_per_second(ours, number), _tokens_per_second(theirs, number))
        if number:  # the first round warms up
            rates.append(pair)
            ratios.append(pair[0] / pair[1])
    if arguments.json:
        print(json.dumps({"ratios": ratios, "ours": [pair[0] for pair in rates]}))
    else:
        _report(arguments, model, rates, ratios)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--architecture", choices=["llama", "qwen2"], default="llama")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--rows", type=int, default=0, help="completions that either side runs at once; 0 for all"
    )
    parser.add_argument(
        "--refill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether waiting prompts join as completions end",
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves them")
    parser.add_argument("--device", default="cpu")
    decoders = ["auto", "native", "torch", "module"]
    parser.add_argument("--decoder", choices=decoders, default="auto", help="rollout.decoder")
    parser.add_argument(
        "--widest", type=int, default=decoder.WIDEST, help="width up to which decoders take a model"
    )
    parser.add_argument(
        "--compile", action="store_true", help="generate with torch.compile and a static cache"
    )
    parser.add_argument("--json", action="store_true", help="print the rounds as one object")
    return parser.parse_args()


def _model(arguments: argparse.Namespace, vocabulary: int) -> PreTrainedModel:
    """A random model; its completions have geometric lengths, cut off at the limit."""
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": arguments.hidden,
        "intermediate_size": 3 * arguments.hidden,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads,
        "num_key_value_heads": arguments.heads,
        "max_position_embeddings": 4096,
        "eos_token_id": END,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    if arguments.architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**common))
    return model.to(arguments.device).eval()


def _generate(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: list[Prompt],
    arguments: argparse.Namespace,
    extra: dict[str, Any],
) -> Callable[[int], int]:
    texts = [prompt.content for prompt in prompts for _ in range(arguments.group_size)]
    rows = arguments.rows or len(texts)
    batches = []
    for start in range(0, len(texts), rows):
        own = texts[start : start + rows]
        encoded = tokenizer(own, return_tensors="pt", padding=True, padding_side="left")
        names = ("input_ids", "attention_mask")
        batches.append({name: encoded[name].to(arguments.device) for name in names})

    @torch.inference_mode()
    def run(number: int) -> int:
        torch.manual_seed(number)
        return sum(of_batch(batch) for batch in batches)

    def of_batch(batch: dict[str, torch.Tensor]) -> int:
        generate: Any = model.generate
        output = generate(
            **batch,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=arguments.new_tokens,
            eos_token_id=END,
            pad_token_id=0,
            **extra,
        )[:, batch["input_ids"].shape[1] :]
        ended = (output == END).int().cumsum(dim=1)
        before_or_at_end = (ended == 0) | ((ended == 1) & (output == END))
        return int(before_or_at_end.sum())

    return run


def _tokens_per_second(run: Callable[[int], int], number: int) -> float:
    started = time.perf_counter()
    tokens = run(number)
    return tokens / (time.perf_counter() - started)


def _report(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    rates: list[tuple[float, float]],
    ratios: list[float],
) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{arguments.architecture}, {parameters / 1e6:.2f} M parameters, "
        f"{arguments.groups} prompts x {arguments.group_size}, "
        f"{arguments.rows or 'all'} at once, up to {arguments.new_tokens} tokens, "
        f"{torch.get_num_threads()} threads, "
        f"{arguments.repeats} repeats"
    )
    for name, column in (("sampler", 0), ("generate", 1)):
        median = statistics.median(pair[column] for pair in rates)
        print(f"{name:>9}: {median:9.0f} tokens/s (median)")
    print(
        f"    ratio: {statistics.median(ratios):.2f} (median), "
        f"{min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
