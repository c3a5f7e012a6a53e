"""The frontier of quality against speed, and the accuracy of nearest neighbours in a bank."""

from itertools import product
from pathlib import Path

import pytest
import timm
import torch
from layouts import write_unlike_splits
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms.v2.functional import to_pil_image

import posattn
from posattn.bench.frontier import frontier, main
from posattn.bench.merging import merge_tokens
from posattn.bench.neighbours import accuracy, features, neighbours_right, part_of
from posattn.vision.data.images import ImageSet

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--rounds 1", "--rounds must be at least 2, got 1"),
        ("--r 8 8", "--r must not repeat a value"),
        ("--r 0", "--r must be at least 1, got 0"),
        ("--limit 6", "--limit must be at least 7 for 5 nearest neighbours, got 6"),
        ("--threads 0", "--threads must be at least 1, got 0"),
        ("--image-size 0", "--image-size must be at least 1, got 0"),
        ("--bank 9", r"--bank is for a labelled set \(--labelled\), got 9"),
        ("--labelled . --data-dir elsewhere", r"--data-dir is not for \., .* got 'elsewhere'"),
        ("--checkpoint nowhere.pt", "there is no checkpoint nowhere.pt"),
    ],
)
def test_settings_out_of_their_bounds(given: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(f"vit_tiny_patch16_224 --images nowhere {given}".split())


def test_the_frontier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    batches = [torch.randn(6, 3, 32, 32) for _ in range(2)]
    found = frontier({"original": vit, "merging": merge_tokens(vit, 4)}, batches, (1, 3, 32, 32), 2, 3)
    assert found["original"].losses["cosine"].mean == pytest.approx(1, abs=1e-6)
    assert found["original"].losses["neighbours"].mean == 1
    assert found["original"].speedup.median == 1
    assert found["merging"].losses["cosine"].mean < 0.9999
    for i in range(9):
        Image.effect_noise((40, 40), 40 + i).convert("RGB").save(tmp_path / f"{i}.png")
    whole = timm.create_model("vit_tiny_patch16_224")
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    whole.set_input_size(img_size=32)
    posattn.save(posattn.to_positional(whole, torch.randn(2, 3, 32, 32)), tmp_path / "converted")
    main(
        f"vit_tiny_patch16_224 --images {tmp_path} --checkpoint {tmp_path / 'vit.pth'} --image-size 32 --r 1 "
        f"--converted {tmp_path / 'converted'} --rounds 2 --nearest 3".split()
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["original", "merging, r = 1"]
    assert len(lines) == 4
    with pytest.raises(SystemExit, match=r"converted takes \(32, 32\), the original \(48, 48\)"):
        main(
            f"vit_tiny_patch16_224 --images {tmp_path} --checkpoint {tmp_path / 'vit.pth'} --image-size 48 "
            f"--converted {tmp_path / 'converted'}".split()
        )


def test_neighbours_vote_as_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, found = torch.randn(60, 5, generator=generator), torch.randn(40, 5, generator=generator)
    labels = torch.randint(4, (100,), generator=generator)
    right = neighbours_right(found, labels[60:], bank, labels[:60], 7)
    model = KNeighborsClassifier(7, metric="cosine", weights=lambda distance: 1 - distance)
    wanted = model.fit(bank, labels[:60]).predict(found) == labels[60:].numpy()
    assert 5 < right.sum() < 35
    assert right.tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accuracy_with_a_bank_of_the_tested_images_is_perfect(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL).to(dtype).eval()
    images = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8)  # half of the model's size
    held = ImageSet("noise", images, torch.arange(20) % 5, tuple("abcde"))
    assert accuracy(vit, held, held, 1, dtype).all()
    assert part_of(held, 6).images.equal(part_of(held, 6).images)
    assert len(part_of(held, None)) == len(part_of(held, 99)) == 20
    with pytest.raises(ValueError, match="21 nearest neighbours need as many images in the bank, got 20"):
        accuracy(vit, held, held, 21, dtype)


def test_labelled_pictures_are_cropped_by_the_data_config() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    images, seen = torch.randint(256, (3, 3, 40, 60), dtype=torch.uint8), []
    vit.patch_embed.register_forward_pre_hook(lambda model, given: seen.append(given[0]))
    features(vit, ImageSet("noise", images, torch.arange(3), tuple("abc")), torch.float32, "")
    transform = create_transform(**{**resolve_model_data_config(vit), "input_size": seen[0].shape[1:]})
    expected = torch.stack([transform(to_pil_image(image)) for image in images])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


def test_the_frontier_with_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
    pictures = tmp_path / "pictures"
    for split, (name, colour) in product(("train", "test"), {"red": 0, "blue": 2}.items()):
        (pictures / split / name).mkdir(parents=True)
        for i in range(4):
            shade = [20 + i, 20 + i, 20 + i]
            shade[colour] = 220
            Image.new("RGB", (32, 32), tuple(shade)).save(pictures / split / name / f"{i}.png")
    given = (
        f"vit_tiny_patch16_224 --images {pictures} --checkpoint {tmp_path / 'vit.pth'} --image-size 32 --r 1 "
    )
    given += "--rounds 2 --nearest 3 --dtype bfloat16"
    main(f"{given} --labelled {pictures} --tested 6".split())
    header, original, merging = capsys.readouterr().out.splitlines()[-3:]
    assert header.split()[3:5] == ["accuracy", "lost"]
    for line in (original, merging):
        assert "1.0000 ± 0.0000   0.0000 ± 0.0000" in line  # red and blue pictures are told apart
    with pytest.raises(SystemExit, match="digits has 1 channels, the model takes 3"):
        main(f"{given} --labelled digits".split())
    with pytest.raises(SystemExit, match=r"holds 4 pictures: 3 nearest neighbours need at least 5"):
        main(
            f"{given} --images {pictures / 'train' / 'red'} --labelled digits".split()
        )  # before the set is read
    write_unlike_splits(unlike := tmp_path / "unlike")
    with pytest.raises(SystemExit, match="have not the same classes; only in the train split of"):
        main(f"{given} --labelled {unlike}".split())
