"""Recordings for ``verify --wav`` that lie, or take all memory and time, and good ones in forms that few expect."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16000
SPEECH = Path(__file__).parent.parent.parent.parent / "fixtures" / "speech" / "cat.wav"
HUGE = 10 * 2**30
_SAMPLES = (8000 * np.sin(np.arange(RATE // 2) ** 1.5 / 300)).astype("<i2")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Recording:
    """One file for ``--wav``.

    Attributes:
        make: puts it at a path.
        exit_code: what ``w2vc verify`` ends with.
        words: what it says about the file, a pattern.
    """

    make: Callable[[Path], object]
    exit_code: int
    words: str


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """A chunk of a wav; ``size`` is what it claims to have."""
    return name + struct.pack("<I", len(data) if size is None else size) + data + bytes(len(data) % 2)


def form(channels: int = 1, rate: int = RATE, bits: int = 16, codec: int = _PCM, block: int | None = None) -> bytes:
    """A wav's chunk ``fmt``."""
    block = channels * bits // 8 % 2**16 if block is None else block
    return chunk(b"fmt ", struct.pack("<HHIIHH", codec, channels, rate, rate * block % 2**32, block, bits))


def wav(*chunks: bytes, size: int | None = None) -> bytes:
    """A wav with these chunks."""
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks), size)


def sound(data: bytes = _SAMPLES.tobytes(), size: int | None = None) -> bytes:
    """A wav's chunk ``data``."""
    return chunk(b"data", data, size)


