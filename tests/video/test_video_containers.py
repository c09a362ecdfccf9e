import pytest

from dfscan.errors import VideoError
from dfscan.video.containers import HEAD, recognise

TS = (b"\x47" + bytes(187)) * 5
M2TS = (bytes(4) + b"\x47" + bytes(187)) * 5


@pytest.mark.parametrize(
    ("head", "demuxer"),
    [
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00", "mov"),
        (b"\x00\x00\x00\x14ftypqt  ", "mov"),
        *(
            (b"\x00\x00\x00\x08" + box, "mov")
            for box in (b"moov", b"mdat", b"free", b"wide", b"moof")
        ),
        (b"\x1a\x45\xdf\xa3\x01\x00", "matroska"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "avi"),
        (b"FLV\x01\x05", "flv"),
        (b"\x00\x00\x01\xba\x44", "mpeg"),
        (b"\x00\x00\x01\xb3\x14", "mpegvideo"),
        (b"OggS\x00\x02", "ogg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "asf"),
        (b"GIF89a", "gif"),
        (TS, "mpegts"),
        (M2TS, "mpegts"),
    ],
)
def test_a_container_is_opened_with_its_own_demuxer(head, demuxer):
    assert recognise(head[:HEAD]) == demuxer


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"#EXTM3U\n#EXT-X-VERSION:3\n", "HLS playlist"),
        (b"\xef\xbb\xbf  #extm3u\nhttp://x", "HLS playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd", "concat script"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1", "SDP"),
        (b'<?xml version="1.0"?><MPD>', "XML"),
        (b"<MPD xmlns=", "DASH"),
        (b"[playlist]\nFile1=", "playlist"),
        (b"<ASX version", "ASX"),
        (b"RTSPtextRTSP://", "stream reference"),
    ],
)
def test_files_that_name_other_files_are_refused(head, what):
    with pytest.raises(VideoError) as caught:
        recognise(head)
    assert caught.value.status == "refused"
    assert what in caught.value.reason
    assert "not followed" in caught.value.reason


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00", "PNG picture"),
        (b"\xff\xd8\xff\xe0", "JPEG picture"),
        (b"\x00\x00\x00\x18ftypheic", "HEIF or AVIF picture"),
        (b"\x00\x00\x00\x18ftypavif", "HEIF or AVIF picture"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "WebP picture"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "WAV file"),
        (b"II*\x00", "TIFF picture"),
        (b"PK\x03\x04", "zip archive"),
        (b"%PDF-1.7", "PDF document"),
        (b"\x7fELF\x02", "program"),
        (b"dear diary,\nnothing happened", "text file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text file"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "not a known video container"),
        (b"\x47" + bytes(300), "not a known video container"),
    ],
)
def test_what_is_no_video_says_what_it_is(head, what):
    with pytest.raises(VideoError) as caught:
        recognise(head)
    assert caught.value.status == "not_video"
    assert what in caught.value.reason
