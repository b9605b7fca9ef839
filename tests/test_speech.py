"""Speech: generated and recorded clips, durations that are right, statistics of train alone, bad folders by name."""

import codecs
import hashlib
import multiprocessing
import os
import re
import struct
import wave
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.base import SPLITS, Data
from tasks.data import alignment, synthetic_speech
from tasks.data.mel import HOP, RATE, log_mel, magnitudes
from tasks.data.pitch import filled, pitch
from tasks.data.speech import Speech, _statistics, speech
from tasks.data.symbols import EDGE, SYMBOLS, clean, symbols
from tasks.data.wav import read_wave, write_wave

SENTENCES = [
    "Banana, sir!",
    "tomato soup.",
    "Is it so?",
    "nobody came.",
    'the "lower case" is here;',
    "Café (open).",
    "a dog\u2019s life - hm.",
    "zebras run.",
]


def tone(seconds: float, hertz: float = 200.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def write(folder: Path, name: str, sound: np.ndarray) -> None:
    write_wave(folder / "wavs" / f"{name}.wav", sound)


def ljspeech(folder: Path, sentences: list[str] = SENTENCES) -> Path:
    """Clips of a quarter of a second of silence, at least a second of a tone of their own, half a second of silence."""
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for number, sentence in enumerate(sentences):
        sound = [tone(0.25) * 0, tone(1 + 0.1 * number, 150 + 10 * number), tone(0.5) * 0]
        write(folder, f"LJ-{number}", np.concatenate(sound))
        lines.append(f"LJ-{number}|{sentence} (raw)|{sentence}\n")
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    return folder


def load(folder: Path, cache: Path | None = None) -> Speech:
    return speech(Data("local", str(folder)), cache or folder.parent / "cache")


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Speech:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_speech, "CLIPS", {"train": 12, "validation": 3, "test": 4})
        yield speech(Data(), tmp_path_factory.mktemp("cache"))


def test_letters() -> None:
    assert clean("  Café,\n \u201cNo\u201d \u2013 it\u2019s [nine]! ") == 'cafe, "no" - it\'s (nine)!'
    assert [SYMBOLS[i] for i in symbols("ab.")] == [EDGE, "a", "b", ".", EDGE]
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    for bad in ("route 66", "a|b", "50%", "ß", "что"):
        with pytest.raises(ValueError, match=r"unknown character '.': spell it out"):
            clean(bad)


def test_clips_fit_together(generated: Speech) -> None:
    assert not generated.real
    for split, count in (("train", 12), ("validation", 3), ("test", 4)):
        clips = generated.clips[split]
        assert len(clips) == len(list(clips)) == count
        for clip, text_length, length in zip(clips, clips.text_lengths, clips.lengths, strict=True):
            assert "".join(SYMBOLS[i] for i in clip.symbols) == EDGE + clip.text + EDGE
            assert len(clip.symbols) == len(clip.durations) == text_length
            assert clip.durations.sum() == len(clip.mel) == len(clip.pitch) == len(clip.energy) == length
            assert clip.mel.shape[1] == 80
            for feature in (clip.mel, clip.pitch, clip.energy):
                assert feature.dtype == np.float32
                assert np.isfinite(feature).all()
    assert generated.clips["test"][-1].id == generated.clips["test"][3].id == generated.clips["test"][2:][1].id
    with pytest.raises(IndexError):
        generated.clips["test"][4]


