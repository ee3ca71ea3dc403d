"""Score a file: the whole job, in order."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from optimize.errors import ArtifactError, UserError
from optimize.manifest import Manifest, Preprocessing, Signature
from optimize.registry import Registry
from serve.rayserve.local_ray import local_ray
from serve.scoring import partition, progress
from serve.scoring.answers import output_schema
from serve.scoring.columns import check_schema
from serve.scoring.input_file import Source, describe, stored_row_bytes
from serve.scoring.output_folder import JOB_SCHEMA, Job, Summary, check_free, locked, recorded
from serve.scoring.worker import Work


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; None for `version` or `workers` means the default."""

    model: str
    input: Path
    output: Path
    registry: Path | str
    version: int | None = None
    resume: bool = False
    workers: int | None = None


def run(request: Request) -> Summary:
    """Score every row of a file once, into parts in the output folder.

    Everything that the user may have to fix, apart from single rows, is found before Ray starts.

    Raises:
        UserError: The request, the file's columns or a row do not fit, or the folder belongs to another job.
        ProveserveError: The version is missing or damaged, the model fails on a row, or workers die.
    """
    began_s = time.monotonic()
    begun = recorded(request.output) if request.resume else None
    registry = Registry(request.registry)
    manifest = _manifest(registry, request, begun)
    layout = partition.layout(manifest)
    workers = worker_count(request.workers, layout.options.threads, len(os.sched_getaffinity(0)))
    source, metadata, schema = describe(request.input)
    preprocessing = _preprocessing(manifest, schema)
    read = manifest.signature if preprocessing is None else Signature(preprocessing.columns, ())
    instead = () if manifest.preprocessing is None else tuple(spec.name for spec in manifest.preprocessing.columns)
    check_schema(schema, read, str(request.input), instead)
    job = _job(manifest, layout, source, stored_row_bytes(metadata, [spec.name for spec in read.inputs]))
    tasks = partition.tasks(source.row_groups, job.slice_rows, layout.batch)
    if begun is None:
        check_free(request.output)
    with locked(request.output, job) as folder:
        missing = folder.missing(tasks)
        work = _work(registry, request, manifest, layout, job, preprocessing)
        scoring_s = _score(work, missing, min(workers, len(missing))) if missing else 0.0
        scored = sum(task.rows for task in missing)
        summary = _summary(job, len(tasks), scored, time.monotonic() - began_s, scoring_s)
        folder.finish(summary)
    return summary


def _summary(job: Job, parts: int, scored: int, seconds: float, scoring_s: float) -> Summary:
    return Summary(
        model=job.model,
        version=job.version,
        digest=job.digest,
        rows=job.input.rows,
        parts=parts,
        rows_scored=scored,
        seconds=round(seconds, 3),
        scoring_s=round(scoring_s, 3),
        rows_per_s=round(scored / seconds, 1),
    )


def worker_count(asked: int | None, threads: int, cores: int) -> int:
    """How many workers run: as many as the cores allow, or the number that was asked for.

    Raises:
        UserError: More were asked for than the cores allow.
    """
    most = max(cores // threads, 1)
    if asked is not None and asked > most:
        raise UserError(
            f"--workers {asked}: {asked} x {threads} thread{'s' if threads > 1 else ''} of the artefact are more than the"
            f" {cores} cores here; wanted at most --workers {most}"
        )
    return asked or most


def _manifest(registry: Registry, request: Request, begun: Job | None) -> Manifest:
    """The version that was asked for, else the one that a resumed job began with, else the current one."""
    version = begun.version if begun is not None and begun.model == request.model else None
    manifest = registry.load(request.model, request.version or version)
    artifact = manifest.artifact
    if artifact.format != "onnx" or artifact.options.target != "cpu":
        raise ArtifactError(
            f"{manifest.model} version {manifest.version} is {artifact.format} for {artifact.options.target}; scoring runs onnx"
            " for cpu: name such a version with --version"
        )
    return manifest


def _job(manifest: Manifest, layout: partition.Layout, source: Source, stored_bytes: float) -> Job:
    signature = manifest.signature
    columns: pa.Schema = output_schema(signature)
    row_bytes = partition.row_bytes(signature, stored_bytes)
    return Job(
        schema=JOB_SCHEMA,
        model=manifest.model,
        version=manifest.version,
        digest=manifest.digest,
        input=source,
        slice_rows=partition.slice_rows(source.rows, row_bytes, layout.row_s, layout.batch),
        columns=tuple(f"{field.name}: {field.type}" for field in columns),
    )


def _preprocessing(manifest: Manifest, schema: pa.Schema) -> Preprocessing | None:
    """The version's preprocessing, if the file has its raw columns instead of the model's inputs."""
    preprocessing = manifest.preprocessing
    if preprocessing is None or all(spec.name in schema.names for spec in manifest.signature.inputs):
        return None
    return preprocessing if any(spec.name in schema.names for spec in preprocessing.columns) else None


def _work(
    registry: Registry,
    request: Request,
    manifest: Manifest,
    layout: partition.Layout,
    job: Job,
    preprocessing: Preprocessing | None,
) -> Work:
    """The workers' instructions; the files of the version are checked against their digests."""
    return Work(
        model_path=registry.model_file(manifest),
        options=layout.options,
        batch=layout.batch,
        signature=manifest.signature,
        golden_path=registry.blob(manifest.golden.blob),
        golden=manifest.golden,
        source=job.input,
        slice_rows=job.slice_rows,
        folder=request.output.absolute(),
        registry=registry.place,
        preprocessing=preprocessing,
    )


def _score(work: Work, missing: list[partition.Task], workers: int) -> float:
    """Score tasks on workers; returns the seconds from the first open worker to the last part."""
    progress.note(f"starting {workers} worker{'s' if workers > 1 else ''}")
    with local_ray(workers * work.options.threads) as interrupts:
        from serve.scoring.pool import Pool  # noqa: PLC0415 - it imports ray, which local_ray comes before

        pool = Pool(work, workers, interrupts.check)
        pool.open()
        began_s = time.monotonic()
        rows = work.source.rows
        with progress.shown(rows, rows - sum(task.rows for task in missing)) as advance:
            for task in pool.run(missing):
                advance(task.rows)
        return time.monotonic() - began_s
