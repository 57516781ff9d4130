"""docs/bundled-model.md from what the evaluation wrote: tables of figures, and the reply to each of the fixed prompts.

It judges nothing: which replies are on the subject is the reader's count, given by prompt number in a file of verdicts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_GROUPS = {"subject": "The app's subject", "self": "The model itself", "talk": "Small talk",
           "instruction": "Instructions"}


def write_report(evaluation: Path, before: dict[str, Path], verdicts: Path, out: Path, title: str) -> None:
    """Write the page. evaluation: JSON of `evaluate` for this model. before: the same of earlier ones, by the heading
    of their column.

    verdicts: {"off": [numbers of the prompts whose reply misses the subject, from 1], "words": "how it was judged"}.
    """
    found = json.loads(evaluation.read_text(encoding="utf-8"))
    old = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in before.items()}
    judged = json.loads(verdicts.read_text(encoding="utf-8"))
    lines = [f"# {title}: what it was measured to do", "",
             "Made by scripts/bundled/report.py from the evaluation step of scripts/train_bundled_model.py.", "",
             "## Bits per byte", "", *_bits(found, old), "", "## Under the app's recipes", "", *_recipes(found), "",
             "## A hundred fixed prompts", "", *_prompts(found["recipes"][0], judged)]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _bits(found: dict[str, Any], old: dict[str, Any]) -> list[str]:
    earlier = [{row["file"]: row["bits_per_byte"] for row in one["bits_per_byte"]} for one in old.values()]
    head = " | ".join(["held-out file", "bits per byte", *old, "bytes"])
    lines = ["NLL / ln 2 / UTF-8 bytes scored, fp32, chunks of 1,024 tokens, at most 100,000 tokens of a file. Nothing "
             "of these files was trained on.", "", f"| {head} |", "|---" * (3 + len(old)) + "|"]
    for row in found["bits_per_byte"]:
        was = "".join(f"{one[row['file']]:.3f} | " if row["file"] in one else " | " for one in earlier)
        lines.append(f"| {row['file']} | {row['bits_per_byte']:.3f} | {was}{row['bytes_scored']:,} |")
    return lines


def _recipes(found: dict[str, Any]) -> list[str]:
    base = found["recipes"][0]["bits_per_byte"]
    lines = ["Bits per byte of an eighth of that text against fp32's, and the replies to the prompts below (seed 0). "
             "Loops: four words come again so often that a third of a reply repeats itself.", "",
             "| recipe | weights, MB | bits per byte / fp32's, worst file | end by themselves | loop | distinct-1, -2 "
             "| repeated 4-grams |", "|---|---|---|---|---|---|---|"]
    for row in found["recipes"]:
        worst = max(row["bits_per_byte"][name] / base[name] for name in base)
        lines.append(f"| {row['recipe']} | {row['weight_bytes'] / 1e6:.1f} | {worst:.4f} | {row['ended']} of "
                     f"{row['replies']} | {row['loops']} | {row['distinct_1']:.2f}, {row['distinct_2']:.2f} | "
                     f"{100 * row['repeated_4gram_share']:.1f} % |")
    return lines


def _prompts(row: dict[str, Any], judged: dict[str, Any]) -> list[str]:
    off = set(judged["off"])
    groups: dict[str, list[int]] = {}
    for number, text in enumerate(row["texts"], 1):
        groups.setdefault(text["group"], []).append(number)
    lines = [f"fp32, the settings that ship with the model, seed 0. {judged['words']}", "",
             "| group | on the subject |", "|---|---|",
             *(f"| {_GROUPS[g]} | {sum(n not in off for n in ns)} of {len(ns)} |" for g, ns in groups.items()),
             f"| all | {len(row['texts']) - len(off)} of {len(row['texts'])} |"]
    for group, numbers in groups.items():
        lines += ["", f"### {_GROUPS[group]}", ""]
        for number in numbers:
            text = row["texts"][number - 1]
            marks = (" *(beside the subject)*" if number in off else "") + ("" if text["ended"] else " *(cut)*")
            reply = " ".join(text["text"].split())
            lines.append(f"{number}. **{text['prompt']}** {reply}{marks}")
    return lines
