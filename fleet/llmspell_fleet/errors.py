"""What the fleet refuses or cannot do, each with the HTTP status that says so."""

import errno

from llmspell_fleet.model.kernel import Death
from llmspell_kernel.errors import LlmspellError, MisuseError, RefusedError


class FleetError(LlmspellError):
    """A request that is not fulfilled; `str(error)` says what was expected, what was found and what to do."""

    status = 500
    title = "Internal error"
    retry_after_s: float | None = None


class BadRequestError(FleetError, MisuseError):
    """The request cannot be meant."""

    status = 400
    title = "Bad request"


class UnauthorizedError(FleetError, RefusedError):
    """No token, or one that nobody has."""

    status = 401
    title = "Unauthorized"


class ForbiddenError(FleetError, RefusedError):
    """A token that does not reach this far."""

    status = 403
    title = "Forbidden"


class NotFoundError(FleetError):
    """There is no such thing, or it is not the caller's to know."""

    status = 404
    title = "Not found"


class ConflictError(FleetError, RefusedError):
    """It exists already, or is in a state that does not allow this."""

    status = 409
    title = "Conflict"


class GoneError(FleetError):
    """It was there, and has ended for good."""

    status = 410
    title = "Gone"

    def __init__(self, message: str, death: Death | None) -> None:
        super().__init__(message)
        self.death = death


class TooLargeError(FleetError):
    """What was sent is larger than is taken: a body, or code for its kernel's largest message."""

    status = 413
    title = "Content too large"


class TooManyError(FleetError):
    """A limit is reached."""

    status = 429
    title = "Too many requests"

    def __init__(self, message: str, *, retry_after_s: float, limit: str = "") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.limit = limit
        """Which one, by its name."""


class UnavailableError(FleetError):
    """There is nobody to do it right now."""

    status = 503
    title = "Service unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def is_own_shortage(fault: OSError) -> bool:
    """Whether this process or the machine lacks something for the moment: no kernel is to pay for it."""
    return fault.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class StoreError(UnavailableError):
    """What must be recorded before it is done cannot be recorded, so it is not done."""


class KernelDiedError(FleetError):
    """The kernel died while it ran the request; it is not run again."""

    status = 502
    title = "Kernel died"

    def __init__(self, message: str, death: Death) -> None:
        super().__init__(message)
        self.death = death


class OutcomeUnknownError(FleetError):
    """Nobody knows what became of an execution: the controller ended while it ran, or its kernel answered nonsense."""

    status = 502
    title = "Outcome unknown"
