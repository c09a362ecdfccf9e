"""Clips with a tone beside their frames."""

import io
from fractions import Fraction

import av
import numpy as np

RATE = 44_100


def with_tone(seconds: float, codec: str = "aac", container: str = "mp4", fps: int = 10) -> bytes:
    """A small grey video with 440 Hz beside it, both so long."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        video = output.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.thread_count = 1
        sound = output.add_stream(codec, rate=RATE, layout="mono")
        grey = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24")
        for number in range(round(seconds * fps)):
            grey.pts, grey.time_base = number, Fraction(1, fps)
            output.mux(video.encode(grey))
        output.mux(video.encode(None))
        wave = np.sin(np.arange(round(seconds * RATE)) * 2 * np.pi * 440 / RATE) * 8000
        tone = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = RATE, 0, Fraction(1, RATE)
        output.mux(sound.encode(tone))
        output.mux(sound.encode(None))
    return sink.getvalue()


def sound_of(data: bytes) -> tuple[str, float, float] | None:
    """Codec, seconds and loudness (root mean square, of 1) of a file's sound; None without any."""
    with av.open(io.BytesIO(data)) as opened:
        if not opened.streams.audio:
            return None
        stream = opened.streams.audio[0]
        frames = list(opened.decode(stream))
        samples = np.concatenate([f.to_ndarray()[0].astype(np.float64) for f in frames])
        rate, name = frames[0].sample_rate, stream.codec_context.codec.canonical_name
    return name, len(samples) / rate, float(np.sqrt(np.mean(samples**2)))
