"""Where models come from: names with a prefix, folders, the hub, and run folders that trained them."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torchvision
from timm.data import DEFAULT_CROP_PCT

from posattn import checks
from posattn.recipes.kit.classifiers import build, weights_name
from posattn.recipes.kit.settings import ARCHITECTURES, ModelSize
from posattn.runs.folder import RunFolder
from posattn.vision.convert.adapters.torchvision import resizing_of
from posattn.vision.data.config import SIDE, DataConfig, MemoryDataConfig
from posattn.vision.data.images import ImageSet
from posattn.vision.data.streams import transform_of
from posattn.vision.models.state_dicts import brief
from posattn.vision.training.weights import load_weights

HUB, LOCAL, TRANSFORMERS, TORCHVISION = "hf-hub:", "local-dir:", "transformers:", "torchvision:"
SECONDS = 5  # to wait for the hub
KINDS = ("architecture", "model_type", "recipe")
UNUSED = ("pooler", "classifier", "head", "mask_token")
"""In names of weights that attention does not depend on"""


def folder_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder: ``architecture`` in timm's, ``model_type`` in transformers', ``recipe`` in a run's.

    Raises ValueError naming the file if it is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(found).__name__}")
    for kind in KINDS:
        if not isinstance(value := found.get(kind, ""), str):
            raise ValueError(f"{path}: {kind} must be text, got {value!r}")
    return found


@contextmanager
def loading(name: str, **options: object) -> Iterator[None]:
    """Raise ValueError naming the model, and the options it is built with, for what its library raises inside."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except Exception as error:
        flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in options.items())
        raise ValueError(f"{name} cannot be loaded{flags and ' with' + flags}: {brief(error)}") from error


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
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers, local


def transformers_model(kind: Any, name: str, local: bool) -> Any:
    """A model of a class of transformers, with its weights. Raises ValueError naming weights that are missing."""
    with loading(name):
        model, found = kind.from_pretrained(name, local_files_only=local, output_loading_info=True)
    if missing := sorted(key for key in found["missing_keys"] if not any(part in key for part in UNUSED)):
        raise ValueError(f"{name} lacks {len(missing)} weights of the model: {', '.join(missing[:3])}")
    return model


def torchvision_vit(name: str, pretrained: bool) -> Any:
    """A ViT of torchvision, with its published weights or at its random start; pictures are made for those weights.

    Raises ValueError if there is none.
    """
    checks.known("model of torchvision", name, torchvision.models.list_models(include="vit_*"))
    published = torchvision.models.get_model_weights(name).DEFAULT
    with loading(f"{TORCHVISION}{name}"):
        model: Any = torchvision.models.get_model(name, weights=published if pretrained else None)
    model.pictures = resizing_of(published.transforms())
    return model


class TrainedModels:
    """The image models that a run folder holds; ``names`` are their files without suffix.

    Raises ValueError if ``folder`` holds no finished run, or no such models.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder.reading(folder)
        first, config = self.run.config["seed"] or 0, self.run.config["config"]
        images = config.get("images")  # of the demo; of other commands it may name pictures
        self.settings = images if isinstance(images, dict) else config
        seeds = range(first, first + self.settings.get("seeds", 0))
        trained = {weights_name(name, seed): (name, seed) for name in ARCHITECTURES for seed in seeds}
        self.names = {file: one for file, one in trained.items() if self._path(file).is_file()}
        if not self.names:
            recipe = self.run.config["recipe"]
            raise ValueError(
                f"{folder}, a run of {recipe}, holds no trained models: runs of images and of the demo keep theirs"
            )

    def _path(self, file: str) -> Path:
        return self.run.path / f"{file}.safetensors"

    @property
    def crop_pct(self) -> float:
        """The share of a picture's shorter side that the run was tested on, below 1 for streams."""
        data = self.settings["data"]
        return DEFAULT_CROP_PCT if "stream" in data and DataConfig(**data).streamed else 1.0

    def data(self, split: str = "test", **changes: Any) -> ImageSet:
        """The test images of the run, or others, in memory, each as the run makes it of the picture."""
        known = {field.name for field in fields(MemoryDataConfig)}
        settings = {name: value for name, value in self.settings["data"].items() if name in known}
        config = MemoryDataConfig(**settings | changes)
        if self.crop_pct < 1:
            side = config.image_size or SIDE
            held: ImageSet = config.load_transformed(split, transform_of((3, side, side)))
            return held
        return config.load(split)

    def check_shape(self, name: str, images: ImageSet) -> list[str]:
        """Raise ValueError if images of the set ``name`` have another shape than the run's, in as many patches or not.

        Returns a note where that is not known, as the run's own set cannot be read from here.
        """
        if name == self.settings["data"]["data"]:
            return []
        try:
            own = self.data(download=False).shape
        except (OSError, ValueError) as error:
            return [f"the shape of the images that the run was trained on is not known: {error}"]
        if images.shape != own:
            taken, given = ("x".join(map(str, shape)) for shape in (own, images.shape))
            raise ValueError(f"{self.run.path} was trained on images of {taken}, {name} has {given}")
        return []

    def model(self, file: str, images: ImageSet, *, trained: bool = True) -> Any:
        """A model with its weights, or as it was initialised. Raises ValueError if it does not take the images."""

        def built() -> Any:
            return build(ModelSize(**self.settings["size"]), *self.names[file], images)

        model = built()
        # also before a start is given: for other images it would be that of another model
        load_weights(model, self.run.load_tensors(file), self._path(file))
        return model if trained else built()
