"""Completion scripts know commands, recipes, flags and values."""

import shutil
import subprocess

import pytest

from posattn import cli


def completed(script: str, line: str) -> list[str]:
    """What bash offers for the last word of a line, once the script is sourced."""
    words = line.split(" ")
    code = (
        f"{script}\nCOMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); COMP_CWORD={len(words) - 1}\n"
        "$(complete -p posattn | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash"], input=code, capture_output=True, text=True, check=True)
    return done.stdout.split()


def completion(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match=r"^$"):
        cli.main(["completion", shell])
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_recipes_flags_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    script = completion("bash", capsys)
    assert completed(script, "posattn re") == ["report"]
    assert {"run", "inspect", "bench", "list"} <= set(completed(script, "posattn "))
    assert completed(script, "posattn run images-c") == [
        "images-cifar10",
        "images-cifar10-long",
        "images-cifar100",
        "images-cifar100-long",
    ]
    assert set(completed(script, "posattn run images --train.ep")) == {"--train.epochs"}
    assert "--resume" in completed(script, "posattn run demo --smoke --")
    assert completed(script, "posattn bench --dtypes b") == ["bfloat16"]
    assert "--images" in completed(script, "posattn inspect --")


def test_zsh_completion_knows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    script = completion("zsh", capsys)
    assert script.startswith("#compdef posattn")
    assert all(word in script for word in ("images-cifar10-long", "--train.epochs", "bfloat16"))
