"""Pickles as data. A pickle is a program that may call anything; this reads the few opcodes and names that checkpoints
of networks consist of, and refuses all else by name. Nothing of a file is imported, called or compiled.

Objects of EDM's and StyleGAN's `persistence` come with the source text of their class, which their own loader executes.
Here they stay what the file says of them: a class name and a state.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.interop.numpy_values import NumpyArray, NumpyType, array, number, type_named
from denoisezoo.interop.storages import Storage, read_storage, strided

MOST_OPCODES = 5_000_000
"""A snapshot of EDM has 48,070."""
MOST_MODULES = 20_000
"""One that contains itself would be walked without end."""
PERSISTENCE_VERSION = 6


class PickleRefused(Exception):  # noqa: N818
    """Why a pickle is not read, without its file."""


@dataclass
class Thing:
    """An object of the file: what it says of itself, and nothing that could be run.

    Attributes:
        kind: Name of its class.
        state: Its attributes.
    """

    kind: str
    state: dict[str, Any] = field(default_factory=dict)

    def named(self, kind: str) -> Mapping[str, Any]:
        """A dictionary of its state, such as "_parameters"; empty where there is none."""
        found = self.state.get(kind)
        return found if isinstance(found, dict) else {}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers of a module and of those within, by name.

        Raises:
            PickleRefused: It is nested without end.
        """
        waiting = [("", self)]
        for _ in range(MOST_MODULES):
            if not waiting:
                return
            prefix, module = waiting.pop()
            for name, value in [*module.named("_parameters").items(), *module.named("_buffers").items()]:
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
            inner = [(f"{prefix}{name}.", m) for name, m in module.named("_modules").items() if isinstance(m, Thing)]
            waiting += reversed(inner)
        raise PickleRefused(f"it holds more than {MOST_MODULES:,} modules")


@dataclass(frozen=True)
class _Name:
    """A global that a pickle names."""

    text: str


def _persistent(meta: Any) -> Thing:
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
        raise PickleRefused("it holds a persistent object of another layout")
    version, kind = meta.get("version"), meta.get("class_name")
    if version != PERSISTENCE_VERSION:
        found = f"{version:d}" if type(version) is int else "an unknown version"
        raise PickleRefused(f"its persistence layout is of version {found}, and {PERSISTENCE_VERSION} is known")
    if not isinstance(kind, str):
        raise PickleRefused("it holds a persistent object without a class")
    return Thing(kind, meta["state"])


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return _pairs([part for key, value in items for part in (key, value)])


def _set(items: Any = ()) -> set[Any]:
    return set(map(_key, items))


def _key(value: Any) -> Any:
    """A key of a dictionary: text or a number, since to hash tuples within tuples may take for ever; a name as text."""
    if isinstance(value, _Name):
        return value.text
    if not isinstance(value, str | int | float | None):
        raise PickleRefused("it holds a key that is neither text nor number")
    return value


def _parameter(data: Any, *rest: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise PickleRefused("it holds a parameter that is no tensor")
    return data


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise PickleRefused("it holds a tensor without a storage")
    return strided(storage, offset, size, stride)


def _nested(data: Any) -> Storage:
    """A storage that torch has pickled within the pickle."""
    if not isinstance(data, bytes):
        raise PickleRefused("it holds a storage that is no bytes")
    return read_storage(data, read_pickles)


CALLS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "collections.OrderedDict": _ordered,
    "dnnlib.util.EasyDict": _ordered,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _nested,
    "numpy.core.multiarray.scalar": number,
    "numpy._core.multiarray.scalar": number,
    "numpy.core.multiarray._reconstruct": array,
    "numpy._core.multiarray._reconstruct": array,
    "numpy.dtype": type_named,
    "builtins.set": _set,
    "torch.Size": tuple,
}
"""What a pickle may ask for by name -> what we make of its arguments. None of these runs anything of the file."""
MODULES = {
    "torch.nn.modules.container.ModuleDict": "ModuleDict",
    "torch.nn.modules.container.ModuleList": "ModuleList",
    "torch.nn.modules.container.Sequential": "Sequential",
}
"""Classes of torch whose objects are read as a `Thing`."""


INERT = {"numpy.ndarray", "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"}
"""Names that a file may mention, and that nobody calls."""


