"""What to read of an image set, and where its files are searched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posattn.vision.data.decoding import Content, Decoding
from posattn.vision.data.folders import spellings
from posattn.vision.data.tables import Columns, parquet_parts, read_parts

HOME = Path("data")  # default folder of files and downloads
DECODING = Decoding()
SHARDS = ("{}.parquet", "{}-*.parquet", "*/{}-*.parquet")  # common names, also on Hugging Face's hub
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

        Args:
            patterns: as of Path.glob.
            how: how to get the files, for the error if there are none.
            fetch: downloads the set into a folder; called only with ``download``.
            elsewhere: folders to search after ./data if none is given.
        """
        home = self.data_dir or HOME
        folders = [home, home / self.name, *(elsewhere if self.data_dir is None else ())]
        for again in (False, True):
            for folder in folders:
                for pattern in patterns:
                    if paths := sorted(folder.glob(pattern)):
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
        patterns = [form.format(stem) for stem in spellings(self.split) for form in SHARDS]
        return next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])

    @property
    def shards(self) -> list[str]:
        """Patterns of the parquet files of a published set's split."""
        return [form.format(stem) for stem in PUBLISHED[self.split] for form in SHARDS]
