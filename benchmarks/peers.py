"""Tokens/s of this engine, Transformers and llama.cpp on the same weights, interleaved in one process.

    .venv/bin/python benchmarks/peers.py [--shape gpt2-124m|bundled|llama-1b] [--rounds 8] [--tg 48] [--pp 128]
                                         [--only REGEX] [--threads N] [--json FILE]

Every round runs every contender once, in an order drawn anew, so that a slow minute hits all of them. tg: seconds for
`--tg` tokens, one by one, greedily, after 8 tokens of prompt. pp: seconds for a prompt of `--pp` tokens.
Ratios are taken round by round; the interval is the 95 % bootstrap interval of their geometric mean. llama.cpp runs
where llama-cpp-python and gguf are installed (pip install llama-cpp-python gguf); its weights are written here, from
the same tensors, in its own formats. A random model says nothing about quality, only about speed.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import math
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the engine thread sets it
import torch  # noqa: E402

from engine.models.checkpoint import Masters, load_masters  # noqa: E402
from engine.models.devices import pick_device, usable_cores  # noqa: E402
from engine.paths import bundled_model  # noqa: E402
from engine.recipe import parse_recipe  # noqa: E402
from engine.variant import Variant, build_variant  # noqa: E402

PROMPT = 8
OURS = ("fp32", "bf16", "fp16", "int8", "int8-dynamic:head=int8", "int8-weight:head=int8", "int4",
        "int4-weight:head=int8", "int4-weight:head=int4", "int4-weight:group=64:head=int4")
TRANSFORMERS = ("fp32", "bf16")
LLAMA = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
# (ours, peer): the comparisons printed below the table.
PAIRS = {
    "tg": (("fp32", "transformers fp32"), ("bf16", "transformers bf16"), ("fp16", "transformers bf16"),
           *((name, f"transformers {t}") for name in OURS[3:] for t in TRANSFORMERS),
           ("fp32", "llama.cpp F32"), ("bf16", "llama.cpp BF16"), ("fp16", "llama.cpp F16"),
           ("int8-dynamic:head=int8", "llama.cpp Q8_0"), ("int4-weight:head=int4", "llama.cpp Q4_0"),
           ("int4-weight:group=64:head=int4", "llama.cpp Q4_0")),  # 4.5 bits a weight, as Q4_0 takes
    "pp": (("fp32", "llama.cpp F32"), ("bf16", "llama.cpp BF16"), ("bf16", "llama.cpp F16"),
           ("fp16", "llama.cpp F16"), ("int8", "llama.cpp Q8_0"), ("int4", "llama.cpp Q4_0"),
           ("fp32", "transformers fp32"), ("bf16", "transformers bf16")),
}


@dataclass
class Contender:
    """generate(n): n tokens, one by one. prefill(n): one prompt. Both return seconds."""

    name: str
    generate: Callable[[int], float]
    prefill: Callable[[int], float]


def main() -> int:
    """Build every contender, run the rounds, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=("gpt2-124m", "bundled", "llama-1b"), default="gpt2-124m")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tg", type=int, default=48)
    parser.add_argument("--pp", type=int, default=128)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", default="", help="run the contenders whose name matches this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options.shape, Path(scratch))
        masters = load_masters(folder)
        contenders = _contenders(masters, folder, Path(scratch), options.threads, re.compile(options.only))
        seconds = _rounds(contenders, options)
    _report(seconds, options)
    return 0


def model_folder(shape: str, scratch: Path) -> Path:
    """A folder with the model: the bundled one, or random weights of a known shape."""
    if shape == "bundled":
        return bundled_model()
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if shape == "gpt2-124m":
        model: Any = GPT2LMHeadModel(GPT2Config())
    else:
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, max_position_embeddings=4096, tie_word_embeddings=True))
    model.save_pretrained(scratch / shape)
    return scratch / shape


def _contenders(masters: Masters, folder: Path, scratch: Path, threads: int, only: re.Pattern[str]) -> list[Contender]:
    made = []
    for recipe in OURS:
        if only.search(recipe):
            made.append(_ours(recipe, masters))
    for dtype in TRANSFORMERS:
        if only.search(f"transformers {dtype}"):
            made.append(_transformers(dtype, folder))
    if importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("gguf") is None:
        print("llama.cpp is left out: llama-cpp-python and gguf are not installed.", file=sys.stderr)
        return made
    for kind in LLAMA:
        if only.search(f"llama.cpp {kind}"):
            made.append(_llama(kind, masters, scratch, threads))
    return made


