"""Experiments: which share of the sessions runs under which profile.

    name: capping-november
    salt: any text; another one deals the sessions anew
    arms:
      capped: {profile: default, weight: 9}
      uncapped: {profile: off, weight: 1}
    default: capped
    from: 2026-11-21T00:00:00Z
    to: 2026-12-21T00:00:00Z

A session falls to an arm by u = blake2b(session, keyed with the salt), read as a number in [0, 1): the arms lie behind
one another in the order of the file, each as wide as its weight. Other weights only move the boundaries, and
assignments.py leaves the sessions that have begun where they are.

Randomised are sessions that a client names. A request that chooses a profile runs under that, and one without a session
under the profile of the arm `default`; neither is of the experiment, nor is any outside from and to: their arm is
"none". Everywhere else an arm is called NAME/ARM, so that one experiment's numbers never mix with the next one's.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mooring_axes.artifact import FilePath
from mooring_axes.errors import CannotServe
from mooring_axes.yaml12 import plain_name, read_mapping, worded
from mooring_hooks.table import Settings
from mooring_server.record import NO_ARM, READINGS_VARIABLE, readings_wanted

EXPERIMENT_VARIABLE: Final = "MOORING_EXPERIMENT"
"""Path of the file, where `mooring serve --experiment` named one."""


Name = Annotated[str, AfterValidator(plain_name)]


class Arm(BaseModel):
    """A share of the sessions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    """Selectable, or the server's default."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Relative to the other arms' weights; with 0 no new session comes."""


class Given(NamedTuple):
    """What a request gets."""

    profile: str
    arm: str
    """NAME/ARM, or NO_ARM."""


class Experiment(BaseModel):
    """See the head of this file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    salt: Annotated[str, Field(min_length=1)]
    arms: dict[Name, Arm]
    default: str
    """Name of an arm."""
    begins: AwareDatetime | None = Field(default=None, alias="from")
    ends: AwareDatetime | None = Field(default=None, alias="to")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.arms) < 2:
            raise ValueError("needs two arms at least: what should be compared with what?")
        if sum(arm.weight for arm in self.arms.values()) <= 0:
            raise ValueError("needs a weight above 0")
        if self.default not in self.arms:
            raise ValueError(f"default is {self.default!r}, which is no arm; arms are {', '.join(self.arms)}")
        if self.begins and self.ends and self.begins >= self.ends:
            raise ValueError(f"ends at {self.ends.isoformat()}, before it begins")
        return self

    @classmethod
    def load(cls, path: FilePath) -> "Experiment":
        """Read and check a file; `check_profiles` checks what depends on the server."""
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        data = read_mapping(path, "the experiment", keys)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            faults = "\n  ".join(_fault(entry) for entry in error.errors())
            raise CannotServe(f"{path} holds no experiment that can be run:\n  {faults}") from None

    def check_profiles(self, settings: Settings) -> None:
        """CannotServe for an arm that the server cannot give."""
        can = {*settings.selectable(), settings.default}
        for name, arm in self.arms.items():
            if arm.profile not in can:
                raise CannotServe(
                    f"arm {name!r} of the experiment {self.name!r} runs under profile {arm.profile!r}, which is not "
                    f"selectable\n  choose among {', '.join(sorted(can))}, or make it selectable in the profile file"
                )

    def is_on(self, now: datetime | None = None) -> bool:
        """Whether it is between from and to."""
        now = now or datetime.now(UTC)
        return (self.begins is None or self.begins <= now) and (self.ends is None or now < self.ends)

    @cached_property
    def shares(self) -> dict[str, float]:
        """NAME/ARM -> the share of new sessions, in the order of the file."""
        total = sum(arm.weight for arm in self.arms.values())
        return {self.label(name): arm.weight / total for name, arm in self.arms.items()}

    @cached_property
    def profiles(self) -> dict[str, str]:
        """NAME/ARM -> its profile."""
        return {self.label(name): arm.profile for name, arm in self.arms.items()}

    def label(self, arm: str) -> str:
        return f"{self.name}/{arm}"

    @property
    def prefix(self) -> str:
        """What every label of it begins with."""
        return self.label("")

    @property
    def fallback(self) -> Given:
        """For requests without a session."""
        return Given(self.arms[self.default].profile, NO_ARM)

    def arm_by_hash(self, session: str) -> str:
        """The arm of a session that has not begun yet."""
        place = place_of(self.salt, session)
        bounds = zip(self.shares, self._bounds, strict=True)
        return next(arm for arm, bound in bounds if place < bound)

    @cached_property
    def _bounds(self) -> list[float]:
        shares = list(self.shares.values())
        last = max(i for i, share in enumerate(shares) if share > 0)
        return [1.0 if i >= last else bound for i, bound in enumerate(accumulate(shares))]


def wanted(environment: Mapping[str, str], settings: Settings) -> Experiment | None:
    """The experiment that this server is to run, if any; CannotServe where it cannot."""
    if (path := environment.get(EXPERIMENT_VARIABLE)) is None:
        return None
    experiment = Experiment.load(path)
    experiment.check_profiles(settings)
    if not readings_wanted(environment):
        raise CannotServe(f"{READINGS_VARIABLE}=0 leaves nothing to compare the arms by: unset it, or --experiment")
    return experiment


def place_of(salt: str, session: str) -> float:
    """u of the head of this file."""
    key = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    digest = blake2b(session.encode("utf-8", "surrogatepass"), key=key, digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # as many bits as a double holds: never rounded up to 1


def _fault(entry: Mapping[str, Any]) -> str:
    where = ".".join(map(str, entry["loc"]))
    return f"{where}: {worded(entry)}" if where else worded(entry)
