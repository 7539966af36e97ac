"""How much of the gain is the one choice to work a problem out? The base with its thought begun for it.

    python benchmarks/forced_thought.py [--model recipes/base] [--problems 256] [--samples 8]

Prints pass@1 of the model as it is, and with every thought made to begin with the problem's own expression.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from data.arithmetic import Arithmetic
from data.problem import Problem
from data.templates import get_template
from rlzero.measure.evaluate import EvalResult, evaluate, score_rollouts
from rlzero.measure.text import encode_prompt
from rlzero.models.load import context_length, load_model, load_tokenizer
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Group, Sampling


def forced(engine, tokenizer, problems: list[Problem], template, sampling: Sampling) -> EvalResult:
    """Sampled from `…<think>EXPRESSION=`; what was forced is part of the turn that is scored."""
    begun = [f"{p.columns['expression']}=" for p in problems]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in begun]
    prompts = [encode_prompt(template, p.prompt, tokenizer) + t for p, t in zip(problems, tokens, strict=True)]
    samples = []
    for group, text in zip(engine.generate(problems, prompts, sampling), begun, strict=True):
        whole = replace(template, prefill=template.prefill + text)
        samples.append(tuple(score_rollouts(Group(group.problem, group.rollouts).rollouts, tokenizer, whole, ())))
    return EvalResult(tuple(problems), tuple(samples), template, sampling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="recipes/base")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    tokenizer, model = load_tokenizer(arguments.model), load_model(arguments.model)
    engine = make_engine(
        "builtin",
        model=model,
        model_path=arguments.model,
        tokenizer=tokenizer,
        max_model_len=context_length(model.config) or 512,
        max_num_seqs=512,
    )
    template = get_template("short")
    problems = Arithmetic().heldout(arguments.problems)
    for temperature in (1.0, 0.0):
        sampling = Sampling(n=arguments.samples if temperature else 1, max_tokens=96, temperature=temperature)
        for name, result in (
            ("as it is", evaluate(engine, tokenizer, problems, template, sampling)),
            ("thought begun for it", forced(engine, tokenizer, problems, template, sampling)),
        ):
            p = result.pass_at(1)
            sizes = {}
            for problem, share in zip(problems, result.accuracies, strict=True):
                sizes.setdefault(sum(problem.columns["expression"].count(o) for o in "+-*") + 1, []).append(share)
            by_size = ", ".join(f"{k}: {sum(v) / len(v):.3f}" for k, v in sorted(sizes.items()))
            print(
                f"temperature {temperature:g}, {name}: pass@1 {p.value:.3f} [{p.low:.3f}, {p.high:.3f}], "
                f"format {result.format().value:.3f}, length {result.length().value:.1f}; by operands {by_size}"
            )


if __name__ == "__main__":
    main()
