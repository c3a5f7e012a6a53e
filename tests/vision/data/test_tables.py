"""Image sets in tables: labels of any values, cells of every type for bytes, and what Hugging Face writes."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from layouts import encoded, noise

from posattn.vision.data.images import load_images

PIXELS = noise(6, 3, 4, 4)
PICTURES = [encoded(each) for each in PIXELS]


def write(path: Path, labels: list[Any], **schema: Any) -> None:
    table = pa.table({"image": PICTURES[: len(labels)], "label": labels})
    if schema:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": schema}})})
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([0, 10_000_000, 0, 10_000_000], ("0", "10000000")),
        ([3, 1, 3, 2], ("1", "2", "3")),
        (["dog", "cat", "dog", "cat"], ("cat", "dog")),
        ([True, False, True, False], ("False", "True")),
    ],
)
def test_labels_without_names_are_numbered_by_value(
    labels: list[Any], classes: tuple[str, ...], tmp_path: Path
) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", labels)
    loaded = load_images(str(tmp_path), "test")
    assert loaded.classes == classes
    assert [loaded.classes[label] for label in loaded.labels.tolist()] == [str(label) for label in labels]


def named(*names: str) -> dict[str, Any]:
    """The schema of labels with names."""
    return {"label": {"names": names}}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"train": ([0, 1, 2], {}), "test": ([1, 2], {})},
            r"have not the same classes; only in .*train\.parquet: 0$",
        ),
        (
            {"a/train-0": ([0, 1, 2], {}), "b/test-0": ([1, 2], {})},
            r"have not the same classes; only in .*train-0\.parquet: 0$",
        ),
        (
            {"train": ([0, 1], named("cat", "dog")), "test": ([0, 1], named("dog", "cat"))},
            r"label 0 is (cat|dog) in .* and (dog|cat) in ",
        ),
        (
            {"train": ([0, 1], named("cat", "dog")), "test": ([0, 1], named("apple", "pear"))},
            r"have not the same classes; .*only in .*test\.parquet: apple, pear",
        ),
        (
            {"train": ([1, 2, 10], {}), "test": (["1", "2", "10"], {})},
            r"label 1 is (2|10) in .* and (10|2) in ",
        ),
        (
            {
                f"{split}-{n}": (labels, {})
                for split in ("train", "test")
                for n, labels in enumerate([[0, 1], ["0", "1"]])
            },
            r"the labels of .*-0\.parquet are int, those of .*-1\.parquet are str",
        ),
    ],
)
def test_a_label_that_is_another_class_elsewhere_is_refused(
    files: dict[str, Any], said: str, split: str, tmp_path: Path
) -> None:
    for name, (labels, schema) in files.items():
        (path := tmp_path / f"{name}.parquet").parent.mkdir(exist_ok=True)
        write(path, labels, **schema)
    with pytest.raises(ValueError, match=said):
        load_images(str(tmp_path), split)


def test_names_of_the_schema_match_classes_and_may_miss_a_label(tmp_path: Path) -> None:
    names = {"label": {"names": ["cat", "dog", "owl"]}}
    write(tmp_path / "train.parquet", [0, 1, 2], **names)
    write(tmp_path / "test.parquet", [2, 1], **names)
    test = load_images(str(tmp_path), "test")
    assert [test.classes[label] for label in test.labels.tolist()] == ["owl", "dog"]
    write(tmp_path / "test-1.parquet", [2, 1], label={"names": ["dog", "cat", "owl"]})
    (tmp_path / "test.parquet").rename(tmp_path / "test-0.parquet")
    with pytest.raises(
        ValueError, match=r"test-0\.parquet and .*test-1\.parquet name their classes differently"
    ):
        load_images(str(tmp_path), "test")


KINDS = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "fixed": pa.binary(len(PICTURES[0])),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
    "struct": pa.struct({"bytes": pa.large_binary(), "path": pa.string()}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_for_bytes_is_read(kind: str, tmp_path: Path) -> None:
    pictures = [PICTURES[0]] * 3 if kind == "fixed" else PICTURES[:3]
    cells = [{"bytes": each, "path": None} for each in pictures] if kind == "struct" else pictures
    column = (
        pa.array(cells, pa.binary()).dictionary_encode()
        if kind == "dictionary"
        else pa.array(cells, KINDS[kind])
    )
    table = pa.table({"image": column, "label": [0, 1, 0]})
    with (
        pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (tmp_path / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    from posattn.vision.data.decoding import Decoding
    from posattn.vision.data.tables import Columns, read_parts, saved_parts

    read = read_parts(saved_parts(tmp_path), Decoding(), Columns())
    assert torch.equal(read.images, PIXELS[[0, 0, 0] if kind == "fixed" else [0, 1, 2]])


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_every_type_for_text_is_a_label(kind: pa.DataType) -> None:
    from posattn.vision.data.tables import Part, label_values

    names = ["owl", "cat", "owl"]
    column = pa.array(names).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(names, kind)
    assert label_values(Part(pa.table({"label": column}), "here"), None, False) == names


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["a.png"], "column image holds string, not encoded pictures"),
        ([[PICTURES[0]]], r"column image holds list<.*>, not encoded pictures"),
        ([[{"bytes": PICTURES[0]}]], r"column image holds list<.*>, not encoded pictures"),
        ([{"url": "x"}], r"column image holds struct<.*>, not encoded pictures"),
        ([1.5], "column image holds double, not encoded pictures"),
        ([PICTURES[0], None], "image 1 of .*, column image, cannot be decoded: it is null"),
        ([{"bytes": None, "path": None}], "image 0 of .*, column image, cannot be decoded: it is null"),
        (
            [{"bytes": None, "path": "gone.png"}],
            r"image 0 of .*, column image, cannot be decoded: .*gone\.png",
        ),
    ],
)
def test_other_cells_are_refused_by_file_row_and_column(
    cells: list[Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": cells, "label": [0] * len(cells)}), path)
    with pytest.raises(ValueError, match=message) as raised:
        load_images(str(tmp_path))
    assert str(path) in str(raised.value)


def test_a_cell_without_bytes_is_the_file_of_its_path(tmp_path: Path) -> None:
    for number, content in enumerate(PICTURES[:2]):
        (tmp_path / f"{number}.png").write_bytes(content)
    cells = [{"bytes": None, "path": f"{number}.png"} for number in range(2)]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "train.parquet")
    assert torch.equal(load_images(str(tmp_path)).images, PIXELS[:2])


def test_the_row_of_a_second_shard_is_counted_in_that_shard(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1])
    pq.write_table(
        pa.table({"image": [PICTURES[0], b"no picture"], "label": [0, 1]}), tmp_path / "train-1.parquet"
    )
    with pytest.raises(ValueError, match=r"image 1 of .*train-1\.parquet, column image, cannot be decoded"):
        load_images(str(tmp_path))


def save_to_disk(folder: Path, labels: list[int]) -> None:
    """What ``datasets.Dataset.save_to_disk`` writes."""
    folder.mkdir(parents=True)
    cells = [{"bytes": each, "path": None} for each in PICTURES[: len(labels)]]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": cells, "label": labels}).replace_schema_metadata(metadata)
    for number, part in enumerate((table[:1], table[1:])):
        name = f"data-0000{number}-of-00002.arrow"
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as out:
            out.write_table(part)
    files = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": folder.name}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    for name, labels in (("train", [0, 1, 1]), ("validation", [1, 0])):
        save_to_disk(tmp_path / name, labels)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        loaded = load_images(str(tmp_path), split)
        assert torch.equal(loaded.images, PIXELS[: len(labels)])
        assert loaded.labels.tolist() == labels
        assert loaded.classes == ("cat", "dog")
    path = tmp_path / "train" / "data-00001-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"data-00001-of-00002\.arrow is not a whole Arrow file"):
        load_images(str(tmp_path))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (b"{not JSON", "the metadata of Hugging Face's datasets is damaged"),
        (b"[1]", "the metadata of Hugging Face's datasets is damaged"),
        (b'{"info": {"features": {"label": {"names": "ab"}}}}', "must be distinct texts, got 'ab'"),
        (
            b'{"info": {"features": {"label": {"names": ["a", "a"]}}}}',
            r"must be distinct texts, got \['a', 'a'\]",
        ),
    ],
)
def test_damaged_names_of_classes_are_named(metadata: bytes, said: str, tmp_path: Path) -> None:
    table = pa.table({"image": PICTURES[:4], "label": [0, 1, 0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=rf"train\.parquet: .*{said}"):
        load_images(str(tmp_path))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("{", "is not whole JSON"),
        ("{}", "does not list the files of a data set"),
        ('{"_data_files": 3}', "does not list the files of a data set"),
        ('{"_data_files": []}', "holds an empty data set"),
    ],
)
def test_a_damaged_folder_of_save_to_disk_is_named(state: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(ValueError, match=f"{tmp_path}.*{said}"):
        load_images(str(tmp_path))


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array(PICTURES[:2]), pa.array([0, 1]), pa.array([1, 0])]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", "label", "label"]), tmp_path / "set.parquet")
    with pytest.raises(
        ValueError, match=r"set\.parquet has 2 columns of the name label: image, label, label"
    ):
        load_images(str(tmp_path / "set.parquet"))
