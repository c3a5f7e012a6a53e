"""Pictures from folders, parquet files and known sets."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from layouts import encoded as png
from layouts import noise, write_folder
from PIL import Image

from posattn.vision.data.decoding import open_picture
from posattn.vision.data.images import load_images
from posattn.vision.data.pictures import Pictures
from posattn.vision.data.streams import stream_images


def picture(number: int) -> Image.Image:
    return Image.new("L", (5 + number, 7), number)


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(10):
        place = tmp_path / "pictures" / ("b" if number > 4 else "a")
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    cells = [{"bytes": encoded(n), "path": None} for n in range(150)]
    pq.write_table(pa.table({"img": cells, "label": [0] * 150}), tmp_path / "set.parquet")
    return tmp_path / "set.parquet"


def numbers(pictures: Pictures) -> list[int]:
    assert all(one.mode == "RGB" for one in pictures)
    return [one.getpixel((0, 0))[0] for one in pictures]  # type: ignore[index]


def test_folders_and_parquet_files_are_read_in_order_and_evenly(folder: Path, parquet: Path) -> None:
    assert numbers(Pictures(str(folder))) == list(range(10))
    assert numbers(Pictures(str(folder), limit=4)) == [0, 2, 5, 7]
    assert numbers(Pictures(str(folder), limit=99)) == list(range(10))
    assert numbers(Pictures(str(parquet))) == list(range(150))
    assert numbers(Pictures(str(parquet), limit=3)) == [0, 50, 100]
    assert [one.size for one in Pictures(str(folder))] == [(5 + n, 7) for n in range(10)]


def test_a_known_set_is_its_test_split() -> None:
    pictures, held = Pictures("digits", limit=5), load_images("digits", "test")
    assert len(pictures) == 5
    step = len(held) // 5
    for number, one in enumerate(pictures):
        assert (np.asarray(one)[..., 0] == held.images[number * step, 0].numpy()).all()


def test_tables_beside_pictures_are_ignored_and_reported(folder: Path, parquet: Path) -> None:
    parquet.rename(folder / "table.parquet")
    pictures = Pictures(str(folder))
    assert numbers(pictures) == list(range(10))
    assert pictures.notes == ["ignored, no pictures: 1 of .parquet, 1 of .txt"]


def test_the_tables_of_a_folder_are_read_as_one(parquet: Path) -> None:
    parquet.rename(parquet.with_name("a.parquet"))
    cells = [{"bytes": encoded(n), "path": None} for n in range(150, 160)]
    pq.write_table(pa.table({"img": cells}), parquet.with_name("b.parquet"))
    assert numbers(Pictures(str(parquet.parent))) == list(range(160))
    assert numbers(Pictures(str(parquet.parent), limit=16)) == list(range(0, 160, 10))
    parquet.with_name("b.parquet").rename(parquet.with_name("test-0.parquet"))
    pictures = Pictures(str(parquet.parent))
    assert numbers(pictures) == list(range(150, 160))
    assert pictures.notes == ["the tables of the test split alone, without a.parquet"]


def test_bad_input_is_named(folder: Path, parquet: Path, tmp_path: Path) -> None:
    (folder / "a" / "2.png").write_bytes(encoded(2)[:-30])
    with pytest.raises(ValueError, match=r"a/2\.png cannot be decoded"):
        list(Pictures(str(folder)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        Pictures(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        Pictures(str(folder), limit=0)
    (tmp_path / "cut.parquet").write_bytes(parquet.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut\.parquet is not a whole parquet file"):
        Pictures(str(tmp_path / "cut.parquet"))
    pq.write_table(pa.table({"pix": [encoded(0)]}), tmp_path / "named.parquet")
    with pytest.raises(ValueError, match=r"no image column img or image, only pix: .* or rename it where a"):
        Pictures(str(tmp_path / "named.parquet"))
    twice = pa.Table.from_arrays([pa.array([encoded(0)])] * 2, names=["image", "image"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"twice\.parquet has 2 columns of the name image: image, image"):
        Pictures(str(tmp_path / "twice.parquet"))
    for unknown in ("digitz", ""):  # the path "" is the current folder
        with pytest.raises(ValueError, match=f"unknown data set '{unknown}'"):
            Pictures(unknown)


def test_any_layout_and_every_format(tmp_path: Path) -> None:
    """Nested and linked folders, every format, one file, a list; hidden files ignored and others told."""
    deep = tmp_path / "set" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    ends = ["avif", "bmp", "gif", "jp2", "jpg", "png", "ppm", "tiff", "webp"]
    for number, end in enumerate(ends):
        Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(deep / f"{number}.{end}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture(200).save(elsewhere / "linked.png")
    (tmp_path / "set" / "link").symlink_to(elsewhere)
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    for name in ("._9.png", ".hidden.png"):
        (deep / name).write_bytes(b"no picture")
    (deep / "notes.txt").write_text("")
    (deep / "clip.mp4").write_text("")
    pictures = Pictures(str(tmp_path / "set"))
    found = numbers(pictures)
    assert len(found) == len(ends) + 1
    assert found[:-1] == pytest.approx([30 * number for number in range(len(ends))], abs=6)
    assert found[-1] == 200
    assert pictures.notes == ["ignored, no pictures: 1 of .mp4, 1 of .txt"]
    (deep / "everything").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"c/everything is a link to .*, which .*set is in"):
        Pictures(str(tmp_path / "set"))
    assert numbers(Pictures(str(deep / "3.jp2"))) == pytest.approx([90], abs=6)
    (tmp_path / "list.txt").write_text("elsewhere/linked.png\n\nset/a/b/c/5.png\n")
    assert numbers(Pictures(str(tmp_path / "list.txt"))) == [200, 150]


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0", "a.png".encode("utf-16")])
def test_a_list_that_is_no_text_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"list\.txt is no list of paths, one per line in UTF-8"):
        Pictures(str(tmp_path / "list.txt"))


def test_sixteen_bits_are_scaled_and_orientation_is_applied(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).reshape(16, 16).round().astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "float.tiff")
    for name in ("deep.png", "float.tiff"):
        (found,) = Pictures(str(tmp_path / name))
        assert np.asarray(found)[..., 0].flatten().tolist() == list(range(256))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (10, 4)).save(tmp_path / "turned.jpg", exif=exif)
    (turned,) = Pictures(str(tmp_path / "turned.jpg"))
    assert turned.size == (4, 10)
    Image.fromarray(np.full((4, 4), 3.0, np.float32)).save(tmp_path / "wild.tiff")
    with pytest.raises(ValueError, match=r"values are in \[3, 3\], not in \[0, 1\]"):
        list(Pictures(str(tmp_path / "wild.tiff")))


def test_hidden_folders_and_those_of_systems_are_ignored(folder: Path) -> None:
    for name in (".thumbnails", "__MACOSX", "a/.cache"):
        (folder / name).mkdir()
        picture(77).save(folder / name / "0.png")
        (folder / name / "shard.parquet").write_bytes(b"")
    assert numbers(Pictures(str(folder))) == list(range(10))


def test_cells_of_a_parquet_file_may_be_null_or_name_a_file(tmp_path: Path) -> None:
    picture(9).save(tmp_path / "9.png")
    cells = [{"bytes": encoded(3), "path": None}, {"bytes": None, "path": "9.png"}]
    empty = [None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array([*cells, *empty], kind)}), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match=r"image 2 of .*set\.parquet cannot be decoded: it is null"):
        list(Pictures(str(tmp_path / "set.parquet")))
    pictures = Pictures(str(tmp_path / "set.parquet"), skip_corrupt=True)
    assert numbers(pictures) == [3, 9]
    assert pictures.skipped == 3
    pq.write_table(pa.table({"image": [1.5, 2.5]}), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match="column image holds double, not encoded pictures"):
        Pictures(str(tmp_path / "set.parquet"))


def test_training_reads_pictures_as_an_inspection_does(tmp_path: Path) -> None:
    """16 bits, EXIF orientation and AVIF, in memory and in a stream."""
    values = np.full((20, 20), 128 * 257, np.uint16)
    values[:10] = 0
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    place = tmp_path / "train" / "only"
    place.mkdir(parents=True)
    Image.fromarray(values).save(place / "deep.png")
    turned = Image.fromarray((values[::-1] // 257).astype(np.uint8)).convert("RGB")
    turned.save(place / "turned.png", exif=exif)
    turned.transpose(Image.Transpose.ROTATE_180).save(place / "z.avif", quality=100)
    expected = [np.asarray(one) for one in Pictures(str(place))]
    held = load_images(str(tmp_path), "train").images.permute(0, 2, 3, 1).numpy()
    stream = stream_images("imagenet", "train", tmp_path, image_size=20, crop=False, workers=1)
    ((streamed, _),) = stream.batches([torch.arange(3)])
    for truth, image, pixels in zip(expected, held, streamed.permute(0, 2, 3, 1), strict=True):
        assert (image == truth).all()
        for one in (truth.astype(int), pixels.int().numpy()):
            assert one[:7].max() <= 3
            assert abs(one[13:] - 128).max() <= 3


def test_corrupt_pictures_are_skipped_and_counted(folder: Path) -> None:
    (folder / "a" / "2.png").write_bytes(encoded(2)[:-30])
    (folder / "b" / "7.png").write_bytes(b"")
    pictures = Pictures(str(folder), skip_corrupt=True)
    for _ in range(2):
        assert numbers(pictures) == [0, 1, 3, 4, 5, 6, 8, 9]
        assert pictures.skipped == 2


def test_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a URL: download"):
        Pictures("https://example.org/cat.jpg")
    (tmp_path / "list.txt").write_text("https://example.org/cat.jpg\n")
    with pytest.raises(ValueError, match=r"line 1, .* is a URL"):
        Pictures(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("cat.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"line 1, cat\.jpg, is no file"):
        Pictures(str(tmp_path / "list.txt"))


def test_errors_of_a_decoder_are_those_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def fail(_: object) -> None:  # as Pillow's decoder of AVIF
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(OSError, match="Failed to decode frame 0"):
        open_picture(tmp_path / "a.png")


def test_floats_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"its values are in \[nan, nan\]"):
        open_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize("name", ["imagenette", "tiny-imagenet", "imagenet"])
def test_pictures_of_known_sets_have_the_size_that_they_are_stored_in(name: str, tmp_path: Path) -> None:
    """A model resizes them by its own transform; trainings take them at 64, 32 and 224 px by default."""
    pictures = noise(4, 3, 90, 110)
    if name == "imagenet":
        names = [f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in "ab" for i in range(2)]
        write_folder(tmp_path, dict(zip(names, map(png, [*pictures, *pictures]), strict=True)))
    else:
        table = pa.table({"img": [png(picture) for picture in pictures], "label": [0, 1, 0, 1]})
        pq.write_table(table, tmp_path / "test.parquet")
    read = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in Pictures(name, tmp_path)]
    assert torch.equal(torch.stack(read), pictures)
