"""``dfscan annotate``: judge a video or a picture, then draw the verdicts where the faces are."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

import numpy as np

from dfscan import storage
from dfscan.config.annotate import AnnotateConfig
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError, DfscanError, OutputError, SourceError, VideoError
from dfscan.models.face_scorer import FaceScores
from dfscan.models.modelfile import read_header
from dfscan.pipeline.extraction.extractor import ExtractionResult
from dfscan.pipeline.inputs import make_extractor
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.sandbox.process import FRAME_S, Limits
from dfscan.pipeline.sandbox.transcoding import DRAWING, ENCODER_BYTES, SLOWER, one_line, transcode
from dfscan.pipeline.score_task import ScoreTask
from dfscan.pipeline.scoring_setup import make_score_task
from dfscan.rendering.drawing import Drawing, Drawn, Face, Person, Watch, draw_picture, draw_video
from dfscan.rendering.overlay import NO_FACE, label_of
from dfscan.schemas.recipe import NetworkInput
from dfscan.schemas.records import FaceRow, FrameScore, VideoRef, VideoRow
from dfscan.schemas.scoring import Aggregation
from dfscan.schemas.status import SUCCEEDED, UNREAD
from dfscan.scoring.decision import Decision, DecisionRule, decide
from dfscan.video.pictures import is_picture_file


@dataclass(frozen=True)
class AnnotateResult:
    """A video or picture with boxes; ``people`` as in the column ``tracks`` with their verdicts.

    ``judged`` of its ``frames`` were looked at; ``seconds`` is the length of a video.
    """

    out: str
    verdict: str | None
    reason: str | None
    p_fake: float | None
    calibrated: bool
    people: list[dict[str, Any]]
    frames: int
    judged: int
    seconds: float | None
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


_MORE_TIME: Final = " (--set annotate.timeout=SECONDS allows more time)"
_MORE_MEMORY: Final = " (--set annotate.max_memory=BYTES allows more)"

_FEW: Final = 4
"""In a video of which so many frames were judged, a face seen once is no flicker."""


def run(config: AnnotateConfig, progress: Progress) -> AnnotateResult:
    """Judge one file and write it with its verdicts.

    :raises UsageError: no file or no model, a file that is no video or picture, an output that cannot
        be used. :raises DfscanError: the video cannot be decoded in time, or not be written.
    """
    started = time.monotonic()
    ref = _find(config.file)
    scoring = _scoring(config)
    data = _read(ref, scoring.max_bytes)
    picture = is_picture_file(ref.uri, data)
    out = _check_out(config, ref, picture)
    task = make_score_task(scoring, out.parent, progress)
    judged = _judge(task, scoring, ref, picture, progress)
    if judged.seen.row.content_sha256 != storage.sha256(data):
        raise DfscanError(f"{config.file} changed while it was judged: run the same command again")
    drawn = _draw(data, judged, config, out, progress)
    row, verdict = judged.seen.row, judged.decision
    return AnnotateResult(
        out=str(out),
        verdict=verdict.verdict,
        reason=verdict.reason,
        p_fake=verdict.p_fake,
        calibrated=verdict.calibrated,
        people=[person.told() for person in judged.people],
        frames=drawn.frames,
        judged=row.frames_sampled or 0,
        seconds=drawn.seconds,
        notes=[*_notes(judged), *drawn.notes],
        elapsed_s=time.monotonic() - started,
    )


# ---------------------------------------------------------------- what there is to judge


def _find(file: str | None) -> VideoRef:
    """The one file that is meant.

    :raises SourceError: none is given, it is not there, or it is several.
    """
    if file is None:
        raise SourceError(
            "no file: give a video or a picture (dfscan score judges whole folders)",
            code="source.missing",
        )
    if FilePath(file).is_dir():
        raise SourceError(
            f"{file} is a folder: give one video or picture (dfscan score judges whole folders)",
            code="source.wrong_kind",
        )
    uri = storage.absolute(file)
    (entries,) = storage.list_paths([("", uri)])
    storage.forget()
    if len(entries) != 1 or entries[0].path != uri:
        raise SourceError(
            f"{file} is an archive: name one of its members (ARCHIVE!/MEMBER), or judge them all "
            "with dfscan score",
            code="source.wrong_kind",
        )
    entry = entries[0]
    if not entry.version:
        raise SourceError(f"there is no file at {file}", code="source.missing")
    name = _name_of(uri)
    return VideoRef(name, uri, "", None, None, name, entry.bytes, entry.version)


def _name_of(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _read(ref: VideoRef, max_bytes: int) -> bytes:
    try:
        return storage.read_bytes(ref.uri, max_bytes)
    except VideoError as error:
        raise _unusable(ref, error.status, error.reason) from None


def _unusable(ref: VideoRef | VideoRow, status: str | None, reason: str | None) -> DfscanError:
    """A file that was not judged; what another try may change is no wrong command."""
    text = f"{_name_of(ref.uri)}: {status}: {reason}"
    if status in UNREAD or status == "decode_error":
        return SourceError(text)
    if status == "timeout":
        text += _MORE_TIME
    elif status == "crashed" and "of memory" in (reason or ""):
        text += _MORE_MEMORY
    return DfscanError(text)


def _check_out(config: AnnotateConfig, ref: VideoRef, picture: bool) -> FilePath:
    """Where the result goes.

    :raises OutputError: it is there already, or its folder cannot be written.
    """
    ending = ".png" if picture else ".mp4"
    if config.out is not None:
        out = storage.local(config.out, "annotated videos and pictures").absolute()
        if out.suffix.lower() != ending:
            kind = "picture" if picture else "video"
            raise ConfigError(
                f"annotate.out: got {config.out!r}; of a {kind} a {ending} file is written"
            )
    else:
        stem = FilePath(_name_of(ref.uri)).stem
        beside = FilePath(ref.uri).parent
        folder = beside if FilePath(ref.uri).is_file() else FilePath.cwd()
        out = folder / (f"{stem}_results.png" if picture else f"{stem}_annotated.mp4")
    if out.exists() and FilePath(ref.uri).exists() and out.samefile(ref.uri):
        raise OutputError(
            f"output {str(out)!r} is the file itself: give another --out", code="output.wrong_kind"
        )
    if out.is_dir():
        raise OutputError(f"output {str(out)!r} is a folder: give a file", code="output.wrong_kind")
    if storage.exists(out) and not config.overwrite:
        raise OutputError(
            f"output {str(out)!r} exists: give another --out, or --overwrite", code="output.exists"
        )
    if out.parent.exists() and not os.access(out.parent, os.W_OK):
        raise OutputError(
            f"folder {str(out.parent)!r} cannot be written: give --out elsewhere",
            code="output.unwritable",
        )
    return out


# ---------------------------------------------------------------- judging


@dataclass(frozen=True)
class _Person:
    """One track: its own judgement, where it is, and how it is drawn."""

    track_id: int
    decision: Decision
    faces: Sequence[FaceRow]
    frames: Sequence[FrameScore]
    label: str
    drawn: bool

    def told(self) -> dict[str, Any]:
        """The person's entry of the column ``tracks``, and their verdict."""
        (own,) = self.decision.tracks
        verdict = {
            name: getattr(self.decision, name) for name in ("verdict", "reason", "calibrated")
        }
        return {**own, "box": list(own["box"]), **verdict, "drawn": self.drawn}


