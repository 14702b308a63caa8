"""Leaves the text of an exception in memory, where the host reads it after the call has failed.

A detector imports nothing, so it can't log. The module's memory contains, once: the 16 bytes of a mark, the length of the
text (four bytes, little-endian), and the text in UTF-8. Python's own `traceback` opens source files, which a detector does
not have, so the text is put together here.
"""

from types import TracebackType

# As much as the host reads.
_TEXT_MAX = 1024

# The frames that are shown beside the one that raised.
_CALLERS_MAX = 3

# Shown when a call ends without an exception: what asks the system for something can't be caught.
_NOT_PYTHON = (
    "it used something that a detector does not have, such as a clock, a file or the network; "
    "or it returned something that the contract does not allow"
)

_report = bytearray(20 + _TEXT_MAX)
# Written in two parts, since the compiler would leave a copy of the whole mark in memory.
for _at, _part in ((0, b"TICKHOUND"), (9, b"-PANIC\0")):
    _report[_at : _at + len(_part)] = _part


def leave(error: BaseException, skip: str) -> None:
    """Leaves an exception with its file and line. Frames in files of the folder `skip` are not shown."""
    _write(_describe(error, skip))


def _write(text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")[:_TEXT_MAX]
    # A character that is cut in two is left out.
    data = data.decode("utf-8", "ignore").encode("utf-8")
    _report[20 : 20 + len(data)] = data
    _report[16:20] = len(data).to_bytes(4, "little")


def _describe(error: BaseException, skip: str) -> str:
    frames = _frames(error.__traceback__, skip)
    text = f"{frames[0]}: {_message(error)}" if frames else _message(error)
    if len(frames) > 1:
        text += "; called from " + ", ".join(frames[1 : 1 + _CALLERS_MAX])
    if len(frames) > 1 + _CALLERS_MAX:
        text += f" and {len(frames) - 1 - _CALLERS_MAX} more"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and cause is not error:
        frames = _frames(cause.__traceback__, skip)
        text += f"; after {_message(cause)}" + (f" ({frames[0]})" if frames else "")
    return text


def _message(error: BaseException) -> str:
    name = type(error).__name__
    try:
        message = str(error)
    except BaseException:
        message = "its message can't be shown"
    return f"{name}: {message}" if message else name


def _frames(traceback: TracebackType | None, skip: str) -> list[str]:
    """The frames of the author's code, the innermost first."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(skip):
            # componentize-py keeps the files of each folder under a number: `/0/app.py`.
            head, _, rest = code.co_filename.lstrip("/").partition("/")
            file = rest if head.isdigit() and rest else code.co_filename
            frames.append(f"{file}:{traceback.tb_lineno} in {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[::-1]


_write(_NOT_PYTHON)