def test_standardised_by_train(generated: Speech) -> None:
    train = generated.clips["train"]
    for name in ("mel", "pitch", "energy"):
        values = np.concatenate([getattr(clip, name) for clip in train])
        np.testing.assert_allclose(values.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(values.std(0), 1, atol=2e-3)
    clip = generated.clips["test"][1]
    rng = np.random.default_rng((synthetic_speech.SEED, SPLITS.index("test"), 1))
    again = synthetic_speech.speak("x", clip.text, rng)
    np.testing.assert_allclose(generated.mel(clip.mel), log_mel(torch.from_numpy(again.wave)).numpy(), atol=1e-3)


def test_no_text_is_in_two_splits(generated: Speech) -> None:
    texts = [clip.text for split in SPLITS for clip in generated.clips[split]]
    assert len(set(texts)) == len(texts) == 19


def test_generated_speech_sounds_as_said() -> None:
    """Durations, pitch and formants of single letters are where the tables have them."""
    spoken = synthetic_speech.speak("x", "sasa mi, so.", np.random.default_rng(0))
    frames = np.repeat(np.arange(len(spoken.durations)), spoken.durations)
    assert len(frames) == len(spoken.wave) // HOP + 1
    power = magnitudes(torch.from_numpy(spoken.wave)).numpy() ** 2
    hertz = np.linspace(0, RATE / 2, power.shape[1])
    middles = spoken.durations.cumsum() - spoken.durations // 2 - 1
    centres = (power * hertz).sum(1) / np.maximum(power.sum(1), 1e-12)
    text = EDGE + spoken.text + EDGE
    by_letter = {
        letter: np.mean([centres[middles[i]] for i in range(len(text)) if text[i] == letter]) for letter in "sami"
    }
    assert by_letter["s"] > 4500
    assert by_letter["a"] < 1500
    for place, letter in enumerate(text):
        loud = power[middles[place]].sum() / power.sum(1).max()
        if letter in ",|":
            assert loud < 1e-3
        if letter in "aio":
            assert loud > 1e-2
            found = pitch(spoken.wave)[middles[place]]
            assert 100 < found < 200


def test_a_first_vowel_lasts_two_units_and_all_else_one() -> None:
    spoken = synthetic_speech.speak("x", "sasa mi, ato.", np.random.default_rng(0))
    #                                       |  s  a   s  a  _  m  i   ,  _  a   t  o  .  |
    assert spoken.durations.tolist() == [6, 6, 12, 6, 6, 6, 6, 12, 6, 6, 12, 6, 6, 6, 6]


def test_a_fixed_rate_is_within_one_symbol_nearly_always(generated: Speech) -> None:
    """So small models learn to follow a text: most of the way is told by place."""
    train, errors = generated.clips["train"], []
    rate = train.lengths.sum() / train.text_lengths.sum()
    for clip in train:
        ends = clip.durations.cumsum()
        middles = ends - clip.durations / 2
        errors += list(np.abs(middles / rate - 0.5 - np.arange(len(middles))))
    assert np.mean(np.array(errors) <= 1) > 0.95
    assert np.mean(errors) < 0.5


@pytest.mark.parametrize("mark", "!?")
def test_the_last_mark_changes_the_whole_sentence(mark: str) -> None:
    plain, other = (synthetic_speech.speak("x", f"nama lo sugi{m}", np.random.default_rng(0)) for m in f".{mark}")
    np.testing.assert_array_equal(other.durations, plain.durations)
    first = [pitch(s.wave)[s.durations[:2].sum() + s.durations[2] // 2] for s in (plain, other)]
    assert first[1] > 1.05 * first[0]


@pytest.mark.parametrize("hertz", [90, 145.5, 220, 410])
@pytest.mark.parametrize("second", [0.5, 1.5])
def test_pitch_of_a_voice(hertz: float, second: float) -> None:
    """Also where the second harmonic is the strongest, so that half a period looks like one."""
    t = np.arange(RATE // 2) / RATE
    sizes = [1, second, *(1 / k for k in range(3, 8))]
    voice = sum(size * np.sin(2 * np.pi * hertz * k * t) for k, size in enumerate(sizes, 1))
    found = pitch(np.concatenate([np.zeros(RATE // 4), 0.1 * voice, np.zeros(RATE // 4)]).astype(np.float32))
    assert len(found) == RATE // HOP + 1
    np.testing.assert_allclose(found[26:60], hertz, rtol=0.01)
    assert not found[:19].any()
    assert not found[70:].any()


def test_noise_has_no_pitch_and_gaps_are_filled() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    assert (pitch(noise) > 0).mean() < 0.05
    np.testing.assert_allclose(np.exp(filled(np.array([0, 100, 0, 0, 100, 200.0, 0]))), [100] * 5 + [200] * 2)
    assert np.isnan(filled(np.zeros(3))).all()


def test_simple_alignment() -> None:
    energy = np.array([0, 0, 1e-3, *[1.0] * 24, 0.5, 0, 0, 0])
    found = alignment.simple("to a", energy)
    assert (found[0], found[-1], found.sum()) == (3, 3, len(energy))
    # 25 frames for t 1, o 1.4, space 0.6, a 1.4: ends at 5.7, 13.6, 17.05
    assert found.tolist() == [3, 6, 8, 3, 8, 3]
    with pytest.raises(ValueError, match="25 frames with sound are too few for 26 characters"):
        alignment.simple("a" * 26, energy)
    with pytest.raises(ValueError, match="silent"):
        alignment.simple("a", np.zeros(9))


def test_alignment_from_words(tmp_path: Path) -> None:
    """Words where the file has them, what is between them shared by the marks there."""
    file = tmp_path / "times.txt"
    file.write_text("0.1161 0.2322 Go\n\n0.4644\t0.5805 to\n")  # 10 to 20 and 40 to 50 frames
    durations = alignment.from_words("go, to.", 60, alignment.read(file))
    assert durations.sum() == 60
    # edge | g o | comma 3 and space 0.6 of 20 | t o | stop 3 and edge 1 of 10
    assert durations.tolist() == [10, 4, 6, 17, 3, 4, 6, 8, 2]
    with pytest.raises(ValueError, match=r"its words are not those of the transcript 'go, so.'"):
        alignment.from_words("go, so.", 60, alignment.read(file))
    with pytest.raises(ValueError, match=r"its last word ends at 0.5805 s, the sound at 0.56 s: align it again"):
        alignment.from_words("go, to.", 49, alignment.read(file))
    assert alignment.from_words("go, to.", 50, alignment.read(file)).sum() == 50
    for content, message in (("0.1 0.2", "write begin, end"), ("a 1 x", "write begin"), ("0.3 0.2 x", "must ascend")):
        file.write_text(f"0 0.1 a\n{content}\n")
        with pytest.raises(ValueError, match=rf"times.txt:2: .*{message}"):
            alignment.read(file)


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    found = load(ljspeech(tmp_path / "lj"))
    assert found.real
    assert found.facts["alignment"] == "simple"
    clips = [clip for split in SPLITS for clip in found.clips[split]]
    assert sorted(clip.text for clip in clips) == sorted(map(clean, SENTENCES))
    assert [len(found.clips[split]) for split in SPLITS] == [6, 1, 1]
    for clip in clips:
        number = int(clip.id.split("-")[1])
        assert abs(clip.durations[0] - 0.25 * RATE / HOP) < 4  # silence at both ends
        assert abs(clip.durations[-1] - 0.5 * RATE / HOP) < 4
        voiced = slice(clip.durations[0] + 4, -clip.durations[-1] - 4)
        hertz = np.exp(clip.pitch * found.statistics.std["pitch"] + found.statistics.mean["pitch"])
        np.testing.assert_allclose(hertz[voiced], 150 + 10 * number, rtol=0.02)
        frame = found.mel(clip.mel)[len(clip.mel) // 2]
        assert frame.argmax() == log_mel(torch.from_numpy(tone(0.5, 150 + 10 * number)))[20].argmax()


def test_word_times_are_used(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "lj", ["go, to.", "no.", "so."])
    before = load(root)
    (root / "alignments").mkdir()
    for number, words in enumerate([("go", "to"), ("no",), ("so",)]):
        lines = [f"{0.3 + 0.5 * i} {0.6 + 0.5 * i} {word}\n" for i, word in enumerate(words)]
        (root / "alignments" / f"LJ-{number}.txt").write_text("".join(lines))
    found = load(root)
    assert found.content != before.content
    assert found.facts["alignment"] == "files"
    (clip,) = (clip for split in SPLITS for clip in found.clips[split] if clip.text == "go, to.")
    assert clip.durations[0] == round(0.3 * RATE / HOP)
    (root / "alignments" / "LJ-1.txt").unlink()
    with pytest.raises(ValueError, match=r"no alignments/LJ-1.txt: align all"):
        load(root)


def test_nothing_of_test_reaches_train(tmp_path: Path) -> None:
    """Other sound and text in validation and test: train's clips and all statistics stay to the last bit."""
    root = ljspeech(tmp_path / "lj")
    lines = [f"LJ-{n}|{split}\n" for n, split in enumerate(["test", *["train"] * 6, "validation"])]
    (root / "splits.csv").write_text("".join(lines))
    before = load(root)
    assert [before.clips[split].ids for split in ("validation", "test")] == [["LJ-7"], ["LJ-0"]]
    held = [clip.id for split in ("validation", "test") for clip in before.clips[split]]
    for number, id in enumerate(held):
        write(root, id, np.random.default_rng(number).normal(size=2 * RATE))
    metadata = (root / "metadata.csv").read_text(encoding="utf-8").splitlines()
    changed = [line.split("|")[0] + "||another text." if line.split("|")[0] in held else line for line in metadata]
    (root / "metadata.csv").write_text("\n".join(changed), encoding="utf-8")
    after = load(root)
    assert after.content != before.content
    assert [clip.text for clip in after.clips["test"]] == ["another text."]
    for name in ("mel", "pitch", "energy"):
        np.testing.assert_array_equal(before.statistics.mean[name], after.statistics.mean[name])
        np.testing.assert_array_equal(before.statistics.std[name], after.statistics.std[name])
    for one, two in zip(before.clips["train"], after.clips["train"], strict=True):
        assert one.id == two.id
        for name in ("symbols", "mel", "durations", "pitch", "energy"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ljspeech(tmp_path / "lj")
    first = load(root)
    monkeypatch.setattr("tasks.data.speech.pitch", None)  # nothing is computed again
    second = load(root)
    assert (first.content, first.facts) == (second.content, second.facts)
    np.testing.assert_array_equal(first.clips["test"][0].mel, second.clips["test"][0].mel)


def test_a_sound_is_read_again_only_where_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, seen = ljspeech(tmp_path / "lj"), list[str]()
    first = load(root)
    read = hashlib.file_digest

    def noted(file, algorithm):
        seen.append(Path(file.name).name)
        return read(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    assert load(root).content == first.content
    assert seen == []
    write(root, "LJ-2", tone(1.5, 333))
    assert load(root).content != first.content
    assert seen == ["LJ-2.wav"]


def test_other_splits_are_other_content(tmp_path: Path) -> None:
    root, found = ljspeech(tmp_path / "lj"), []
    for first in ("test", "train"):
        names = [first, "test", "validation", *["train"] * 5]
        (root / "splits.csv").write_text("".join(f"LJ-{n}|{name}\n" for n, name in enumerate(names)))
        found.append(load(root))
    assert found[0].content != found[1].content
    assert [len(each.clips["test"]) for each in found] == [2, 1]


def test_headers_are_checked_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ljspeech(tmp_path / "lj")
    _stereo(root / "wavs" / "LJ-7.wav")
    for name in ("tasks.data.ljspeech.file_digests", "tasks.data.speech.pitch"):
        monkeypatch.setattr(name, None)
    with pytest.raises(ValueError, match=r"LJ-7.wav: 2 channels"):
        load(root)


def content(folder: Path) -> str:
    return load(folder).content


def test_several_jobs_at_once(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "lj")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as jobs:
        found = list(jobs.map(content, [root] * 2))
    assert found[0] == found[1]
    assert len(list((tmp_path / "cache").glob("speech-*/train.json"))) == 1


def _stereo(file: Path, channels: int = 2, width: int = 2, rate: int = RATE) -> None:
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(bytes(channels * width * RATE))


def riff(codec: int, bits: int, wide: bool = False, sound: bytes = bytes(30_000), size: int | None = None) -> bytes:
    """A wav file of one channel; `wide` has the longer header that newer programs write."""
    layout = struct.pack("<HHIIHH", 0xFFFE if wide else codec, 1, RATE, RATE * bits // 8, bits // 8, bits)
    if wide:
        layout += struct.pack("<HHIH", 22, bits, 4, codec) + bytes.fromhex("000000001000800000aa00389b71")
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # chunks of odd sizes are padded
    data = b"data" + struct.pack("<I", len(sound) if size is None else size) + sound
    body = b"WAVE" + extra + b"fmt " + struct.pack("<I", len(layout)) + layout + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: _stereo(file, 1, 2, 16_000), r"LJ-3.wav: 16,000 Hz: resample it to 22,050 Hz"),
        (_stereo, r"LJ-3.wav: 2 channels: mix them to one"),
        (lambda file: _stereo(file, 1, 1), r"LJ-3.wav: 8 bit: convert it to 16 bit"),
        (lambda file: file.write_bytes(b"RIFFxxxxsomething else"), r"LJ-3.wav: not readable as wav"),
        (lambda file: file.write_bytes(b"fLaC" + bytes(99)), r"LJ-3.wav: is FLAC, not wav: convert it"),
        (lambda file: file.write_bytes(b"ID3" + bytes(99)), r"LJ-3.wav: is MP3, not wav: convert it"),
        (lambda file: file.write_bytes(riff(3, 32)), r"LJ-3.wav: its samples are 32 bit float: convert them to whole"),
        (lambda file: file.write_bytes(riff(3, 32, wide=True)), r"LJ-3.wav: its samples are 32 bit float"),
        (lambda file: file.write_bytes(riff(6, 8)), r"LJ-3.wav: its samples are A-law: convert them"),
        (lambda file: file.write_bytes(riff(80, 8)), r"LJ-3.wav: its samples are in format 80: convert them"),
        (lambda file: file.write_bytes(riff(1, 24, wide=True)), r"LJ-3.wav: 24 bit: convert it to 16 bit"),
        (lambda file: file.write_bytes(riff(1, 16)[:30]), r"LJ-3.wav: not readable as wav \(it ends early\)"),
        (
            lambda file: file.write_bytes(riff(1, 16).replace(b"fmt ", b"fact")),
            r"\(it does not say its format\): make or",
        ),
        (lambda file: (file.unlink(), file.mkdir()), r"no wavs/LJ-3.wav: put it there"),
        (lambda file: (file.unlink(), os.mkfifo(file)), r"LJ-3.wav: is no regular file: remove it"),
        (lambda file: (file.unlink(), file.symlink_to("LJ-2.wav")), r"LJ-3.wav is a link to another one of them"),
        (lambda file: file.write_bytes(b""), r"LJ-3.wav: not readable as wav \(it ends early\)"),
        (_cut, r"LJ-3.wav: (ends after|not readable)"),
        (lambda file: write_wave(file, tone(0.02)), r"LJ-3.wav: 441 samples: too short"),
        (lambda file: write_wave(file, tone(1) * 0), r"LJ-3.wav: is silent"),
        (lambda file: write_wave(file, tone(0.1)), r"LJ-3.wav: 9 frames with sound are too few for 12 characters"),
        (lambda file: file.unlink(), r"metadata.csv: no wavs/LJ-3.wav: put it there, or remove the line of LJ-3"),
    ],
)
def test_damaged_sound(tmp_path: Path, damage, message: str) -> None:
    root = ljspeech(tmp_path / "lj")
    damage(root / "wavs" / "LJ-3.wav")
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("speech-*/*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("LJ-0", r"metadata.csv:1: LJ-0: no transcript: write"),
        ("LJ-0|raw|", r"metadata.csv:1: LJ-0: no transcript"),
        ("LJ-0|raw| \t", r"metadata.csv:1: LJ-0: no transcript"),
        ("LJ-0|raw|chapter 7", r"metadata.csv:1: LJ-0: unknown character '7': spell it out"),
        ("LJ-1|raw|again.", r"metadata.csv:2: LJ-1 comes twice"),
        ("LJ-9|raw|none.", r"metadata.csv: no wavs/LJ-9.wav|LJ-0.wav: no transcript"),
        ("", r"LJ-0.wav: no transcript in metadata.csv: add a line"),
    ],
)
def test_bad_transcripts(tmp_path: Path, line: str, message: str) -> None:
    root = ljspeech(tmp_path / "lj")
    lines = (root / "metadata.csv").read_text(encoding="utf-8").splitlines()
    (root / "metadata.csv").write_text("\n".join([line, *lines[1:]]), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_bad_folders(tmp_path: Path) -> None:
    for data, message in (
        (Data("local"), "data.source=local needs data.path: a folder with wavs"),
        (Data("local", str(tmp_path / "none")), "no such folder: give a folder with wavs"),
        (Data("local", str(tmp_path)), "no metadata.csv: give a folder with wavs"),
        (Data("hub"), "data.source=hub: LJSpeech is there as a script only.*use data=local"),
    ):
        with pytest.raises(ValueError, match=message):
            speech(data, tmp_path / "cache")
    root = ljspeech(tmp_path / "lj")
    (root / "wavs" / "LJ-2.wav").write_bytes((root / "wavs" / "LJ-5.wav").read_bytes())
    with pytest.raises(ValueError, match=r"wavs/LJ-5.wav is the same sound as LJ-2.wav"):
        load(root)
    (root / "metadata.csv").write_bytes(b"LJ-0|caf\xe9\n")
    with pytest.raises(ValueError, match=r"metadata.csv: not UTF-8 \(byte 8\)"):
        load(root)
    few = ljspeech(tmp_path / "few", [*SENTENCES[:2], SENTENCES[1]])
    with pytest.raises(ValueError, match=r"few: 2 different transcripts: train, validation and test need one each"):
        load(few)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("size", [None, 0xFFFFFFFF])
def test_headers_of_other_programs(tmp_path: Path, wide: bool, size: int | None) -> None:
    """Also where a program did not know the size when it wrote the header."""
    sound = np.random.default_rng(0).integers(-(2**15), 2**15, 5000).astype("<i2")
    (tmp_path / "a.wav").write_bytes(riff(1, 16, wide, sound.tobytes(), size))
    np.testing.assert_array_equal(read_wave(tmp_path / "a.wav"), (sound / 2**15).astype(np.float32))


def test_marks_at_the_beginning_of_texts_are_no_part_of_them(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "lj")
    (root / "splits.csv").write_text(
        "".join(f"LJ-{n}|{name}\n" for n, name in enumerate(["test", "validation", *["train"] * 6]))
    )
    (root / "alignments").mkdir()
    for number, sentence in enumerate(SENTENCES):
        times = [
            f"{0.1 * i:.1f} {0.1 * i + 0.1:.1f} {word}" for i, word in enumerate(re.findall("[a-z']+", clean(sentence)))
        ]
        (root / "alignments" / f"LJ-{number}.txt").write_text("\n".join(times))
    before = load(root)
    for file in (root / "metadata.csv", root / "splits.csv", *(root / "alignments").iterdir()):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    after = load(root, tmp_path / "other")
    for split in SPLITS:
        assert [clip.id for clip in after.clips[split]] == [clip.id for clip in before.clips[split]]
        for one, other in zip(before.clips[split], after.clips[split], strict=True):
            np.testing.assert_array_equal(one.durations, other.durations)
    for name in ("splits.csv", "alignments/LJ-3.txt"):
        whole = (root / name).read_bytes()
        (root / name).write_bytes("LJ-0|test".encode("utf-16"))
        with pytest.raises(ValueError, match=rf"{name}: not UTF-8 \(byte 0\): convert it"):
            load(root, tmp_path / "third")
        (root / name).write_bytes(whole)


def test_sounds_at_any_depth_and_in_any_case(tmp_path: Path) -> None:
    root = ljspeech(tmp_path / "lj")
    before = load(root).content
    (root / "wavs" / "LJ-1.wav").rename(root / "wavs" / "LJ-1.WAV")
    assert load(root).content == before
    (root / "wavs" / "more").mkdir()
    (root / "wavs" / "LJ-2.wav").rename(root / "wavs" / "more" / "LJ-2.Wav")
    with pytest.raises(ValueError, match=r"more/LJ-2\.Wav: no transcript in metadata.csv: add a line"):
        load(root)
    for name in ("splits.csv", "alignments"):
        root = ljspeech(tmp_path / name)
        (root / name).write_text("x") if name == "alignments" else (root / name).mkdir()
        with pytest.raises(ValueError, match=f"{name}: is no regular file|{name} is no folder"):
            load(root)


def test_a_feature_that_is_constant_in_train_is_centred_only() -> None:
    """Also where rounding leaves it some deviation: a step elsewhere stays a step and is not a thousand of them."""
    values = np.stack([np.full(1000, -11.5), np.arange(1000) / 100, -11.5 + 1e-7 * (np.arange(1000) % 2)], 1)
    sums = np.stack([np.full(3, 1000.0), values.sum(0), (values**2).sum(0)])
    found = _statistics({"mel": sums})
    np.testing.assert_allclose(found["mean"]["mel"], values.mean(0))
    np.testing.assert_allclose(found["std"]["mel"], [1, values[:, 1].std(), 1])


def test_waves_come_back(tmp_path: Path) -> None:
    sound = tone(0.2)
    write_wave(tmp_path / "a.wav", sound)
    np.testing.assert_allclose(read_wave(tmp_path / "a.wav"), sound / 0.3 * 0.95, atol=1e-3)
