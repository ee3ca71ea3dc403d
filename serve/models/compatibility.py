"""Whether a version can be served on a machine; only the manifest and the machine decide."""

from optimize.manifest import Machine, Manifest

DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Instruction sets of x86 that sum 8-bit products in 32 bits. Without any of them onnxruntime sums pairs in 16 bits, which saturates
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "when and why do I need to try U8U8"): an INT8
model that was judged with them gives other answers without them."""


def incompatibility(manifest: Manifest, machine: Machine, replicas: int = 1) -> str | None:
    """Why `replicas` on a machine must not serve a version: what was found, what was wanted, the fix; None if they may."""
    version = f"{manifest.model} version {manifest.version}"
    artifact = manifest.artifact
    if artifact.format != "onnx":
        built_for = ", ".join(manifest.budgets.compute_capabilities)
        gpus = f" for GPUs of compute capability {built_for}" if built_for else ""
        return (
            f"{version}: is a {artifact.format} engine{gpus}; wanted an ONNX file: promote a version whose runtime is"
            " onnxruntime"
        )
    had = set(DOT_PRODUCTS).intersection(manifest.machine.instruction_sets)
    if _is_int8(manifest) and had and not had.intersection(machine.instruction_sets):
        return (
            f"{version}: is INT8 and was measured with {' and '.join(sorted(had))}, which this machine's processor lacks, so its"
            " sums would saturate; wanted a processor that has it, or a version exported here: run `optimize export` on this"
            " machine, or promote an fp32 version"
        )
    return too_few_cores(manifest, machine.cores, replicas)


def too_few_cores(manifest: Manifest, cores: int, replicas: int) -> str | None:
    """Why there are too few cores for the threads of all replicas, which no measurement shared; None if there are enough."""
    threads = manifest.artifact.options.threads
    if replicas == 1 or replicas * threads <= cores:
        return None
    return (
        f"{replicas} replicas of {threads} threads need {replicas * threads} cores, this machine has {cores}; wanted at most"
        f" {max(1, cores // threads)} replicas: lower --replicas"
    )


def _is_int8(manifest: Manifest) -> bool:
    return manifest.artifact.options.target == "cpu" and manifest.candidate.startswith("int8")