def _ours(recipe: str, masters: Masters) -> Contender:
    steps = build_variant(masters, parse_recipe(recipe), pick_device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            variant: Variant = done.value
            break

    def generate(count: int) -> float:
        cache = variant.new_cache(PROMPT + count)
        token = int(variant.forward(torch.ones(1, PROMPT, dtype=torch.long), cache)[0, -1].argmax())
        started_s = time.perf_counter()
        for _ in range(count):
            token = int(variant.step(torch.tensor([[token]]), cache)[0, -1].argmax())
        return time.perf_counter() - started_s

    def prefill(count: int) -> float:
        ids = torch.arange(count)[None]
        cache = variant.new_cache(count)
        started_s = time.perf_counter()
        variant.forward(ids, cache)
        return time.perf_counter() - started_s

    return Contender(recipe, generate, prefill)


def _transformers(dtype: str, folder: Path) -> Contender:
    from transformers import AutoModelForCausalLM

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    prompt = torch.ones(1, PROMPT, dtype=torch.long)

    def timed(count: int) -> float:
        started_s = time.perf_counter()
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False,
                       pad_token_id=0)
        return time.perf_counter() - started_s

    def generate(count: int) -> float:
        return timed(count + 1) - timed(1)  # without the prompt

    def prefill(count: int) -> float:
        ids = torch.arange(count)[None]
        started_s = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - started_s

    return Contender(f"transformers {dtype}", generate, prefill)


def _llama(kind: str, masters: Masters, scratch: Path, threads: int) -> Contender:
    import llama_cpp as lib

    path = scratch / f"{kind}.gguf"
    write_gguf(path, masters, kind)
    _silence(lib)
    parameters = lib.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"llama.cpp could not read its {kind} file"
    setup = lib.llama_context_default_params()
    setup.n_ctx, setup.n_batch, setup.n_ubatch = 1024, 512, 512
    setup.n_threads = setup.n_threads_batch = threads
    context = lib.llama_init_from_model(model, setup)
    vocabulary = masters.config.vocab_size

    def run(tokens: list[int]) -> int:
        array = (lib.llama_token * len(tokens))(*tokens)
        assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) == 0
        logits = lib.llama_get_logits_ith(context, -1)
        values = torch.frombuffer(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * vocabulary)).contents,
                                  dtype=torch.float32)
        return int(values.argmax())

    def clear() -> None:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)

    def generate(count: int) -> float:
        clear()
        token = run([1] * PROMPT)
        started_s = time.perf_counter()
        for _ in range(count):
            token = run([token])
        return time.perf_counter() - started_s

    def prefill(count: int) -> float:
        clear()
        started_s = time.perf_counter()
        run(list(range(count)))
        return time.perf_counter() - started_s

    return Contender(f"llama.cpp {kind}", generate, prefill)


_log: Any = None


def _silence(lib: Any) -> None:
    global _log
    _log = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(_log, None)


