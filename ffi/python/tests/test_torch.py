"""What needs torch and transformers: `.ci/python-full`, not the gate."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import KINDS, ROOT, SETTINGS, merged, quiet, strata

import strata_sae
from strata_sae import Edit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from strata_sae.torch import TorchSae, capture, hooked  # noqa: E402

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = TEXT.split("\n\n")


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer as that of GPT-2, with a BOS token that it puts first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<bos>")


@pytest.fixture(scope="session")
def llama(tokenizer):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )
    return transformers.LlamaForCausalLM(config).eval()


def tensors(path):
    return strata_sae._sae._safetensors(path.read_bytes())


def read(path):
    """The rows, tokens and starts of a dump in f32."""
    about = json.loads((path / "dump.json").read_text())
    rows = np.concatenate([tensors(path / s["file"])["activations"] for s in about["shards"]])
    return about, rows, np.load(path / "tokens.npy"), np.load(path / "starts.npy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_where_they_lie(dtype, sae, rows):
    x = torch.from_numpy(rows[:240]).to(dtype)
    expected = sae.encode(x.float().numpy())
    for view in (x, x.reshape(4, 60, -1), x.T.contiguous().T, torch.cat([x, x], 1)[:, : sae.d], x.clone().requires_grad_()):
        codes = sae.encode(view)
        assert codes.shape == tuple(view.shape[:-1])
        np.testing.assert_array_equal(codes.level2.indices, expected.level2.indices)
        np.testing.assert_array_equal(codes.level1.values, expected.level1.values)
    out = sae.reconstruct(x.reshape(4, 60, -1))
    assert isinstance(out, torch.Tensor) and out.dtype == dtype and out.shape == (4, 60, sae.d)
    assert sae.steer(x, Edit(1, 1.0)).dtype == dtype
    with pytest.raises(TypeError, match="found torch.float64: convert them with .float"):
        sae.encode(x.double())
    with pytest.raises(TypeError, match="one on meta: move it with .cpu"):
        sae.encode(x.to("meta"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_computes_what_the_model_does(kind, runs, rows):
    sae = runs(kind).sae
    module, x = TorchSae(sae), torch.from_numpy(rows[:500])
    z1, z2 = module.encode(x)
    codes = sae.encode(rows[:500])
    for z, level in ((z1, codes.level1), (z2, codes.level2)):
        wrong = np.abs(z.detach().numpy() - level.dense()) > 1e-4
        # A latent whose pre-activation is within rounding of its threshold may differ.
        assert wrong.sum() <= 2, wrong.sum()
    np.testing.assert_allclose(module.decode(z1, z2).detach().numpy(), sae.decode(codes), atol=2e-3)
    np.testing.assert_allclose(module.decode(z1, z2, level=1).detach().numpy(), sae.decode(codes, level=1), atol=2e-3)


def test_the_module_refuses_what_it_does_not_compute(world, rows, tmp_path):
    settings = merged(SETTINGS, {"level1": {"prune": 0.5}, "train": {"steps": 20}})
    with quiet():
        sae = strata_sae.train(world, tmp_path / "run", progress=False, **settings).sae
    assert sae.cfg["architecture"]["variant"] == {"prune": [0.5, 0.0]}
    with pytest.raises(strata_sae.Error, match="what it does not compute \\(prune\\): use Sae"):
        TorchSae(sae)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_module_are_central_differences(kind, runs, rows):
    module = TorchSae(runs(kind).sae).double()
    x = torch.from_numpy(rows[:6].astype(np.float64)).requires_grad_()
    loss = lambda x: (module(x) - 1).square().sum()
    (grad,) = torch.autograd.grad(loss(x), x)
    rng, h = np.random.default_rng(0), 1e-6
    found = 0
    for _ in range(20):
        way = torch.from_numpy(rng.standard_normal(x.shape))
        with torch.no_grad():
            difference = (loss(x + h * way) - loss(x - h * way)) / (2 * h)
        # A latent that begins to fire within the step makes the loss jump.
        found += abs(difference - (grad * way).sum()) < 1e-5 * (1 + abs(difference))
    assert found >= 17, found
    module(x).square().sum().backward()
    assert all(p.grad is not None for name, p in module.named_parameters() if "level1" in name and name != "level1_threshold")


def test_a_module_hook_and_hidden_states_agree(llama, tokenizer, tmp_path):
    hooks = ["model.layers.1", "hidden_states.2", "model.layers.1.mlp"]
    paths = capture(llama, tokenizer, TEXTS, hook=hooks, out=tmp_path / "acts", context=32, batch_size=5, progress=False)
    about, rows, tokens, starts = read(paths["model.layers.1"])
    _, states, *_ = read(paths["hidden_states.2"])
    _, mlp, *_ = read(paths["model.layers.1.mlp"])
    np.testing.assert_array_equal(rows, states)
    assert mlp.shape == rows.shape and not np.array_equal(mlp, rows)
    assert about["special_tokens"] == [0] and about["hook"] == "model.layers.1"
    assert about["model"] == "LlamaForCausalLM"
    # Every sequence begins with the BOS token, and has the rows that the model gives it without padding.
    assert (tokens[starts.astype(int)] == 0).all() and not (tmp_path / "acts.parts").exists()
    ends = [*starts[1:], len(rows)]
    for start, end in [*zip(starts, ends)][:: max(len(starts) // 10, 1)]:
        ids = torch.from_numpy(tokens[int(start) : int(end)].astype(np.int64))[None]
        assert ids.shape[1] <= 32
        with torch.no_grad():
            alone = llama(ids, output_hidden_states=True).hidden_states[2][0].numpy()
        np.testing.assert_allclose(rows[int(start) : int(end)], alone, atol=1e-5)
    vocab = json.loads((paths["model.layers.1"] / "vocab.json").read_text())
    words = [tokenizer.tokenize(t) for t in TEXTS if t]
    sentence = "".join(vocab[i] for i in tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    assert sentence == TEXTS[0] and words
    found = strata_sae.command("inspect", paths["model.layers.1"], progress=False)
    assert found["n_rows"] == len(rows)


def test_a_capture_that_was_stopped_continues(llama, tokenizer, tmp_path, monkeypatch):
    import strata_sae._capture as module

    monkeypatch.setattr(module, "_PART", 7)
    whole = capture(llama, tokenizer, TEXTS, "model.layers.0", tmp_path / "whole", context=32, max_tokens=3000, progress=False)
    calls = []

    def stop(what, done, total, unit, message):
        calls.append(done)
        if done > 1000:
            raise KeyboardInterrupt

    again = lambda texts, progress: capture(
        llama, tokenizer, texts, "model.layers.0", tmp_path / "acts", context=32, max_tokens=3000, progress=progress
    )
    with pytest.raises(KeyboardInterrupt):
        again(TEXTS, stop)
    done = sorted((tmp_path / "acts.parts").glob("part-*"))
    assert len(done) >= 2 and not (tmp_path / "acts").exists()
    times = [p.stat().st_mtime_ns for p in done]
    with pytest.raises(strata_sae.Error, match="other texts"):
        again(TEXTS[::-1], False)
    assert again(TEXTS, False) == tmp_path / "acts" and len(times) == len(done)
    for a, b in zip(read(whole), read(tmp_path / "acts")):
        assert a == b if isinstance(a, dict) else np.array_equal(a, b)
    with pytest.raises(strata_sae.Error, match="exists already"):
        again(TEXTS, False)
    there = sorted(tmp_path.iterdir())
    for hook, error in [
        ("layers.9", "as in 'model.layers.0'"), ("hidden_states.4", "hidden_states.0 to hidden_states.3"), ("hidden_states.x", "a number")
    ]:
        with pytest.raises(ValueError, match=error):
            capture(llama, tokenizer, TEXTS, hook, tmp_path / "other", progress=False)
    with pytest.raises(ValueError, match="context: expected at least 2, .* found 1"):
        capture(llama, tokenizer, TEXTS, "model.layers.0", tmp_path / "other", context=1, progress=False)
    with pytest.raises(ValueError, match="at least one text that is not empty"):
        capture(llama, tokenizer, [], "model.layers.0", tmp_path / "other", progress=False)
    # Nothing is left of a capture that has no part to continue.
    assert sorted(tmp_path.iterdir()) == there


def test_rows_are_those_of_strata_capture(tmp_path):
    torch.manual_seed(1)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=48, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    strata("--quiet", "capture", "--model", tmp_path / "gpt", "--text", tmp_path / "text", "--layer", 1, "--context", 64,
           "--dtype", "f32", "--out", tmp_path / "by-strata")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt").eval()
    capture(model, tokenizer, [TEXT], "transformer.h.1", tmp_path / "by-hooks", context=64, progress=False)
    about = json.loads((tmp_path / "by-strata" / "dump.json").read_text())
    expected = tensors(tmp_path / "by-strata" / about["shards"][0]["file"])["activations"]
    ids = tensors(tmp_path / "by-strata" / "tokens.safetensors")["tokens"]
    found, rows, tokens, starts = read(tmp_path / "by-hooks")
    n = min(len(expected), len(rows)) // 64 * 64
    assert n >= 64
    # Of a model in a directory both name the last part alone: the others are those of a private machine.
    assert found["model"] == about["model"] == "gpt"
    np.testing.assert_array_equal(tokens[:n], ids[:n])
    np.testing.assert_allclose(rows[:n], expected[:n], atol=2e-5)
    texts = json.loads((tmp_path / "by-strata" / "vocab.json").read_text())
    assert texts == json.loads((tmp_path / "by-hooks" / "vocab.json").read_text())


@pytest.fixture(scope="session")
def trained(llama, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    capture(llama, tokenizer, TEXTS * 3, "model.layers.1", out / "acts", context=64, progress=False)
    with quiet():
        run = strata_sae.train(out / "acts", out / "run", level1={"latents": 64}, level2={"latents": 128},
                               train={"steps": 100, "batch": 512}, data={"skip_special": True}, progress=False)
    return run


def test_a_model_runs_on_reconstructions(llama, tokenizer, trained):
    sae = trained.sae
    batch = tokenizer(TEXTS[:3], return_tensors="pt", padding=True, truncation=True, max_length=48)
    given, hook = [], "model.layers.1"
    handle = llama.get_submodule(hook).register_forward_hook(lambda m, a, out: given.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        clean = llama(**batch).logits
        with hooked(llama, sae) as h:
            spliced = llama(**batch).logits
        assert sae.hook == hook and h.codes.shape == tuple(batch["input_ids"].shape)
        left = batch["input_ids"] == 0
        assert torch.equal(h.left_out & left, left)
        expected = torch.where(h.left_out[..., None], given[0], sae.reconstruct(given[0]))
        # Our hook ran before the one that was here first was registered anew, so that this one sees its output.
        handle.remove()
        seen = []
        with hooked(llama, sae):
            handle = llama.get_submodule(hook).register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out))
            llama(**batch)
            handle.remove()
        torch.testing.assert_close(seen[0], expected)
        assert not torch.equal(clean, spliced)
        # What the codes do not explain is added: the model is unchanged.
        with hooked(llama, sae, keep_error=True):
            torch.testing.assert_close(llama(**batch).logits, clean, atol=1e-4, rtol=1e-4)
        with hooked(llama, sae, splice=False) as h:
            assert torch.equal(llama(**batch).logits, clean) and len(h.codes) == batch["input_ids"].numel()

        def none(codes):
            codes.level2.values[:] = 0
            return codes

        with hooked(llama, sae, edit=none):
            without = llama(**batch).logits
        with hooked(llama, sae, level=1):
            torch.testing.assert_close(llama(**batch).logits, without, atol=1e-4, rtol=1e-4)
        with hooked(llama, sae, splice=False, steer=Edit(3, 5.0)):
            assert not torch.equal(llama(**batch).logits, clean)
        # Outside of the context nothing is left.
        assert torch.equal(llama(**batch).logits, clean)
        with hooked(llama, sae, splice=False, steer=Edit(3, 1.0)):
            assert llama.generate(**batch, max_new_tokens=3, do_sample=False).shape[1] == batch["input_ids"].shape[1] + 3


def test_the_notebook_from_a_language_model_runs(llama, tokenizer, tmp_path):
    from test_docs import NOTEBOOKS, run

    llama.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    said = run((NOTEBOOKS / ("from_a_language_model" + ".py")).read_text(), tmp_path, STRATA_MODEL=str(tmp_path / "model"),
               STRATA_HOOK="model.layers.1", STRATA_TEXT=str(ROOT / "README.md"), STRATA_STEPS="60")
    assert "cross-entropy" in said


@pytest.mark.skipif("STRATA_GGUF" not in os.environ, reason="STRATA_GGUF names no language model")
@pytest.mark.filterwarnings("ignore")
def test_a_real_language_model(tmp_path):
    """From a model as people have it to reconstructions in it: SmolLM2 or another of the Llama family."""
    path = Path(os.environ["STRATA_GGUF"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    texts = [t for page in sorted((ROOT / "docs").glob("*.md")) for t in page.read_text(encoding="utf-8").split("\n\n")]
    hook = "model.layers.14"
    capture(model, tokenizer, texts, hook, tmp_path / "acts", context=128, max_tokens=8000, dtype="f16", progress=False)
    about = json.loads((tmp_path / "acts" / "dump.json").read_text())
    vocab, ids = json.loads((tmp_path / "acts" / "vocab.json").read_text()), np.load(tmp_path / "acts" / "tokens.npy")
    assert about["rows"] == 8000 and texts[0][:40] in "".join(vocab[i] for i in ids[:200])
    # The command runs the same file with its own code, and finds the same rows.
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    strata("--quiet", "capture", "--model", path, "--text", tmp_path / "text", "--hook", hook, "--context", 128, "--dtype", "f32",
           "--max-tokens", 256, "--out", tmp_path / "by-strata")
    capture(model, tokenizer, [TEXT], hook, tmp_path / "by-hooks", context=128, max_tokens=256, progress=False)
    shards = json.loads((tmp_path / "by-strata" / "dump.json").read_text())["shards"]
    expected = np.concatenate([tensors(tmp_path / "by-strata" / shard["file"])["activations"] for shard in shards])
    _, rows, tokens, _ = read(tmp_path / "by-hooks")
    np.testing.assert_array_equal(tokens, tensors(tmp_path / "by-strata" / "tokens.safetensors")["tokens"][: len(tokens)])
    norms = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(rows - expected[: len(rows)], axis=1) < 1e-4 * norms[: len(rows)]).all()
    with quiet():
        run = strata_sae.train(tmp_path / "acts", tmp_path / "run", level1={"latents": 128, "k": 16},
                               level2={"latents": 512, "k": 16}, train={"steps": 250, "batch": 512}, progress=False)
    batch = tokenizer(TEXT, return_tensors="pt", truncation=True, max_length=256)
    with torch.no_grad():
        loss = lambda: float(model(**batch, labels=batch["input_ids"]).loss)
        clean = loss()
        with hooked(model, run.sae):
            spliced = loss()
        with hooked(model, run.sae, edit=lambda codes: _zeros(codes)):
            mean = loss()
    print(f"cross-entropy {clean:.3f}, spliced {spliced:.3f}, without any latent {mean:.3f}; held out {run.summary['held_out']}")
    assert clean < spliced < mean


def _zeros(codes):
    codes.level1.values[:], codes.level2.values[:] = 0, 0
    return codes
