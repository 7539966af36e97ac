"""Our decoder in vLLM, against the trainer's: every preset in its tiny variant, and natively after conversion."""

import json
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlzero.models.convert import convert
from rlzero.models.logprobs import token_logprobs
from rlzero.models.presets import PRESETS, preset
from rlzero.models.routing import record_routing, router_modules
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Sampling

pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")

EXACT = 1e-5
IN_VLLM = [name for name in PRESETS if name != "shazeer-2017"]
NATIVE = [name for name in PRESETS if name.startswith(("mistral", "mixtral", "deepseek"))]


def _model(name, tiny, **settings):
    """A random model in float32 that gives its tokens clearly different probabilities."""
    from rlzero.models.decoder import MoEForCausalLM

    shape = {"vocab_size": 91, "eos_token_id": tiny.eos, "pad_token_id": 0, "initializer_range": 0.08}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoEForCausalLM(preset(name, tiny=True, **{**shape, **settings})).eval()
        for router in _biased(model):
            router.e_score_correction_bias.normal_(std=0.05)
    # Norms would be 1 everywhere.
    tiny.change_weights(model, seed=0)
    return model


def _update(model, engine, steps):
    """Optimizer steps on random text, balance losses and bias included, each handed to the engine."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for version in range(1, steps + 1):
        ids = torch.randint(3, 91, (4, 32), generator=generator)
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for router in _biased(model):
            router.e_score_correction_bias.add_(0.01 * torch.randn(16, generator=generator))
        engine.sync(model.eval(), version)


def _biased(model):
    return [router for router in router_modules(model) if hasattr(router, "e_score_correction_bias")]


def _engine(model, path, tokenizer, **settings):
    return make_engine(
        "vllm", model=model, model_path=str(path), tokenizer=tokenizer, max_model_len=100, max_num_seqs=64, **settings
    )


def _rollouts(engine, problems, prompts, seed=0):
    groups = engine.generate(problems, prompts, Sampling(n=3, max_tokens=80, seed=seed))
    return [rollout for group in groups for rollout in group.rollouts]


def _sequences(rollouts):
    return [np.concatenate([r.prompt_ids, r.completion_ids]) for r in rollouts]


def _largest_difference(model, rollouts):
    scored = token_logprobs(model, _sequences(rollouts))
    return max(
        np.abs(values[len(r.prompt_ids) - 1 :] - r.sampler_logprobs).max()
        for values, r in zip(scored, rollouts, strict=True)
    )


def _differing_routing(model, rollouts):
    """Share of recorded experts that are not those that the trainer's model chooses for the sequence.

    Where two experts are as good as equal, rounding may change their order, or even the last one chosen: what
    replay is there for.
    """
    differing = []
    for rollout, sequence in zip(rollouts, _sequences(rollouts), strict=True):
        with torch.no_grad(), record_routing(model) as tape:
            model(input_ids=torch.from_numpy(sequence[:-1])[None], use_cache=False)
            chosen = tape.stacked().numpy()
        assert rollout.routing.dtype == np.int16
        assert rollout.routing.shape == chosen.shape
        differing.append((np.sort(rollout.routing, axis=-1) != np.sort(chosen, axis=-1)).ravel())
    return np.concatenate(differing).mean()


@pytest.fixture(scope="module")
def started(tiny, tokenizer, tmp_path_factory):
    """DeepSeek-V3's tiny variant and a vLLM engine that records. Tests leave the two in step."""
    model = _model("deepseek-v3", tiny)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    engine = _engine(model, path, tokenizer, record_routing=True)
    yield model, engine
    engine.close()


def test_sampled_log_probabilities_are_the_trainers(started, problems, prompts):
    model, engine = started
    assert _largest_difference(model, _rollouts(engine, problems, prompts)) < EXACT


def test_scores_are_the_trainers(started, problems, prompts):
    model, engine = started
    sequences = _sequences(_rollouts(engine, problems, prompts))
    for theirs, ours in zip(engine.score(sequences), token_logprobs(model, sequences), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=EXACT)


def test_weights_and_bias_arrive_at_each_of_twenty_updates(started, problems, prompts):
    model, engine = started
    stale = _rollouts(engine, problems, prompts)
    _update(model, engine, steps=20)

    assert _largest_difference(model, _rollouts(engine, problems, prompts, seed=1)) < EXACT
    assert _largest_difference(model, stale) > 0.1


def test_a_bias_alone_arrives(started, tiny, problems, prompts):
    """The bias of the router is a buffer, which the balancing of V3 moves and no optimizer knows."""
    model, engine = started
    before = _rollouts(engine, problems, prompts)
    for router in _biased(model):
        router.e_score_correction_bias.neg_()
    engine.sync(model, 1)

    assert _largest_difference(model, _rollouts(engine, problems, prompts)) < EXACT
    assert _largest_difference(model, before) > 1e-2


def test_recorded_experts_are_those_that_the_trainer_chooses(started, problems, prompts):
    model, engine = started

    assert _differing_routing(model, _rollouts(engine, problems, prompts)) < 1e-3


def test_a_checkpoint_with_other_tensors_is_refused(started):
    model, engine = started
    weights = dict(model.state_dict())
    extra = {**weights, "model.layers.0.mlp.gate.weight": torch.zeros(16, 128)}
    narrow = {**weights, "model.layers.1.mlp.gate.weight": torch.zeros(8, 128)}
    less = {name: tensor for name, tensor in weights.items() if "layers.2.mlp.experts" not in name}
    for wrong, message in (
        (extra, r"model.layers.0.mlp.gate.weight \[16, 128\] does not exist there"),
        (narrow, r"model.layers.1.mlp.gate.weight \[8, 128\] is \[16, 128\] there"),
        (less, r"2 are missing: model.layers.2.mlp.experts"),
    ):
        with pytest.raises(ValueError, match=message):
            _in_vllm(engine, lambda loaded, wrong=wrong: loaded.load_weights(wrong.items()))


