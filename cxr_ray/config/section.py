"""What all settings share: immutable sections, read from YAML, changed by `key=value`, told apart by a digest."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ray.errors import ConfigError


class Section(BaseModel):
    """Base of all settings: immutable, and a misspelt key is an error."""

    # An input may be what nobody should see, such as a password in a URL: only `parse` shows any, and chooses.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


_UNSAID = ("missing", "extra_forbidden")  # a key nobody knows may be a secret's

AnySection = TypeVar("AnySection", bound=Section)


def digest_of(value: Any) -> str:
    """Hex SHA-256 of `value` as canonical JSON (sorted keys, no blanks), first 16 digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_password(text: str) -> str:
    """`text` with the user and the password of every address in it, scheme://user:password@host, left out."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def parse(section: type[AnySection], values: dict[str, Any], *, source: str) -> AnySection:
    """Validate `values` as `section`; raises ConfigError naming `source`, the key, the value and what is allowed."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            + ("" if item["type"] in _UNSAID or isinstance(item["input"], dict) else f" (got {item['input']!r})")
            for item in error.errors()
        )
        raise ConfigError(without_password(f"{source} cannot be used: {problems}.")) from error


def load_yaml(section: type[AnySection], path: Path, *, overrides: tuple[str, ...] = ()) -> AnySection:
    """Read `path` as `section`, then apply `key.sub=value` overrides (values are YAML). Raises ConfigError."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration {path} must be a mapping of sections, not {type(values).__name__}.")
    return parse(section, overridden(values, overrides), source=str(path))


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises ConfigError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration {path} is not UTF-8 text; save it as such.") from error
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-99-99 is a ValueError
        raise ConfigError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from error


def overridden(values: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """`values`, changed in place by `key.sub=value` overrides whose values are YAML. Raises ConfigError."""
    for override in overrides:
        _apply(values, override)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key.sub=value` in the freshly read mapping `values`; list items by their number."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, for example optimize.epochs=5, not {override!r}.")
    *parents, last = key.split(".")
    node: Any = values
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ConfigError(f"--set {key} names no place in the configuration.") from error
