"""Damaged and hostile model files, by the thousand: no crash, no hang, no unbounded memory, one sentence each.

Good files are made on the spot (safetensors, a shard index, a config.json, GGUF files of both tokenizer kinds), changed
at random places in ways that headers invite (numbers at their limits, cut ends, swapped and doubled parts), and opened
whole in a child process whose memory is limited. A case may open, or be refused with a DynoError; anything else
is a finding, and its file is kept. The same seed gives the same cases.

    python benchmarks/fuzz.py [--seconds 600] [--cases N] [--seed 0] [--reader gguf,config] [--keep DIR]
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.models.chat import ChatMessage  # noqa: E402

if TYPE_CHECKING:
    from engine.session import Session

READERS = ("safetensors", "index", "config", "gguf")
MEMORY_BYTES = 1 << 30  # beyond what the child has when it begins
CASE_S = 10  # a case that takes longer hangs
VOCABULARY = 8192  # of the bundled model's tokenizer
_BATCH = 400  # cases a child runs before a fresh one takes over
_NUMBERS = (0, 1, 2, 3, 7, 8, 31, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
            1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_WORDS = ("0", "-1", "1e999", "NaN", "null", "true", "[]", "{}", '""', '"x"', "99999999999999999999", "1.5", "[1,2]",
          '"../../etc/passwd"', '"/etc/passwd"', '"\\u0000"', "[[[[[[[[]]]]]]]]", '{"a":{"a":{}}}')


def main() -> int:
    """Run cases until the time or their number is up, and say what came of them; 1 where something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--cases", type=int, default=0, help="cases of each reader, 0 for as many as the time allows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", default=",".join(READERS))
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-findings")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, first, count = options.child
        _child(Path(folder), options.reader, options.seed, int(first), int(count))
        return 0
    readers = options.reader.split(",")
    found = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        make_seeds(Path(scratch))
        for reader in readers:
            share_s = options.seconds / len(readers)
            tally = fuzz(Path(scratch), reader, options.seed, share_s, options.cases, options.keep)
            found += tally["findings"]
            print(f"{reader}: {tally['cases']:,} cases in {tally['seconds']:.0f} s, {tally['opened']:,} opened, "
                  f"{tally['refused']:,} refused with a sentence, {tally['findings']} findings", flush=True)
    return 1 if found else 0