def test_a_checkpoint_is_loaded_whole_but_for_heads_that_only_train(started):
    model, engine = started
    names = set(model.state_dict())
    loaded = _in_vllm(engine, lambda loaded: loaded.load_weights(model.state_dict().items()))

    assert any(name.startswith("mtp.") for name in names)
    assert loaded == {name for name in names if not name.startswith("mtp.")}


def _in_vllm(engine, function):
    """What the function returns for the model that vLLM runs."""
    return engine._engine.apply_model(function)[0]


def test_an_lstm_is_refused_by_name_and_auto_samples_it_with_the_builtin_engine(tiny, tokenizer, tmp_path):
    model = _model("shazeer-2017", tiny)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"attention_kind='lstm'.*--rollout builtin"):
        _engine(model, tmp_path, tokenizer)
    engine = make_engine("auto", model=model, model_path=str(tmp_path), tokenizer=tokenizer, max_model_len=100)

    assert engine.name == "builtin"


def test_tensor_parallelism_is_refused():
    from rlzero.rollout.vllm_decoder import MoEForCausalLM

    parallel = SimpleNamespace(tensor_parallel_size=2, pipeline_parallel_size=1)
    with pytest.raises(ValueError, match=r"tensor_parallel_size=2 and pipeline_parallel_size=1.*rlzero convert"):
        MoEForCausalLM(vllm_config=SimpleNamespace(parallel_config=parallel))


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_VLLM)
def test_every_preset_samples_with_the_trainers_log_probabilities(name, tiny, tokenizer, problems, prompts, tmp_path):
    model = _model(name, tiny)
    model.save_pretrained(tmp_path)
    sparse = bool(router_modules(model))
    with closing(_engine(model, tmp_path, tokenizer, record_routing=sparse)) as engine:
        assert _largest_difference(model, _rollouts(engine, problems, prompts)) < EXACT
        _update(model, engine, steps=20)
        rollouts = _rollouts(engine, problems, prompts, seed=1)
        assert _largest_difference(model, rollouts) < EXACT
        assert not sparse or _differing_routing(model, rollouts) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_every_native_class_samples_with_the_trainers_log_probabilities(
    name, tiny, tokenizer, problems, prompts, tmp_path
):
    """vLLM's own classes and kernels, after conversion."""
    model = _model(name, tiny)
    model.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "native", "native")
    sparse = bool(router_modules(model))
    with closing(_engine(model, tmp_path / "native", tokenizer, record_routing=sparse)) as engine:
        rollouts = _rollouts(engine, problems, prompts)
        assert _largest_difference(model, rollouts) < EXACT
        assert not sparse or _differing_routing(model, rollouts) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixtral-8x7b", {"tie_word_embeddings": True, "use_qk_norm": True, "attention_bias": True, "head_dim": 16}),
        ("deepseek-v2-lite", {"kv_lora_rank": 48, "qk_rope_head_dim": 16, "v_head_dim": 40}),
    ],
)
def test_what_no_preset_has_samples_with_the_trainers_log_probabilities(
    name, settings, tiny, tokenizer, problems, prompts, tmp_path
):
    model = _model(name, tiny, **settings)
    model.save_pretrained(tmp_path)
    with closing(_engine(model, tmp_path, tokenizer)) as engine:
        assert _largest_difference(model, _rollouts(engine, problems, prompts)) < EXACT
        _update(model, engine, steps=2)
        assert _largest_difference(model, _rollouts(engine, problems, prompts, seed=1)) < EXACT


@pytest.mark.slow
def test_recording_a_dense_model_is_refused_and_leaves_no_engine_open(tiny, tokenizer, problems, prompts, tmp_path):
    model = _model("deepseek-llm-7b", tiny)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="MoEForCausalLM has none: it is a dense model"):
        _engine(model, tmp_path, tokenizer, record_routing=True)
    with closing(_engine(model, tmp_path, tokenizer)) as engine:
        assert all(rollout.routing is None for rollout in _rollouts(engine, problems, prompts))


@pytest.mark.slow
def test_vllm_by_itself_runs_a_checkpoint_once_the_plugin_is_called(tiny, prompts, tmp_path):
    """As a server does, which looks the class up by name in a process of its own."""
    model = _model("gshard", tiny)
    model.save_pretrained(tmp_path)
    code = (
        "import json, sys\n"
        "from rlzero.rollout.vllm_plugin import register\n"
        "from vllm import LLM, SamplingParams\n"
        "register()\n"
        "llm = LLM(sys.argv[1], skip_tokenizer_init=True, dtype='float32', max_model_len=100, enforce_eager=True,\n"
        "          kv_cache_memory_bytes=2**26)\n"
        "params = SamplingParams(temperature=0, max_tokens=20, detokenize=False, ignore_eos=True)\n"
        "outputs = llm.generate([{'prompt_token_ids': ids} for ids in json.loads(sys.argv[2])], params)\n"
        "print('tokens', json.dumps([list(output.outputs[0].token_ids) for output in outputs]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), json.dumps(prompts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("tokens ")]

    for prompt, completion in zip(prompts, json.loads(line.removeprefix("tokens ")), strict=True):
        sequence = torch.tensor([prompt + completion])
        with torch.no_grad():
            greedy = model(input_ids=sequence, use_cache=False).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert greedy.tolist() == completion