@dataclass(frozen=True)
class _Judged:
    """A file's faces and what was made of them.

    ``rule`` is the file's own, ``person_rule`` that of single people; ``models`` so many judged it,
    the first of which takes ``input``. Drawing ends after ``deadline_s`` seconds, and may take so much
    ``memory``, bytes.
    """

    seen: ExtractionResult
    decision: Decision
    people: Sequence[_Person]
    rule: DecisionRule
    person_rule: DecisionRule
    models: int
    input: NetworkInput
    deadline_s: float
    memory: int

    def interval_s(self, wanted_s: float) -> float:
        """Seconds from one look to the next; as whole frames, or key frames, they are not as wanted."""
        gaps = np.diff(sorted(self.seen.times.values()))
        return max(wanted_s, float(np.median(gaps)) * 1.01) if len(gaps) else wanted_s

    @property
    def heading(self) -> str:
        """The file's own verdict in words."""
        told = self.decision
        if told.verdict is None or told.p_fake is None:
            return NO_FACE if told.reason == "no_face" else f"not judged: {told.reason}"
        why = f" ({told.reason})" if told.reason else ""
        label = label_of(told.verdict, told.p_fake, told.calibrated)
        return label.replace("\n", ", ") + why


def _scoring(config: AnnotateConfig) -> ScoreConfig:
    """Scoring as ``dfscan score --every 0.2s --phase 0`` would, in this process."""
    names = (
        *("model", "threshold", "aggregation", "every", "batch_size", "gpus"),
        *("timeout", "max_memory", "recycle", "decoders", "isolate"),
    )
    return ScoreConfig(**{n: getattr(config, n) for n in names}, phase=0, inline=True)