def _of(data: bytes, size: int = 0) -> Callable[[Path], object]:
    """Writes these bytes, and zeros after them up to a size, which take no place on the disk."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.truncate(max(size, len(data)))

    return make


def _encoded(samples: Any = _SAMPLES, rate: int = RATE, size: int = 0, **how: str) -> Callable[[Path], object]:
    """Writes samples as soundfile does, and zeros after them up to a size."""

    def make(path: Path) -> None:
        soundfile.write(path, samples, rate, **how)
        with path.open("r+b") as file:
            file.truncate(max(size, path.stat().st_size))

    return make


def _patched(make: Callable[[Path], object], at: int, data: bytes) -> Callable[[Path], object]:
    """Writes a file, and then other bytes at an offset."""

    def patched(path: Path) -> None:
        make(path)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return patched


def _one_bad(value: float) -> np.typing.NDArray[np.float32]:
    samples = (_SAMPLES / 32768).astype("<f4")
    samples[1000] = value
    return samples


def _float(value: float) -> bytes:
    return wav(form(bits=32, codec=_FLOAT), sound(_one_bad(value).tobytes()))


def _prime(path: Path) -> None:
    path.write_bytes(wav(form(rate=767_999), sound(np.resize(_SAMPLES, 5_999_993).tobytes())))


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


_EXTENDED = struct.pack("<HHIIHHHHI", _EXTENSIBLE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 4)
_GUID = b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"


def _claims(**how: int) -> bytes:
    """A wav that claims as many bytes as it can, and whose form is another one."""
    return wav(form(**how), sound(size=2**32 - 2), size=2**32 - 1)


_NOTHING = wav(form(), size=2**32 - 1)
_TOO_LARGE = "no 16-bit PCM wav, and larger than 2,147,483,648 bytes"
_NO_FORMAT = "can't be read as audio: Format not recognised"
_NO_DATA = "can't be read as audio: .*No 'data' chunk"
_UNKNOWN = "can't be read as audio: File contains data in an unimplemented format"

RECORDINGS: Mapping[str, Recording] = {
    # Cut off, or no recording at all
    "empty": Recording(_of(b""), 2, _NO_FORMAT),
    "text": Recording(_of(b"years of work\n" * 1000), 2, _NO_FORMAT),
    "cut off in its first chunk": Recording(_of(wav(form(), sound())[:10]), 2, _NO_FORMAT),
    "cut off in its form": Recording(_of(wav(form(), sound())[:30]), 2, _NO_DATA),
    "cut off before its sound": Recording(_of(wav(form(), sound())[:40]), 2, _NO_DATA),
    "cut off in its sound": Recording(_of(wav(form(), sound())[:-9001]), 0, r"a\.wav, 0\.2 s"),
    "sound before its form": Recording(_of(wav(sound(), form())), 2, _NO_DATA),
    "no sound": Recording(_of(wav(form(), sound(b""))), 2, "has 0 samples at 16000 Hz, which is too short"),
    "a link to itself": Recording(_loop, 2, "Too many levels of symbolic links"),
    # More than there is, or than any recording has
    "two billion frames that aren't there": Recording(_of(_claims()), 0, r"a\.wav, 0\.5 s"),
    "two billion frames of silence": Recording(_of(wav(form(), sound(b"", 2**32 - 2)), HUGE), 2, "is silent"),
    "65,535 channels": Recording(_of(_claims(channels=65535, block=0), 2**31), 2, "Too many channels"),
    "as many channels as fit": Recording(_of(_claims(channels=32767)), 2, "says that it has 32767 channels, not 1 to"),
    "a million channels": Recording(
        _patched(_encoded(format="AU"), 20, (10**6).to_bytes(4, "big")), 2, "Too many channels"
    ),
    "no channel": Recording(_of(wav(form(channels=0), sound())), 2, "Channel count is zero"),
    "rate of 0": Recording(_of(wav(form(rate=0), sound())), 2, "says that it has 0 samples a second"),
    "rate of 1": Recording(_of(wav(form(rate=1), sound())), 2, "says that it has 1 samples a second, not 1000 to"),
    "rate of four billion": Recording(
        _of(_claims(rate=2**32 - 1), HUGE), 2, "says that it has 4294967295 samples a second"
    ),
    "rate of four billion and 65,535 channels": Recording(
        _of(_claims(rate=2**32 - 1, channels=32767, block=65534), HUGE),
        2,
        "(?s)4294967295 samples a second.*32767 channels",
    ),
    "a prime number of samples at 767,999 Hz": Recording(
        _prime,
        0,
        "was resampled from 767,999 to 16,000 Hz",
    ),
    # Chunks
    "a chunk that has no end": Recording(_of(wav(form(), chunk(b"LIST", b"INFO", 2**32 - 1))), 2, _NO_DATA),
    "empty chunks without end": Recording(_of(_NOTHING, HUGE), 2, _TOO_LARGE),
    "empty chunks without end, few enough to be decoded": Recording(_of(_NOTHING, 2**31), 2, _NO_DATA),
    "a thousand chunks": Recording(_of(wav(form(), *[chunk(b"LIST", b"INFOx")] * 1000, sound())), 0, r"a\.wav, 0\.5 s"),
    "RF64 of 2**63 bytes": Recording(
        _patched(_encoded(format="RF64"), 20, b"\xff" * 7 + b"\x7f" + b"\xff" * 7 + b"\x7f"), 0, r"a\.wav, 0\.5 s"
    ),
    "W64 of 2**63 bytes": Recording(_patched(_encoded(format="W64"), 16, b"\xff" * 7 + b"\x7f"), 0, r"a\.wav, 0\.5 s"),
    "ten gigabytes of zeros": Recording(_of(b"", HUGE), 2, _TOO_LARGE),
    "Ogg with ten gigabytes of zeros": Recording(_encoded(format="OGG", size=HUGE), 2, _TOO_LARGE),
    "Ogg with two gigabytes of zeros": Recording(_encoded(format="OGG", size=2**31), 0, r"a\.wav, 0\.5 s"),
    # Other codecs and containers under the name of a wav
    "64-bit integers": Recording(_of(wav(form(bits=64), sound())), 2, _UNKNOWN),
    "samples of no bits": Recording(_of(wav(form(bits=0), sound())), 2, _UNKNOWN),
    "MP3 in a wav": Recording(_of(wav(form(codec=0x55, bits=0), sound())), 2, "Malformed 'fmt ' chunk"),
    "GSM that is none": Recording(_of(wav(form(codec=0x31, bits=0, block=65), sound())), 2, "GSM610"),
    "64-bit floats": Recording(_encoded(subtype="DOUBLE", format="WAV"), 0, r"a\.wav, 0\.5 s"),
    "ADPCM": Recording(_encoded(subtype="IMA_ADPCM", format="WAV"), 0, r"a\.wav, 0\.5 s"),
    "an extensible form": Recording(_of(wav(chunk(b"fmt ", _EXTENDED + _GUID), sound())), 0, r"a\.wav, 0\.5 s"),
    **{name: Recording(_encoded(format=name), 0, r"a\.wav, 0\.5 s") for name in ("FLAC", "OGG", "MP3", "AIFF")},
    # Samples
    "a sample that is NaN": Recording(_of(_float(float("nan"))), 2, "samples that are NaN or infinite"),
    "a sample that is infinite": Recording(_of(_float(float("-inf"))), 2, "samples that are NaN or infinite"),
    "a sample beyond all audio": Recording(_of(_float(3e38)), 2, r"samples of 3\.0e\+38; audio lies between -1 and 1"),
}
"""By what is odd about each."""
