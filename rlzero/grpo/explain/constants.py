"""What an estimate takes from elsewhere: every number that is neither in the recipe nor measured on the spot."""

from __future__ import annotations

# --- Assumptions about a recipe that has not run yet. -------------------------------------------------------------

# Mean length of an answer over a run, as a share of max_completion_length. Measured on the embedded tasks: 25 of
# 80 tokens on arithmetic; on countdown 23 of 192 at first and 78 at the end (README.md).
COMPLETION_SHARE = 1 / 3
# Tokens of a prompt whose problems or tokenizer are not at hand: a competition problem in the R1-Zero template.
PROMPT_TOKENS = 256
# Groups whose answers differ in reward, over a run: on arithmetic nearly all at first, a fifth at the end.
SIGNAL_SHARE = 1 / 2

# --- Memory of a process on a CPU, as the resident set grows: recipes/r1_zero.yaml, Linux with glibc. --------------

# What the heap holds at its peak for each byte that the backward pass keeps: gradients on their way, and what malloc
# does not give back between steps. Peaks between 0.88 and 1.04 GiB with the built-in engine, 1.51 and 1.57 with vLLM.
CPU_HEAP = 2.0
# vLLM's modules, compiled kernels and buffers, without weights and cache.
VLLM_CPU_BYTES = 400 * 2**20
# On a CPU vLLM computes from packed copies of the weights, and keeps the others.
VLLM_CPU_COPIES = 2
# CUDA's own, assumed: context, cuBLAS workspaces, the allocator's rest.
CUDA_BYTES = 1.5 * 2**30
# Buffers of logits in float32 beside the chunk itself: rlzero/models/token_head.py.
LOGIT_BUFFERS = 2

# --- Time: Python's part of an engine, in turns of an empty loop of the interpreter, which is timed on the spot. ---
# Measured on one thread where a turn takes 30 ns, with 8 to 512 sequences of the embedded model.

VLLM_START = 200_000_000  # 6 s: imports, the engine, its warm-up
VLLM_STEP = 10_000  # beyond what the model itself takes
VLLM_TOKEN = 1_250  # a sequence in a step: scheduler, sampler, log-probabilities
VLLM_ANSWER = 2_000  # a request: made, admitted, handed back
VLLM_SYNC = 1_300_000  # the walk over modules and weights
# Tokens of a block of vLLM's prefix cache on a GPU: only whole blocks of a prompt are shared by its answers.
VLLM_BLOCK = 16
BUILTIN_START = 13_000_000
ANSWER = 800  # decoded, parsed and scored

# --- Time: rates where nothing can be measured. ------------------------------------------------------------------

# Share of the machine's matmul rate that a training phase reaches. CPU: hidden size 512 and more,
# benchmarks/training_phase.py. GPU: MFU of dense models in mixed precision, PaLM (2204.02311, table 3) and later.
CPU_MATMUL_SHARE = 0.5
GPU_MATMUL_SHARE = 0.4
# Assumed: launching one decode step of vLLM with CUDA graphs, and a training microbatch; loading and warm-up.
GPU_STEP_SECONDS = 0.008
GPU_MICROBATCH_SECONDS = 0.05
GPU_START_SECONDS = 60.0
# Where no GPU is at hand: NVIDIA H100 SXM, data sheet. Dense bfloat16 FLOP/s, bytes/s, bytes.
ASSUMED_GPU = "NVIDIA H100 SXM"
ASSUMED_GPU_FLOPS = 989e12
ASSUMED_GPU_BANDWIDTH = 3.35e12
ASSUMED_GPU_BYTES = 80 * 10**9
