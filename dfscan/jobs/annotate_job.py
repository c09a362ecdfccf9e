"""``dfscan annotate``: judge a video or a picture, then draw the verdicts where the faces are."""

import io
import os
import queue
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dfscan import storage
from dfscan.aggregation import Aggregation, sigmoid
from dfscan.calibration import Calibration
from dfscan.config import AnnotateConfig, ScoreConfig
from dfscan.errors import ConfigError, DfscanError, OutputError, SourceError, VideoError
from dfscan.faces.crops import cut
from dfscan.faces.following import Path, Placed, in_shots
from dfscan.jobs.looking import make_looker
from dfscan.jobs.progress import Progress
from dfscan.jobs.results import AnnotateResult
from dfscan.jobs.score_job import make_step
from dfscan.models.modelfile import read_header
from dfscan.recipe import NetworkInput
from dfscan.records import HEALTHY, UNREAD, FaceRow, FrameScore, VideoRef
from dfscan.reporting.boxes import NO_FACE, Artist, Mark, label_of, results
from dfscan.steps.altered import SLOWER
from dfscan.steps.isolation import FRAME_S, Limits
from dfscan.steps.look import Seen
from dfscan.steps.score import ScoreStep
from dfscan.verdicts import Judgement, Rule, judge
from dfscan.video import Frame, Video, open_video
from dfscan.video.pictures import is_picture_file, open_picture
from dfscan.video.reading import in_order
from dfscan.video.writing import VideoWriter

_WAITING: Final = 4
"""Frames that may wait for the encoder."""

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
    step = make_step(scoring, out.parent, progress)
    judged = _judge(step, scoring, ref, picture, progress)
    if judged.seen.row.content_sha256 != storage.sha256(data):
        raise DfscanError(f"{config.file} changed while it was judged: run the same command again")
    draw = _draw_picture if picture else _draw_video
    drawn = draw(data, judged, config, out, progress)
    row, verdict = judged.seen.row, judged.judgement
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
        raise SourceError("no file: give a video or a picture (dfscan score judges whole folders)")
    if FilePath(file).is_dir():
        raise SourceError(
            f"{file} is a folder: give one video or picture (dfscan score judges whole folders)"
        )
    uri = storage.absolute(file)
    (entries,) = storage.list_paths([("", uri)])
    storage.forget()
    if len(entries) != 1 or entries[0].path != uri:
        raise SourceError(
            f"{file} is an archive: name one of its members (ARCHIVE!/MEMBER), or judge them all "
            "with dfscan score"
        )
    entry = entries[0]
    if not entry.version:
        raise SourceError(f"there is no file at {file}")
    name = _name_of(uri)
    return VideoRef(name, uri, "", None, None, name, entry.bytes, entry.version)


def _name_of(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _read(ref: VideoRef, max_bytes: int) -> bytes:
    try:
        return storage.read_bytes(ref.uri, max_bytes)
    except VideoError as error:
        raise _unusable(ref, error.status, error.reason) from None


def _unusable(ref: VideoRef, status: str | None, reason: str | None) -> DfscanError:
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
        raise OutputError(f"output {str(out)!r} is the file itself: give another --out")
    if out.is_dir():
        raise OutputError(f"output {str(out)!r} is a folder: give a file")
    if storage.exists(out) and not config.overwrite:
        raise OutputError(f"output {str(out)!r} exists: give another --out, or --overwrite")
    if out.parent.exists() and not os.access(out.parent, os.W_OK):
        raise OutputError(f"folder {str(out.parent)!r} cannot be written: give --out elsewhere")
    return out


# ---------------------------------------------------------------- judging


@dataclass(frozen=True)
class _Person:
    """One track: its own judgement, where it is, and how it is drawn."""

    track_id: int
    judgement: Judgement
    faces: Sequence[FaceRow]
    frames: Sequence[FrameScore]
    label: str
    drawn: bool

    def told(self) -> dict[str, Any]:
        """The person's entry of the column ``tracks``, and their verdict."""
        (own,) = self.judgement.tracks
        verdict = {
            name: getattr(self.judgement, name) for name in ("verdict", "reason", "calibrated")
        }
        return {**own, "box": list(own["box"]), **verdict, "drawn": self.drawn}


@dataclass(frozen=True)
class _Judged:
    """A file's faces and what was made of them.

    ``rule`` is the file's own, ``person_rule`` that of single people; ``models`` so many judged it,
    the first of which takes ``input``. Drawing ends after ``deadline_s`` seconds.
    """

    seen: Seen
    judgement: Judgement
    people: Sequence[_Person]
    rule: Rule
    person_rule: Rule
    models: int
    input: NetworkInput
    deadline_s: float

    def now(self, score_raw: float) -> float:
        """How fake a single moment of a person looks."""
        return _p_fake(self.person_rule.calibration, score_raw)

    def interval_s(self, wanted_s: float) -> float:
        """Seconds from one look to the next; as whole frames, or key frames, they are not as wanted."""
        gaps = np.diff(sorted(self.seen.times.values()))
        return max(wanted_s, float(np.median(gaps)) * 1.01) if len(gaps) else wanted_s

    @property
    def heading(self) -> str:
        """The file's own verdict in words."""
        told = self.judgement
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
    step: ScoreStep, scoring: ScoreConfig, ref: VideoRef, picture: bool, progress: Progress
) -> _Judged:
    """Look, score, and judge the file and each of its people.

    :raises DfscanError: the file cannot be used; see :func:`_unusable`.
    """
    try:
        looks = 1 if picture else len(step.look.survey(ref))
    except VideoError as error:
        raise _unusable(ref, error.status, error.reason) from None
    # as many frames as here are no part of the usual deadline
    patient = scoring.model_copy(update={"timeout": scoring.timeout + looks * FRAME_S})
    seen = make_looker(patient, step.look.recipe, Progress()).see(ref)
    row = seen.row
    if row.status not in HEALTHY:
        raise _unusable(ref, row.status, row.reason)
    scores, sharp = step.scores(seen.faces)
    frames = [
        FrameScore(f.pts_s, f.frame_index, f.track_id, f.box, score)
        for f, score in zip(seen.faces, scores, strict=True)
    ]
    judgement = _judgement(seen, frames, sharp, step.rule)
    alone = _alone(step, scoring)
    if len(step.models) > 1 and alone is not step:  # calibrations weigh the models
        scores, _ = alone.scores(seen.faces)
        frames = [replace(f, score_raw=score) for f, score in zip(frames, scores, strict=True)]
    header = read_header(step.models[0].path)
    assert header.recipe.input is not None
    memory = None if scoring.max_memory is None else int(scoring.max_memory)
    return _Judged(
        seen,
        judgement,
        _people(seen, frames, sharp, alone.rule, scoring.aggregation),
        step.rule,
        alone.rule,
        len(step.models),
        header.recipe.input,
        SLOWER * Limits(scoring.timeout, memory).deadline_s(row.bytes, looks),
    )