class _Reader:
    """The machine that a pickle is a program for, with a table instead of an import and a call."""

    def __init__(
        self, persistent: Callable[[Any], Any] | None, names: Mapping[str, Any], opaque: tuple[str, ...]
    ) -> None:
        self.persistent, self.names, self.opaque = persistent, names, opaque
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: io.BytesIO) -> Any:
        """Read one pickle, up to its end.

        Raises:
            PickleRefused: It asks for something else, or is damaged.
        """
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if number > MOST_OPCODES:
                    raise PickleRefused(f"it has more than {MOST_OPCODES:,} opcodes")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, argument)
        except PickleRefused:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise PickleRefused(f"it is damaged or no pickle ({reason:.80})") from error
        raise PickleRefused("it is damaged or no pickle (it has no end)")

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        stack = self.stack
        if name in _PUSH:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in {"PROTO", "FRAME"}:
            pass
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in {"PUT", "BINPUT", "LONG_BINPUT"}:
            self.memo[argument] = stack[-1]
        elif name in {"GET", "BINGET", "LONG_BINGET"}:
            stack.append(self.memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
        elif name in {"TUPLE", "LIST", "FROZENSET"}:
            items = self.marked()
            stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else _set(items))
        elif name == "DICT":
            stack.append(_pairs(self.marked()))
        elif name in {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}:
            self.extend(name)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in {"GLOBAL", "STACK_GLOBAL"}:
            self.look_up(name, argument)
        elif name in {"REDUCE", "NEWOBJ"}:
            arguments, wanted = stack.pop(), stack.pop()
            stack.append(self.make(wanted, arguments))
        elif name == "BUILD":
            self.build()
        elif name in {"BINPERSID", "PERSID"} and self.persistent is not None:
            stack.append(self.persistent(stack.pop() if name == "BINPERSID" else argument))
        else:
            raise PickleRefused(f"it uses the opcode {name}")

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def extend(self, name: str) -> None:
        """Put into a list, dictionary or set what lies above it."""
        if name in {"APPEND", "SETITEM"}:
            count = 1 if name == "APPEND" else 2
            items = self.stack[len(self.stack) - count :]
            del self.stack[len(self.stack) - count :]
        else:
            items = self.marked()
        whole = self.stack[-1]
        if name in {"APPEND", "APPENDS"} and isinstance(whole, list):
            whole.extend(items)
        elif name in {"SETITEM", "SETITEMS"} and isinstance(whole, dict):
            whole.update(_pairs(items))
        elif isinstance(whole, Thing) and name in {"SETITEM", "SETITEMS"}:
            whole.state.update(_pairs(items))
        elif isinstance(whole, Thing) and name in {"APPEND", "APPENDS"}:
            pass
        elif name == "ADDITEMS" and isinstance(whole, set):
            whole.update(map(_key, items))
        else:
            raise PickleRefused(f"it uses {name} on something that takes none")

    def look_up(self, name: str, argument: Any) -> None:
        """Push a name that is known."""
        if name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
        else:
            attribute, module = self.stack.pop(), self.stack.pop()
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise PickleRefused("it asks for something without a name")
        text = f"{module}.{attribute}"
        if not any(text in known for known in (CALLS, MODULES, INERT, self.names)) and not self.is_opaque(text):
            raise PickleRefused(f"it asks for {text:.100}, which could run code")
        self.stack.append(_Name(text))

    def is_opaque(self, text: str) -> bool:
        """Whether a name is one of those whose objects are kept as what the file says of them."""
        return any(text == name or (name.endswith(".") and text.startswith(name)) for name in self.opaque)

    def make(self, wanted: Any, arguments: Any) -> Any:
        """What a known name makes of its arguments."""
        if not isinstance(wanted, _Name) or not isinstance(arguments, tuple):
            raise PickleRefused("it calls something that is no known name")
        if wanted.text in MODULES:
            return Thing(MODULES[wanted.text])
        if wanted.text not in CALLS and self.is_opaque(wanted.text):
            return Thing(wanted.text)
        if wanted.text not in CALLS:
            raise PickleRefused(f"it calls {wanted.text:.100}, which could run code")
        return CALLS[wanted.text](*arguments)

    def build(self) -> None:
        """Give a module its state; those of other objects say nothing that is needed."""
        state, whole = self.stack.pop(), self.stack[-1]
        if isinstance(whole, Thing) and isinstance(state, dict):
            whole.state = state
        elif isinstance(whole, Thing) and self.is_opaque(whole.kind):
            pass
        elif isinstance(whole, NumpyArray):
            whole.fill(state)
        elif isinstance(whole, NumpyType) and isinstance(state, tuple) and state[1:2] == (">",):
            raise PickleRefused("it holds numbers of numpy in big-endian order")
        elif not isinstance(whole, NumpyType | dict):
            raise PickleRefused("it sets the state of something that has none")


_PUSH = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def read_pickles(
    file: io.BytesIO,
    persistent: Callable[[Any], Any] | None = None,
    names: Mapping[str, Any] | None = None,
    opaque: tuple[str, ...] = (),
) -> Any:
    """The object of the next pickle in memory.

    Args:
        file: The bytes, at the pickle's beginning; left at its end.
        persistent: What becomes of a persistent id; None refuses them.
        names: More names that may be mentioned, but not called.
        opaque: More names, or beginnings of names up to a dot, of whose objects a `Thing` is made, and nothing else.

    Raises:
        PickleRefused: It asks for something else than the known names, or is damaged.
    """
    return _Reader(persistent, names or {}, opaque).run(file)


def read_pickle_file(path: Path) -> Any:
    """The object in a file that holds one pickle.

    Raises:
        UserError: It is missing, damaged, or asks for anything but the known names, of which none is run.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}", "give the path of a file") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than the memory", "give a smaller file") from error
    if data[:2] == b"PK":
        raise UserError(f"{path} is a zip, as torch writes them, and no plain pickle", "give the network's snapshot")
    try:
        return read_pickles(io.BytesIO(data))
    except PickleRefused as error:
        raise UserError(f"{path} is refused: {error}", "nothing of it was run; give a file of this format") from error
