"""Pictures from folders, parquet files and known sets."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from posattn.vision.data.images import load_images
from posattn.vision.data.pictures import Pictures


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
    with pytest.raises(ValueError, match="unknown data set 'digitz'"):
        Pictures("digitz")
