"""A short list of models that suit this app, for people who do not know what to search for.

Sizes are about what the safetensors take; the hub's own answer counts once a model is chosen, for its size, its
licence and whether it is gated.
"""

from __future__ import annotations

from engine.hub.records import SearchHit

_M, _B = 1_000_000, 1_000_000_000

CURATED = (
    SearchHit("HuggingFaceTB/SmolLM2-135M-Instruct", 135 * _M, 269 * _M, "apache-2.0", note="chats, quick everywhere"),
    SearchHit("HuggingFaceTB/SmolLM2-360M-Instruct", 362 * _M, 724 * _M, "apache-2.0", note="chats"),
    SearchHit("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_710 * _M, 3_420 * _M, "apache-2.0", note="chats well"),
    SearchHit("Qwen/Qwen2.5-0.5B-Instruct", 494 * _M, 988 * _M, "apache-2.0", note="chats in many languages"),
    SearchHit("Qwen/Qwen3-0.6B", 596 * _M, 1_500 * _M, "apache-2.0", note="reasons before it answers"),
    SearchHit("Qwen/Qwen3-1.7B", 1_720 * _M, 4_060 * _M, "apache-2.0", note="reasons before it answers"),
    SearchHit("meta-llama/Llama-3.2-1B-Instruct", 1_240 * _M, 2_470 * _M, "llama3.2", gated=True, note="chats well"),
    SearchHit("google/gemma-3-270m-it", 268 * _M, 536 * _M, "gemma", gated=True, note="chats, small"),
    SearchHit("google/gemma-3-1b-it", 1_000 * _M, 2_000 * _M, "gemma", gated=True, note="chats well"),
    SearchHit("microsoft/Phi-3-mini-4k-instruct", 3_820 * _M, 7_640 * _M, "mit", note="chats well, large"),
    SearchHit("mistralai/Mistral-7B-Instruct-v0.3", 7_250 * _M, 14_500 * _M, "apache-2.0", gated=True,
              note="chats well, very large"),
    SearchHit("openai-community/gpt2", 124 * _M, 548 * _M, "mit", note="continues texts, the classic to compare with"),
    SearchHit("openai-community/gpt2-medium", 355 * _M, 1_520 * _M, "mit", note="continues texts"),
    SearchHit("EleutherAI/pythia-70m", 70 * _M, 166 * _M, "apache-2.0", note="continues texts, for research"),
    SearchHit("EleutherAI/pythia-160m", 162 * _M, 375 * _M, "apache-2.0", note="continues texts, for research"),
    SearchHit("EleutherAI/pythia-410m", 405 * _M, 911 * _M, "apache-2.0", note="continues texts, for research"),
)


def shortlist(text: str) -> tuple[SearchHit, ...]:
    """Those of the short list whose name holds every word of `text`."""
    words = text.casefold().split()
    return tuple(hit for hit in CURATED if all(word in hit.repo.casefold() for word in words))