def _alone(step: ScoreStep, scoring: ScoreConfig) -> ScoreStep:
    """The step that judges single people: by the mean, and calibrated for it."""
    if scoring.aggregation == "mean":
        return step
    return make_step(scoring.model_copy(update={"aggregation": "mean"}), step.target, Progress())


def _uncalibrated(aggregation: Aggregation) -> str:
    return f"not calibrated for aggregation {aggregation}"


def _notes(judged: _Judged) -> list[str]:
    """What a reader of the verdict must know; where all is by the mean, the reasons say it."""
    rule = judged.rule
    if rule.calibration or rule.forced or rule.aggregation == "mean":
        return []
    subject = "the model" if judged.models == 1 else "one of the models"
    return [f"{subject} is {_uncalibrated(rule.aggregation)}"]


def _judgement(
    seen: Seen, frames: Sequence[FrameScore], sharp: Sequence[float], rule: Rule
) -> Judgement:
    return judge(
        seen.row.status,
        seen.row.reason,
        frames,
        rule,
        sampled=seen.row.frames_sampled,
        sharpness=statistics.median(sharp) if sharp else None,
    )


def _people(
    seen: Seen,
    frames: Sequence[FrameScore],
    sharp: Sequence[float],
    rule: Rule,
    aggregation: Aggregation,
) -> list[_Person]:
    """Each track, judged by the mean of its own frames.

    :param aggregation: the file's own; where it is another, a person without a calibration says so.
    """
    tracks = sorted({f.track_id for f in frames if f.track_id is not None})
    people = []
    for track in tracks:
        own = [i for i, f in enumerate(frames) if f.track_id == track]
        judgement = _judgement(seen, [frames[i] for i in own], [sharp[i] for i in own], rule)
        if judgement.p_fake is None:
            continue  # no finite score, which the file's own verdict says
        label = label_of(
            judgement.verdict or "UNCERTAIN",
            judgement.p_fake,
            judgement.calibrated,
            track + 1 if len(tracks) > 1 else None,
        )
        if aggregation != "mean" and judgement.reason == "model_uncalibrated":
            judgement = replace(judgement, reason=_uncalibrated("mean"))
        person = _Person(
            track,
            judgement,
            [seen.faces[i] for i in own],
            [frames[i] for i in own],
            label,
            drawn=len(own) > 1 or (seen.row.frames_sampled or 0) < _FEW,
        )
        people.append(person)
    return people


def _p_fake(calibration: Calibration | None, score_raw: float) -> float:
    return calibration.p_fake(score_raw) if calibration else sigmoid(score_raw)


def _mark(person: _Person, at: Placed, judged: _Judged) -> Mark:
    return Mark(
        number=person.track_id,
        box=at.box,
        verdict=person.judgement.verdict or "UNCERTAIN",
        label=person.label,
        now=judged.now(at.score_raw),
        threshold=person.judgement.threshold,
    )


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True)
class _Drawn:
    frames: int
    seconds: float | None
    notes: list[str]