def _judge(
    task: ScoreTask, scoring: ScoreConfig, ref: VideoRef, picture: bool, progress: Progress
) -> _Judged:
    """Look, score, and judge the file and each of its people.

    :raises DfscanError: the file cannot be used; see :func:`_unusable`.
    """
    try:
        looks = 1 if picture else len(task.full.extractor.sample_frames(ref))
    except VideoError as error:
        raise _unusable(ref, error.status, error.reason) from None
    # as many frames as here are no part of the usual deadline
    patient = scoring.model_copy(update={"timeout": scoring.timeout + looks * FRAME_S})
    seen = make_extractor(patient, task.full.extractor.recipe, Progress()).extract(ref)
    row = seen.row
    if row.status not in SUCCEEDED:
        raise _unusable(ref, row.status, row.reason)
    scores = task.scorer.score(seen.faces)
    decision, _ = _decision(seen, seen.faces, scores, task.full.rule)
    alone = _alone(task, scoring)
    scores = scores.fused_by(alone.scorer.calibrations)
    header = read_header(task.scorer.models[0].path)
    assert header.recipe.input is not None
    memory = None if scoring.max_memory is None else int(scoring.max_memory)
    limits = Limits(scoring.timeout, memory)
    return _Judged(
        seen,
        decision,
        _people(seen, scores, alone.full.rule, scoring.aggregation),
        task.full.rule,
        alone.full.rule,
        len(task.scorer.models),
        header.recipe.input,
        SLOWER * limits.deadline_s(row.bytes, looks),
        ENCODER_BYTES + limits.memory_limit(row.bytes),
    )


def _alone(task: ScoreTask, scoring: ScoreConfig) -> ScoreTask:
    """The task that judges single people: by the mean, and calibrated for it."""
    if scoring.aggregation == "mean":
        return task
    return make_score_task(
        scoring.model_copy(update={"aggregation": "mean"}), task.target, Progress()
    )


def _uncalibrated(aggregation: Aggregation) -> str:
    return f"not calibrated for aggregation {aggregation}"


def _notes(judged: _Judged) -> list[str]:
    """What a reader of the verdict must know; where all is by the mean, the reasons say it."""
    rule = judged.rule
    if rule.calibration or rule.explicit_threshold or rule.aggregation == "mean":
        return []
    subject = "the model" if judged.models == 1 else "one of the models"
    return [f"{subject} is {_uncalibrated(rule.aggregation)}"]


def _decision(
    seen: ExtractionResult, faces: Sequence[FaceRow], scores: FaceScores, rule: DecisionRule
) -> tuple[Decision, Sequence[FrameScore]]:
    """The verdict on some of the file's faces, and their scores."""
    frames = scores.frames(faces)
    decision = decide(
        seen.row.status,
        seen.row.reason,
        frames,
        rule,
        sampled=seen.row.frames_sampled,
        sharpness=scores.median_sharpness,
    )
    return decision, frames


