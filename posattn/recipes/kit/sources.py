"""Where models come from: names with a prefix, folders, the hub, and run folders that trained them."""

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from posattn.recipes.kit.classifiers import AnyImages, build, weights_name
from posattn.recipes.kit.settings import ARCHITECTURES, ModelSize
from posattn.runs.folder import RunFolder
from posattn.vision.data.config import MemoryDataConfig
from posattn.vision.training.weights import load_weights

HUB, LOCAL, TRANSFORMERS = "hf-hub:", "local-dir:", "transformers:"
SECONDS = 5  # to wait for the hub


def folder_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder: ``architecture`` in timm's, ``model_type`` in transformers', ``recipe`` in a run's."""
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def reach(repository: str) -> None:
    """Raise ConnectionError naming a model that is neither in the hub's cache nor reachable."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository = repository.partition("@")[0]
    if isinstance(try_to_load_from_cache(repository, "config.json"), str):
        return
    try:
        HfApi().model_info(repository, timeout=SECONDS)
    except Exception as error:
        raise ConnectionError(f"{repository} is not cached, and the hub does not give it: {error}") from error


def transformers_for(name: str) -> tuple[Any, bool]:
    """The library transformers, and whether the model ``name`` is a folder of this machine.

    Raises ModuleNotFoundError without the library, and ConnectionError as in ``reach``.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs the optional library transformers: pip install transformers"
        ) from error
    local = Path(name).is_dir()
    if not local:
        reach(name)
    return transformers, local


class TrainedModels:
    """The image models that a run folder holds; ``names`` are their files without suffix.

    Raises ValueError if ``folder`` holds no finished run, or one without image models.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder.reading(folder)
        first = self.run.config["seed"]
        self.settings = self.run.config["config"].get("images", self.run.config["config"])
        seeds = range(first, first + self.settings.get("seeds", 0))
        trained = {weights_name(name, seed): (name, seed) for name in ARCHITECTURES for seed in seeds}
        self.names = {file: one for file, one in trained.items() if self._path(file).is_file()}
        if not self.names:
            raise ValueError(f"{folder} holds no run that trains image models ({self.run.config['recipe']})")

    def _path(self, file: str) -> Path:
        return self.run.path / f"{file}.safetensors"

    def data(self, **changes: Any) -> AnyImages:
        """The test images of the run, or others read as it reads its own."""
        known = {field.name for field in fields(MemoryDataConfig)}
        settings = {name: value for name, value in self.settings["data"].items() if name in known}
        return MemoryDataConfig(**settings | changes).load("test")

    def model(self, file: str, images: AnyImages, *, trained: bool = True) -> Any:
        """A model for the images, with its weights or as it was initialised."""
        model: Any = build(ModelSize(**self.settings["size"]), *self.names[file], images)
        if trained:
            load_weights(model, self.run.load_tensors(file), self._path(file))
        return model