def fuzz(scratch: Path, reader: str, seed: int, seconds: float, cases: int, keep: Path) -> dict[str, int]:
    """Run one reader's cases in children; how many there were and what came of them."""
    begun_s = time.monotonic()
    tally = {"cases": 0, "opened": 0, "refused": 0, "findings": 0, "seconds": 0}
    case = 0
    while (cases and case < cases) or (not cases and time.monotonic() - begun_s < seconds):
        batch = min(_BATCH, cases - case) if cases else _BATCH
        command = [sys.executable, __file__, "--reader", reader, "--seed", str(seed), "--child", str(scratch),
                   str(case), str(batch)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        done = 0
        for line in child.stdout:
            verdict = line.split(maxsplit=1)[0]
            if verdict in tally:
                tally[verdict] += 1
                done += 1
            elif verdict == "finding":
                tally["findings"] += 1
                done += 1
                _keep(scratch, reader, seed, case + done - 1, keep, line.partition(" ")[2].strip())
            if not cases and time.monotonic() - begun_s > seconds:
                child.kill()
                break
        code = child.wait()
        child.stdout.close()
        if code not in (0, -signal.SIGKILL) or (code == -signal.SIGKILL and cases):
            tally["findings"] += 1
            _keep(scratch, reader, seed, case + done, keep, f"the child ended with {code}")
            done += 1
        case += max(1, done)
    tally["cases"], tally["seconds"] = case, round(time.monotonic() - begun_s)
    return tally


def _keep(scratch: Path, reader: str, seed: int, case: int, keep: Path, why: str) -> None:
    place = keep / f"{reader}-{seed}-{case}"
    shutil.rmtree(place, ignore_errors=True)
    write_case(scratch, reader, seed, case, place)
    print(f"  {place}: {why}", flush=True)


def make_seeds(scratch: Path) -> None:
    """Good files of every kind: a tiny sharded Llama, one folder of each other family, and GGUF files with both
    kinds of tokenizer."""
    import torch

    from engine.export import export_model
    from engine.models.checkpoint import save_folder, sources
    from engine.models.config import ModelConfig
    from engine.models.devices import pick_device
    from engine.paths import bundled_model
    from engine.recipe import Recipe
    from engine.session import Session

    draw = torch.Generator().manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
    llama = shape | {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "intermediate_size": 32, "max_position_embeddings": 64}
    gpt2 = shape | {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    others = {"smollm3": {"no_rope_layers": [1]}, "qwen3": {"use_sliding_window": True, "max_window_layers": 0},
              "gemma3_text": {"layer_types": ["sliding_attention"], "sliding_window": 16, "head_dim": 16},
              "phi3": {"rope_scaling": None}, "gpt_neox": {"rotary_pct": 0.5}}
    seeds = {"llama": llama, "gpt2": gpt2} | {kind: llama | {"model_type": kind} | own for kind, own in others.items()}
    for name, raw in seeds.items():
        config = ModelConfig.from_hf(raw)
        tensors = {n: torch.randn(s.shape, generator=draw) for n, s in sources(config).items()}
        save_folder(scratch / name, config, tensors, torch.float16, shard_bytes=200_000 if name == "llama" else 1 << 30)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(bundled_model() / file, scratch / name / file)
        if name in others:
            continue
        session = Session.open(scratch / name, pick_device("cpu"))
        for form in ("gguf-f16", "gguf-q8_0"):
            for _ in export_model(session.masters, session.tokenizer, Recipe(), form, scratch / f"{name}-{form}.gguf",
                                  session.device):
                pass
    (scratch / "spm.gguf").write_bytes(_sentencepiece(scratch / "llama-gguf-q8_0.gguf"))


def _sentencepiece(source: Path) -> bytes:
    """The same model with a small tokenizer of the llama kind, written by the library's own writer."""
    import gguf

    reader, out = gguf.GGUFReader(source), source.with_name(".spm.part")
    writer = gguf.GGUFWriter(out, "llama")
    for key in ("embedding_length", "block_count", "feed_forward_length", "attention.head_count", "context_length",
                "attention.head_count_kv"):
        writer.add_uint32(f"llama.{key}", int(reader.fields[f"llama.{key}"].parts[-1][0]))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "ab", "▁a"]
    tokens += [f"[PAD{i}]" for i in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 5, *[5] * (len(tokens) - 264)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    raw = out.read_bytes()
    out.unlink()
    return raw


def write_case(scratch: Path, reader: str, seed: int, case: int, place: Path) -> Path:
    """Write one damaged model and return what is to be opened."""
    pick = random.Random(f"{seed} {reader} {case}")
    place.mkdir(parents=True, exist_ok=True)
    if reader == "gguf":
        source = pick.choice(sorted(scratch.glob("*.gguf")))
        out = place / "model.gguf"
        raw = source.read_bytes()
        head = 4000 if pick.random() < 0.5 else len(raw) // 2
        out.write_bytes(_damaged(raw, head, pick))
        return out
    families = sorted(p.name for p in scratch.iterdir() if (p / "config.json").is_file())
    source = scratch / ("llama" if reader == "index" else pick.choice(families))
    for file in source.iterdir():
        shutil.copyfile(file, place / file.name)
    if reader == "safetensors":
        target = pick.choice(sorted(place.glob("*.safetensors")))
        raw = target.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        if pick.random() < 0.5:
            text = _damaged_text(raw[8:8 + length].decode(), pick).encode("utf-8", "surrogatepass")
            target.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length:])
        else:
            target.write_bytes(_damaged(raw, 8 + length, pick))
        return place
    target = place / ("model.safetensors.index.json" if reader == "index" else
                      pick.choice(("config.json", "config.json", "tokenizer.json", "tokenizer_config.json")))
    text = target.read_text(encoding="utf-8")
    target.write_bytes(_damaged_text(text, pick).encode("utf-8", "surrogatepass") if pick.random() < 0.8
                       else _damaged(text.encode(), len(text), pick))
    return place