def _people(
    seen: ExtractionResult, scores: FaceScores, rule: DecisionRule, aggregation: Aggregation
) -> list[_Person]:
    """Each track, judged by the mean of its own frames.

    :param aggregation: the file's own; where it is another, a person without a calibration says so.
    """
    tracks = sorted({f.track_id for f in seen.faces if f.track_id is not None})
    people = []
    for track in tracks:
        own = [i for i, f in enumerate(seen.faces) if f.track_id == track]
        faces = [seen.faces[i] for i in own]
        decision, frames = _decision(seen, faces, scores[own], rule)
        if decision.p_fake is None:
            continue  # no finite score, which the file's own verdict says
        label = label_of(
            decision.verdict or "UNCERTAIN",
            decision.p_fake,
            decision.calibrated,
            track + 1 if len(tracks) > 1 else None,
        )
        if aggregation != "mean" and decision.reason == "model_uncalibrated":
            decision = replace(decision, reason=_uncalibrated("mean"))
        person = _Person(
            track,
            decision,
            faces,
            frames,
            label,
            drawn=len(own) > 1 or (seen.row.frames_sampled or 0) < _FEW,
        )
        people.append(person)
    return people


# ---------------------------------------------------------------- drawing


def _drawing(judged: _Judged, every_s: float, picture: bool) -> Drawing:
    """What is drawn; the crops of a picture's faces are shown, too."""
    rule = judged.person_rule.calibration
    return Drawing(
        heading=judged.heading,
        people=tuple(_shown(person, picture) for person in judged.people),
        scale=rule.scale if rule else 1.0,
        offset=rule.offset if rule else 0.0,
        every_s=judged.interval_s(every_s),
        input=judged.input,
        seen_by="the network" if judged.models == 1 else "the first network",
        deadline_s=judged.deadline_s,
    )


def _shown(person: _Person, picture: bool) -> Person:
    faces = (
        Face(
            pts_s=frame.pts_s,
            box=frame.box,
            score_raw=frame.score_raw,
            image=face.image if picture else b"",
            crop_box=face.crop_box,
        )
        for face, frame in zip(person.faces, person.frames, strict=True)
    )
    return Person(
        number=person.track_id,
        verdict=person.decision.verdict or "UNCERTAIN",
        label=person.label,
        threshold=person.decision.threshold,
        drawn=person.drawn,
        faces=tuple(faces),
    )


def _draw(
    data: bytes, judged: _Judged, config: AnnotateConfig, out: FilePath, progress: Progress
) -> Drawn:
    """Write the file with its verdicts, in a process of its own; nothing is left behind where that
    fails.

    :raises DfscanError: it cannot be decoded in time, or not be written.
    """
    row = judged.seen.row
    picture = is_picture_file(row.uri, data)
    drawing = _drawing(judged, config.every, picture)
    drawn: list[Drawn] = []

    def watch(done: int, frames: int) -> None:
        if done:
            progress.advance(1)
        else:
            progress.start("annotate", frames, "frames")

    def write(path: FilePath) -> None:
        if config.isolate:
            drawn.append(_apart(data, judged, drawing, path, watch))
        elif picture:
            drawn.append(draw_picture(data, drawing, path))
        else:
            drawn.append(draw_video(data, drawing, path, watch))
        progress.stop()

    try:
        storage.commit_file(out, write)
    except VideoError as error:
        raise _unusable(row, error.status, error.reason) from None
    return drawn[0]


def _apart(data: bytes, judged: _Judged, drawing: Drawing, path: FilePath, watch: Watch) -> Drawn:
    request = {
        "uri": judged.seen.row.uri,
        "paths": [str(path)] * 2,
        "drawing": drawing.model_dump_json(),
        "memory": judged.memory,
    }
    return transcode(DRAWING, request, lambda: [data], judged.deadline_s, _told, watch)


def _told(said: Any) -> Drawn:
    """What the process that draws says of its work; it goes to the screen.

    :raises ValueError: it makes no sense.
    """
    drawn = Drawn.model_validate(said)
    return drawn.model_copy(update={"notes": tuple(one_line(note) for note in drawn.notes)})
