"""tyro's parser, with usage errors as exceptions of one plain line instead of a drawn box."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro
from tyro import _errors as errors  # tyro's hook for parse errors, which it does not yet count as public
from tyro import conf

CONFIG = (
    conf.FlagCreatePairsOff,
    conf.HelptextFromCommentsOff,  # docstrings below fields are help, comments are for readers of the code
    conf.OmitSubcommandPrefixes,
    conf.PositionalMetavarFromFieldName,
)


def parse_arguments(form: Any, arguments: Sequence[str], description: str) -> Any:
    """The instance of ``form`` given by the arguments.

    Raises ValueError naming a wrong flag and its value, SystemExit for help or a completion script, which tyro prints.
    """
    with errors.on_parse_error(reject):
        return tyro.cli(form, prog="posattn", description=description, args=arguments, config=CONFIG)


def reject(event: errors.ParseErrorEvent) -> NoReturn:
    """Raise what is wrong as a ValueError."""
    message = next((say(event) for kind, say in MESSAGES.items() if isinstance(event, kind)), "bad usage")
    raise ValueError(message)


def unrecognized(tokens: Sequence[str]) -> str:
    return f"unrecognized arguments: {' '.join(tokens)}"


def invalid_choice(event: Any) -> str:
    choices = list(event.choices)
    if "None" in choices:  # of an optional setting: the default is no choice, and the others have no order
        choices = sorted({*choices} - {"None"})
    return f"{flag(event.argument)} must be one of {', '.join(choices)}, got {event.value!r}"


def bad_value(event: Any) -> str:
    if event.offending_value is not None:
        return f"{flag(event.argument)} does not accept {event.offending_value!r}"
    return f"{flag(event.argument)} needs a value"


def missing(event: Any) -> str:
    message = f"missing {', '.join(flag(each.arg) for each in event.missing_arguments)}"
    return "; ".join(
        [message, unrecognized(event.unrecognized_tokens)] if event.unrecognized_tokens else [message]
    )


def missing_subcommand(event: Any) -> str:
    return f"expected one of {', '.join(event.subcommand_spec.parser_from_name)}"


def not_accepted(event: Any) -> str:
    message = event.message.split(".  Got errors")[0]  # of every member of a union, in tyro's types
    return f"{flag(event.argument)}: {message}" if event.argument is not None else message


def flag(argument: Any) -> str:
    """The name of an argument for users: its flag, or in capitals the name of a positional one."""
    return (
        str(argument.lowered.metavar).strip("[]")
        if argument.is_positional()
        else argument.lowered.name_or_flags[0]
    )


MESSAGES: dict[type, Callable[[Any], str]] = {
    errors.UnrecognizedArgs: lambda event: unrecognized(event.tokens),
    errors.InvalidChoice: invalid_choice,
    errors.BadValue: bad_value,
    errors.MissingArgs: missing,
    errors.MissingSubcommand: missing_subcommand,
    errors.InstantiationFailure: not_accepted,
}
