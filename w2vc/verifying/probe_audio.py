"""What both models are fed with: a built-in signal, or the user's own recording.

Samples are float32 in -1..1, mono, at the model's rate.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from w2vc.errors import UsageError
from w2vc.reading.opening import open_regular

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SECONDS = 60
_SHORTEST_SECONDS = 0.1
# Of a recording, in a padded batch: enough frames to tell, and memory grows with their square.
_BATCH_SECONDS = 5

# What a recording may claim, asked before anything is decoded.
_RATES = range(1_000, 768_001)
_CHANNELS = range(1, 65)
# Of all channels together: a minute of stereo at 48 kHz has 5.8 million. Resampling takes some 30 bytes for each.
_MOST_SAMPLES = 6_000_000
# A real one has some ten before its sound.
_MOST_CHUNKS = 1000
# libsndfile looks through the whole of some files before it gives the first sample.
_MOST_DECODED_BYTES = 2**31
# The transform of a length that is a prime takes three times the memory: longer ones get some zeros at their end.
_MOST_OF_ANY_LENGTH = 2**20
# Louder than 16 bits can be, even if nobody divided by their range: sums of squares leave float32's from 1e16 on.
_LOUDEST = 2.0**16


@dataclass(frozen=True)
class ProbeAudio:
    """The audio of a verification.

    Attributes:
        clips: each (samples,), run alone.
        batch: each (samples,), of different lengths, run together, padded.
        origin: what it is, in words.
        notes: what was done to it.
    """

    clips: tuple[Tensor, ...]
    batch: tuple[Tensor, ...]
    origin: str
    notes: tuple[str, ...] = ()


def built_in(sample_rate: int) -> ProbeAudio:
    """Syllables of rising and falling tones in noise, with a pause: 0.8 s alone, and with 1.2 s more as a batch.

    Always the same. The longer clip isn't run alone: that would take as long again and show nothing new.
    """
    short, long = _signal(0.8, sample_rate, seed=1), _signal(1.2, sample_rate, seed=2)
    return ProbeAudio((short,), (short, long), "built-in signal: a clip of 0.8 s, and a padded batch of 0.8 and 1.2 s")


def _signal(seconds: float, sample_rate: int, seed: int) -> Tensor:
    import torch

    count = int(seconds * sample_rate)
    time = torch.arange(count, dtype=torch.float64) / sample_rate
    # Frequencies as a share of the rate, so that they stay below half of it whatever it is.
    rising = torch.sin(2 * math.pi * sample_rate * (0.006 * time + 0.06 * time**2 / seconds))
    falling = torch.sin(2 * math.pi * sample_rate * (0.11 * time - 0.04 * time**2 / seconds))
    syllables = torch.sin(2 * math.pi * (1.5 + seed) * time) ** 2
    pause = (time < 0.85 * seconds).double()
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((0.35 * rising + 0.2 * falling) * syllables * pause + 0.01 * noise).float()


def read_recording(path: Path, sample_rate: int) -> ProbeAudio:
    """A recording, mixed to mono and resampled to the model's rate where it has to be.

    16-bit PCM wav is read by w2vc itself; anything else by ``soundfile`` (the extra ``w2vc[audio]``).

    Args:
        path: the file.
        sample_rate: of the model, in Hz.

    Raises:
        UsageError: it can't be read, is no audio, or holds no sound.
    """
    samples, rate, is_cut = _read(path)
    notes = [f"only the first {len(samples) / rate:.3g} s of {path} are used"] if is_cut else []
    if samples.size(1) > 1:
        notes.append(f"{path} has {samples.size(1)} channels, which were mixed")
    mono = samples.mean(1)
    _check(path, mono, rate)
    if rate != sample_rate:
        notes.append(f"{path} was resampled from {rate:,} to {sample_rate:,} Hz")
        mono = _resampled(mono, rate, sample_rate)
    start = mono[: _BATCH_SECONDS * sample_rate]
    batch = (start, start[: len(start) * 2 // 3])
    return ProbeAudio((mono,), batch, f"{path}, {len(mono) / sample_rate:.1f} s", tuple(notes))


def _check(path: Path, mono: Tensor, rate: int) -> None:
    if len(mono) < _SHORTEST_SECONDS * rate:
        raise UsageError(f"{path} has {len(mono)} samples at {rate} Hz, which is too short", advice=_SPEECH)
    if not mono.isfinite().all():
        raise UsageError(f"{path} has samples that are NaN or infinite", advice=_SPEECH)
    if mono.min() == mono.max():
        raise UsageError(f"{path} is silent", advice=_SPEECH)
    loudest = float(mono.abs().max())
    if loudest > _LOUDEST:
        raise UsageError(f"{path} has samples of {loudest:.1e}; audio lies between -1 and 1", advice=_SPEECH)


def _resampled(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """By its spectrum: what is above half the lower rate is left out, the rest kept as it is."""
    import torch

    length = len(samples)
    if length > _MOST_OF_ANY_LENGTH:
        length += -length % 1024
    count = round(length * wanted / rate)
    spectrum = torch.fft.rfft(samples.double(), n=length)
    resampled: Tensor = torch.fft.irfft(spectrum, n=count) * (count / length)
    return resampled[: round(len(samples) * wanted / rate)].float()


# ---------------------------------------------------------------------------------------------------------------
# From the file


def _read(path: Path) -> tuple[Tensor, int, bool]:
    """Samples (frames, channels), the rate in Hz, and whether the file is longer."""
    try:
        with open_regular(path, "recording", _OTHER_FILE) as file:
            pcm = _find_pcm(file)
            return _read_with_soundfile(path, file) if pcm is None else _read_pcm(path, file, pcm)
    except OSError as error:
        raise UsageError(f"the recording {path} can't be read: {error.strerror}", advice=_OTHER_FILE) from error


def _frames_to_read(path: Path, channels: int, rate: int, frames: int) -> int:
    """Return how many frames of a recording are used, whatever it claims.

    Raises:
        UsageError: no recording has such a rate, or so many channels.
    """
    problems = []
    if rate not in _RATES:
        problems.append(f"{path} says that it has {rate} samples a second, not {_RATES[0]} to {_RATES[-1]}")
    if channels not in _CHANNELS:
        problems.append(f"{path} says that it has {channels} channels, not {_CHANNELS[0]} to {_CHANNELS[-1]}")
    if problems:
        raise UsageError(problems, advice=_SPEECH)
    return min(frames, LONGEST_SECONDS * rate, _MOST_SAMPLES // channels)


@dataclass(frozen=True)
class _Pcm:
    """Where the sound of a 16-bit PCM wav is.

    Attributes:
        channels, rate: as the file says.
        offset: of the first sample.
        frames: that are there, however many it says that there are.
    """

    channels: int
    rate: int
    offset: int
    frames: int


def _find_pcm(file: BinaryIO) -> _Pcm | None:
    """Find the sound of a 16-bit PCM wav; None for any other file, which may be a wav, too."""
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    start = os.pread(descriptor, 12, 0)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    offset, form = len(start), None
    for _ in range(_MOST_CHUNKS):
        header = os.pread(descriptor, _CHUNK.size, offset)
        if len(header) < _CHUNK.size:
            return None
        name, claimed = _CHUNK.unpack(header)
        offset += len(header)
        if name == b"fmt ":
            form = _form(os.pread(descriptor, min(claimed, _EXTENSION.stop), offset))
        elif name == b"data":
            there = min(claimed, size - offset)
            return None if form is None else _Pcm(*form, offset, there // (2 * form[0]))
        offset += claimed + claimed % 2
    return None


_CHUNK = struct.Struct("<4sI")
_FORM = struct.Struct("<HHIIHH")
_PLAIN, _EXTENSIBLE = 1, 0xFFFE
# Of a chunk "fmt " that is extensible: the identifier of PCM (mmreg.h, KSDATAFORMAT_SUBTYPE_PCM).
_EXTENSION = slice(24, 40)
_PCM_IDENTIFIER = bytes.fromhex("0100000000001000800000aa00389b71")


def _form(data: bytes) -> tuple[int, int] | None:
    """Return how many channels and which rate 16-bit PCM has, None for anything else."""
    if len(data) < _FORM.size:
        return None
    codec, channels, rate, _bytes_a_second, frame_bytes, bits = _FORM.unpack_from(data)
    is_pcm = codec == _PLAIN or (codec == _EXTENSIBLE and data[_EXTENSION] == _PCM_IDENTIFIER)
    return (channels, rate) if is_pcm and bits == 16 and 0 < 2 * channels == frame_bytes else None


def _read_pcm(path: Path, file: BinaryIO, pcm: _Pcm) -> tuple[Tensor, int, bool]:
    import torch

    frames = _frames_to_read(path, pcm.channels, pcm.rate, pcm.frames)
    data = bytearray(os.pread(file.fileno(), frames * 2 * pcm.channels, pcm.offset))
    whole = len(data) - len(data) % (2 * pcm.channels)
    values = torch.frombuffer(data, dtype=torch.int16, count=whole // 2) if whole else torch.zeros(0)
    return values.float().reshape(-1, pcm.channels) / 32768, pcm.rate, pcm.frames > frames


def _read_with_soundfile(path: Path, file: BinaryIO) -> tuple[Tensor, int, bool]:
    import torch

    if os.fstat(file.fileno()).st_size > _MOST_DECODED_BYTES:
        raise UsageError(
            f"{path} is no 16-bit PCM wav, and larger than {_MOST_DECODED_BYTES:,} bytes",
            advice="Give a minute of it; no more is used.",
        )
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: it is there, but the library below it isn't
        raise UsageError(
            f"{path} is no 16-bit PCM wav, and soundfile, which reads other audio, isn't installed",
            advice="Install soundfile (pip install soundfile), or convert the recording (sox IN -b 16 OUT.wav).",
        ) from error
    try:
        # A second descriptor: libsndfile 1.2.0 closes the one of a file that it can't read, even if it is told not to.
        with soundfile.SoundFile(os.dup(file.fileno())) as sound:
            frames = _frames_to_read(path, sound.channels, sound.samplerate, sound.frames)
            values = torch.from_numpy(sound.read(frames, dtype="float32", always_2d=True))
            return values, sound.samplerate, sound.frames > frames
    except soundfile.LibsndfileError as error:
        reason = " ".join(error.error_string.split())
        raise UsageError(f"{path} can't be read as audio: {reason}", advice=_OTHER_FILE) from error


_OTHER_FILE = "Give a recording: wav, flac, ogg or mp3."
_SPEECH = "Give a recording with speech in it, of a tenth of a second or more."