def _draw_picture(
    data: bytes, judged: _Judged, config: AnnotateConfig, out: FilePath, progress: Progress
) -> _Drawn:
    """Write the original beside the judged picture, and what the network saw."""
    (batch,) = open_picture(data).read([0])
    marks, inputs = [], []
    for person in judged.people:
        for face, frame in zip(person.faces, person.frames, strict=True):
            marks.append(_mark(person, Placed(frame.box, frame.score_raw), judged))
            inputs.append(cut(face.image, face.crop_box, face.box, judged.input))
    seen_by = "the network" if judged.models == 1 else "the first network"
    sheet = results(batch[0].rgb, marks, inputs, judged.heading, seen_by)
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    storage.commit_bytes(out, sink.getvalue())
    return _Drawn(1, None, [])


def _draw_video(
    data: bytes, judged: _Judged, config: AnnotateConfig, out: FilePath, progress: Progress
) -> _Drawn:
    """Decode every frame, draw, and encode; nothing is left behind where that fails."""
    drawn: list[_Drawn] = []

    def write(path: FilePath) -> None:
        video = open_video(data, "pyav")
        progress.start("annotate", video.count, "frames")
        drawn.append(
            _write_video(path, video, data, judged, judged.interval_s(config.every), progress)
        )
        progress.stop()

    storage.commit_file(out, write)
    return drawn[0]


def _write_video(
    path: FilePath,
    video: Video,
    data: bytes,
    judged: _Judged,
    every_s: float,
    progress: Progress,
) -> _Drawn:
    """One pass over the frames; the encoder has a thread of its own."""
    paths = [(p, _path_of(p, every_s)) for p in judged.people if p.drawn]
    first: Frame | None = None
    last_s = 0.0
    count = 0
    with _Encoding(path) as encoding:
        for shown in in_shots(_in_time(video, judged), every_s):
            frame = shown.frame
            if first is None:
                first = frame
                encoding.begin(video, frame, data)
                artist = Artist(frame.rgb.shape[1], frame.rgb.shape[0])
            if not judged.people:
                artist.caption(frame.rgb, judged.heading)
            elif frame.rgb.shape == first.rgb.shape:
                places = (
                    (person, own.at(frame.pts_s, shown.begins_s, shown.ends_s))
                    for person, own in paths
                )
                artist.draw(frame.rgb, [_mark(p, at, judged) for p, at in places if at])
            encoding.put(frame)
            last_s = max(last_s, frame.pts_s)
            count += 1
            progress.advance(1)
    if first is None:
        raise DfscanError("no frame could be decoded whole, so there is nothing to draw on")
    notes = [encoding.sound_note] if encoding.sound_note else []
    if video.frames_lost:
        notes.append(f"{video.frames_lost} frame(s) are damaged or missing and were left out")
    return _Drawn(count, last_s - first.pts_s + 1 / (video.info.fps or 25.0), notes)


def _path_of(person: _Person, every_s: float) -> Path:
    frames = sorted(person.frames, key=lambda f: f.pts_s)
    return Path(
        [f.pts_s for f in frames],
        [f.box for f in frames],
        [f.score_raw for f in frames],
        every_s,
    )


def _in_time(video: Video, judged: _Judged) -> Iterator[Frame]:
    """Every frame, in order.

    :raises DfscanError: drawing takes too long; see :func:`_unusable`.
    """
    until = time.monotonic() + judged.deadline_s
    for frame in in_order(video):
        if time.monotonic() > until:
            name = _name_of(judged.seen.row.uri)
            raise DfscanError(
                f"{name}: timeout: not drawn after {judged.deadline_s:.0f} s{_MORE_TIME}"
            )
        yield frame


class _Encoding:
    """A writer in a thread of its own: drawing goes on while a frame is encoded."""

    def __init__(self, path: FilePath) -> None:
        self._path = path
        self._writer: VideoWriter | None = None
        self._queue: queue.Queue[Frame | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._error: BaseException | None = None

    @property
    def sound_note(self) -> str | None:
        """What is wrong with the sound."""
        return None if self._writer is None else self._writer.sound_note

    def begin(self, video: Video, first: Frame, data: bytes) -> None:
        """Open the file: as large as the first frame, beginning with it."""
        height, width = first.rgb.shape[:2]
        self._writer = VideoWriter(
            self._path, width, height, video.info.fps, sound=data, start_s=first.pts_s
        )
        self._shape = first.rgb.shape
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Hand a frame on; it is not touched any more."""
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def __enter__(self) -> "_Encoding":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is None:
            self._writer.close()
            return
        self._writer.__exit__(RuntimeError, None, None)
        if kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        assert self._writer is not None
        while (frame := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.write(self._fitted(frame.rgb), frame.pts_s)
                except BaseException as error:  # noqa: BLE001  (raised again by the driver)
                    self._error = error

    def _fitted(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A stream may change its size; a file has one."""
        if rgb.shape == self._shape:
            return rgb
        height, width = self._shape[:2]
        return np.asarray(Image.fromarray(rgb).resize((width, height)))
