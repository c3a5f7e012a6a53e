"""What to read of an image set, and where its files are searched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posattn.vision.data.decoding import Content, Decoding
from posattn.vision.data.folders import spellings
from posattn.vision.data.tables import Columns, parquet_parts, read_parts

HOME = Path("data")  # default folder of files and downloads
DECODING = Decoding()
SHARDS = ("{}.parquet", "{}-*.parquet", "data/{}-*.parquet")  # common names, also on Hugging Face's hub
BELOW = "*/{}-*.parquet"  # in the folder of a configuration, as the hub has some
PUBLISHED = {"train": ("train",), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class Request:
    """The split of a set to read, its folder and options."""

    name: str
    split: str
    data_dir: Path | None = None
    download: bool = False
    decoding: Decoding = DECODING
    image_column: str | None = None
    label_column: str | None = None

    def find(
        self,
        patterns: Sequence[str],
        how: str,
        fetch: Callable[[Path], object] | None = None,
        elsewhere: Sequence[Path] = (),
    ) -> list[Path]:
        """The files of the first pattern that matches, in the given folder or the usual ones.

        Folders of any name are searched only in the set's own: elsewhere they may hold other sets.

        Args:
            patterns: as of Path.glob.
            how: how to get the files, for the error if there are none.
            fetch: downloads the set into a folder; called only with ``download``.
            elsewhere: folders to search after ./data if none is given.
        """
        home = self.data_dir or HOME
        folders = [home / self.name, home, *(elsewhere if self.data_dir is None else ())]
        for again in (False, True):
            for folder in folders:
                own = folder.absolute().name == self.name
                for pattern in patterns:
                    if (own or not pattern.startswith("*")) and (paths := files(folder, pattern)):
                        return paths
            if again or fetch is None or not self.download:
                break
            fetch(home)
        looked = f"no {' or '.join(patterns)} in {' or '.join(map(str, folders))}"
        raise FileNotFoundError(
            f"{self.name} not found: {looked}; {how}{', or download it (--download)' if fetch else ''}"
        )

    @property
    def columns(self) -> Columns:
        """The columns to read of a table."""
        return Columns(self.image_column, self.label_column)

    def refuse_columns(self, place: str | Path) -> None:
        """Raise ValueError if a column is named; ``place`` holds no table."""
        for kind, name in self.columns._asdict().items():
            if name is not None:
                raise ValueError(f"{kind}_column is not for {place}, which is no table; got {name!r}")

    @property
    def other(self) -> "Request":
        """The same request for the other split."""
        return replace(self, split="test" if self.split == "train" else "train")

    def at_size(self, default: int) -> "Request":
        """The same request, resizing to ``default`` where no size is given."""
        size = self.decoding.image_size or default
        return replace(self, decoding=self.decoding._replace(image_size=size))

    def parquet(self, paths: Sequence[Path], classes: tuple[str, ...]) -> Content:
        """Parquet files of a published set, with ``classes`` if their schema names none."""
        return read_parts(parquet_parts(paths), self.decoding, self.columns, classes)

    def shards_in(self, folder: Path) -> list[Path]:
        """The parquet files of the split in a folder, under any spelling."""
        patterns = shard_patterns(spellings(self.split))
        return next((found for pattern in patterns if (found := files(folder, pattern))), [])

    @property
    def shards(self) -> list[str]:
        """Patterns of the parquet files of a published set's split."""
        return shard_patterns(PUBLISHED[self.split])


def shard_patterns(stems: Sequence[str]) -> list[str]:
    """Patterns of the parquet files of a split, by its spellings."""
    return [form.format(stem) for stem in stems for form in (*SHARDS, BELOW)]


def files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern. ValueError where they are in several folders: those are several sets."""
    paths = sorted(folder.glob(pattern))
    if len(parents := sorted({str(path.parent) for path in paths})) > 1:
        raise ValueError(f"{folder} holds tables in {' and '.join(parents)}: give one of these folders")
    return paths