def _damaged(raw: bytes, head: int, pick: random.Random) -> bytes:
    """Bytes changed at a few places among the first `head`."""
    data = bytearray(raw)
    for _ in range(pick.choice((1, 1, 2, 4, 8))):
        at = pick.randrange(max(1, min(head, len(data))))
        kind = pick.randrange(6)
        if kind == 0:
            data[at] = pick.randrange(256)
        elif kind == 1:
            data[at:at + 8] = struct.pack("<Q", pick.choice(_NUMBERS))
        elif kind == 2:
            data[at:at + 4] = struct.pack("<I", pick.choice(_NUMBERS) & 0xFFFFFFFF)
        elif kind == 3:
            del data[at:at + pick.choice((1, 4, 8, 100, len(data)))]
        elif kind == 4:
            data[at:at] = data[at:at + pick.choice((1, 8, 64, 512))]
        else:
            data[at:at] = pick.randbytes(pick.choice((1, 4, 8, 64)))
        if not data:
            break
    return bytes(data)


def _damaged_text(text: str, pick: random.Random) -> str:
    """JSON with a few values replaced, keys doubled, or parts cut."""
    for _ in range(pick.choice((1, 1, 2, 3))):
        spots = [i for i, c in enumerate(text) if c in ":[,"] or [0]
        at = pick.choice(spots)
        end = at + 1
        while end < len(text) and text[end] not in ",]}":
            end += 1
        kind = pick.randrange(5)
        if kind <= 1:
            text = f"{text[:at + 1]}{pick.choice(_WORDS)}{text[end:]}"
        elif kind == 2:
            text = f"{text[:at + 1]}{pick.choice(_NUMBERS)}{text[end:]}"
        elif kind == 3:
            text = text[:at] + text[end:]
        else:
            text = text[:end] + text[at:end] + text[end:]
    return text


def _child(scratch: Path, reader: str, seed: int, first: int, count: int) -> None:
    """Open cases one after the other under limits, a line of standard output for each."""
    import torch

    from engine.errors import DynoError
    from engine.fit import estimate
    from engine.models.devices import pick_device
    from engine.session import Session

    torch.set_num_threads(1)
    device = pick_device("cpu")
    Session.open(scratch / "gpt2", device)  # whatever is loaded once is loaded before memory is limited
    estimate(scratch / "gpt2", device=device)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    place = Path(tempfile.mkdtemp(dir=scratch))
    actions: tuple[Callable[[Path], object], ...] = (lambda path: estimate(path, device=device),
                                                     lambda path: _used(Session.open(path, device)))
    for case in range(first, first + count):
        path = write_case(scratch, reader, seed, case, place / str(case))
        verdict = "opened"
        for act in actions:
            signal.alarm(CASE_S)
            try:
                act(path)
            except DynoError as error:
                verdict = "refused" if error.summary and error.hint and len(str(error)) < 600 and "\n" not in str(
                    error) else f"finding a poor sentence: {str(error)[:200]!r}"
            except BaseException as error:
                verdict = f"finding {type(error).__name__}: {str(error)[:200]!r}"
            finally:
                signal.alarm(0)
            if verdict.startswith("finding"):
                break
        print(verdict, flush=True)
        shutil.rmtree(place / str(case))
    shutil.rmtree(place)


def _used(session: Session) -> None:
    """What the first message to a model does before it is run."""
    session.tokenizer.render_chat([ChatMessage("user", "Hello")])


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {CASE_S} s")


if __name__ == "__main__":
    sys.exit(main())