def write_gguf(path: Path, masters: Masters, kind: str) -> None:
    """The weights as llama.cpp keeps them: matrices in `kind`, norms, biases and positions in F32, no vocabulary."""
    import gguf
    import numpy as np

    c = masters.config
    arch = "gpt2" if c.learned_positions else "llama"
    target = gguf.GGMLQuantizationType[kind]
    out = gguf.GGUFWriter(path, arch)
    out.add_context_length(c.context)
    out.add_embedding_length(c.hidden_size)
    out.add_block_count(c.n_layers)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(c.n_heads)
    out.add_head_count_kv(c.n_kv_heads)
    out.add_vocab_size(c.vocab_size)
    out.add_tokenizer_model("no_vocab")
    (out.add_layer_norm_eps if c.layer_norm else out.add_layer_norm_rms_eps)(c.norm_eps)
    if not c.learned_positions:
        out.add_rope_dimension_count(c.head_dim)
        out.add_rope_freq_base(c.rope_theta)

    def add(name: str, tensor: torch.Tensor, matrix: bool = True) -> None:
        array = np.ascontiguousarray(tensor.float().numpy())
        wanted = target if matrix and array.shape[-1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        if wanted == gguf.GGMLQuantizationType.F32:
            out.add_tensor(name, array)
        else:
            out.add_tensor(name, gguf.quantize(array, wanted), raw_dtype=wanted)

    add("token_embd.weight", masters["embed.weight"])
    if c.learned_positions:
        add("position_embd.weight", masters["positions.weight"], matrix=False)
    if not c.tied:
        add("output.weight", masters["head.weight"])
    for name in masters:
        owner, _, leaf = name.rpartition(".")
        if owner == "norm":
            add(f"output_norm.{leaf}", masters[name], matrix=False)
        elif name.startswith("blocks."):
            _add_block(add, masters, name)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _add_block(add: Callable[..., None], masters: Masters, name: str) -> None:
    c = masters.config
    _, block, rest = name.split(".", 2)
    slot, _, leaf = rest.rpartition(".")
    there, matrix, tensor = f"blk.{block}", leaf == "weight" and not slot.startswith("norm"), masters[name]
    plain = {"norm1": "attn_norm", "norm2": "ffn_norm", "attn.out": "attn_output", "mlp.down": "ffn_down"}
    if slot in plain:
        add(f"{there}.{plain[slot]}.{leaf}", tensor, matrix)
    elif slot == "attn.qkv" and c.learned_positions:
        add(f"{there}.attn_qkv.{leaf}", tensor, matrix)
    elif slot == "attn.qkv":  # rows are not reordered for llama.cpp's pairs of rotary channels: speed is the same
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        for part, rows in zip(("q", "k", "v"), tensor.split((q, kv, kv)), strict=True):
            add(f"{there}.attn_{part}.{leaf}", rows, matrix)
    elif slot == "mlp.up" and c.gated:
        for part, rows in zip(("gate", "up"), tensor.chunk(2), strict=True):
            add(f"{there}.ffn_{part}.{leaf}", rows, matrix)
    elif slot == "mlp.up":
        add(f"{there}.ffn_up.{leaf}", tensor, matrix)


def _rounds(contenders: list[Contender], options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """test -> contender -> seconds of each round."""
    tests = {"tg": options.tg, "pp": options.pp}
    seconds: dict[str, dict[str, list[float]]] = {t: {c.name: [] for c in contenders} for t in tests}
    for contender in contenders:
        contender.generate(4)
        contender.prefill(options.pp)
    for done in range(options.rounds):
        order = random.sample(contenders, len(contenders))
        for contender in order:
            time.sleep(0.05)  # the thread pools of the one before fall asleep
            seconds["tg"][contender.name].append(contender.generate(options.tg))
            time.sleep(0.05)
            seconds["pp"][contender.name].append(min(contender.prefill(options.pp) for _ in range(2)))
        print(f"round {done + 1} of {options.rounds}", file=sys.stderr)
    return seconds


def _report(seconds: dict[str, dict[str, list[float]]], options: argparse.Namespace) -> None:
    counts = {"tg": options.tg, "pp": options.pp}
    ratios = []
    print(f"\n{options.shape}, threads {options.threads}, {options.rounds} rounds\n")
    print(f"| contender | tg{options.tg}, tok/s | pp{options.pp}, tok/s |\n|---|---|---|")
    for name in seconds["tg"]:
        cells = [f"{counts[t] / statistics.median(seconds[t][name]):.1f}" for t in seconds]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| test | ratio of tokens/s | mean | 95 % interval |\n|---|---|---|---|")
    for test, pairs in PAIRS.items():
        for ours, peer in pairs:
            if ours in seconds[test] and peer in seconds[test]:
                mean, low, high = interval(seconds[test][peer], seconds[test][ours])
                ratios.append({"test": test, "ours": ours, "peer": peer, "ratio": mean, "low": low, "high": high})
                print(f"| {test} | {ours} / {peer} | {mean:.2f} | {low:.2f} to {high:.2f} |")
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "ratios": ratios}, indent=1), encoding="utf-8")


def interval(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Geometric mean of above / below round by round, with its 95 % bootstrap interval."""
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(logs, k=len(logs))) for _ in range(2000))
    return math.exp(statistics.fmean(logs)), math.exp(means[49]), math.exp(means[1949])


if __name__ == "__main__":
    sys.exit(main())
