"""What both models are fed with: a built-in signal, or the user's own recording.

Samples are float32 in -1..1, mono, at the model's rate.
"""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2vc.errors import UsageError
from w2vc.reading.opening import open_regular

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SECONDS = 60
_SHORTEST_SECONDS = 0.1
# Of a recording, in a padded batch: enough frames to tell, and memory grows with their square.
_BATCH_SECONDS = 5


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

    16-bit PCM wav is read by Python itself; anything else by ``soundfile`` (the extra ``w2vc[audio]``).

    Args:
        path: the file.
        sample_rate: of the model, in Hz.

    Raises:
        UsageError: it can't be read, is no audio, or holds no sound.
    """
    samples, rate, is_cut = _read(path)
    notes = [f"only the first {LONGEST_SECONDS} s of {path} are used"] if is_cut else []
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
    advice = "Give a recording with speech in it, of a tenth of a second or more."
    if len(mono) < _SHORTEST_SECONDS * rate:
        raise UsageError(f"{path} has {len(mono)} samples at {rate} Hz, which is too short", advice=advice)
    if not mono.isfinite().all():
        raise UsageError(f"{path} has samples that are NaN or infinite", advice=advice)
    if mono.min() == mono.max():
        raise UsageError(f"{path} is silent", advice=advice)


def _resampled(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """By its spectrum: what is above half the lower rate is left out, the rest kept as it is."""
    import torch

    count = round(len(samples) * wanted / rate)
    spectrum = torch.fft.rfft(samples.double())
    resampled: Tensor = torch.fft.irfft(spectrum, n=count) * (count / len(samples))
    return resampled.float()


def _read(path: Path) -> tuple[Tensor, int, bool]:
    """Samples (frames, channels), the rate in Hz, and whether the file is longer."""
    try:
        with open_regular(path, "recording", _OTHER_FILE) as file:
            try:
                return _read_pcm(wave.open(file))
            except (wave.Error, EOFError):
                file.seek(0)
                return _read_with_soundfile(path)
    except OSError as error:
        raise UsageError(f"the recording {path} can't be read: {error.strerror}", advice=_OTHER_FILE) from error


def _read_pcm(file: wave.Wave_read) -> tuple[Tensor, int, bool]:
    import torch

    if file.getsampwidth() != 2 or file.getnchannels() < 1 or file.getframerate() < 1:
        raise wave.Error
    most = LONGEST_SECONDS * file.getframerate()
    data = bytearray(file.readframes(min(most, file.getnframes())))
    whole = len(data) - len(data) % (2 * file.getnchannels())
    if not whole:
        raise wave.Error
    values = torch.frombuffer(data[:whole], dtype=torch.int16).float() / 32768
    return values.reshape(-1, file.getnchannels()), file.getframerate(), file.getnframes() > most


def _read_with_soundfile(path: Path) -> tuple[Tensor, int, bool]:
    import torch

    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: it is there, but the library below it isn't
        raise UsageError(
            f"{path} is no 16-bit PCM wav, and soundfile, which reads other audio, isn't installed",
            advice="Install soundfile (pip install soundfile), or convert the recording (sox IN -b 16 OUT.wav).",
        ) from error
    try:
        with soundfile.SoundFile(path) as file:
            most = LONGEST_SECONDS * file.samplerate
            values = torch.from_numpy(file.read(most, dtype="float32", always_2d=True))
            return values, file.samplerate, file.frames > most
    except RuntimeError as error:  # LibsndfileError is one
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} can't be read as audio: {reason}", advice=_OTHER_FILE) from error


_OTHER_FILE = "Give a recording: wav, flac, ogg or mp3."
