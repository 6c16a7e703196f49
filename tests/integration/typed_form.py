"""Compare JSON with a typed form (TypedDict): its fields, and the types of their values."""

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict


def check_form(value, form, where):
    """Assert that a value has every field that its form requires, no other, and the right types."""
    if get_origin(form) in (Union, UnionType):
        form = choose_arm(value, get_args(form))
    kind = dict if is_typeddict(form) else get_origin(form) or form
    # A float without a fraction may be written as an integer.
    assert kind is Any or type(value) in ((int, float) if kind is float else (kind,)), where
    if is_typeddict(form):
        fields = get_type_hints(form)
        assert form.__required_keys__ <= value.keys() <= fields.keys(), where
        for name, part in value.items():
            check_form(part, fields[name], f"{where}.{name}")
    elif kind in (list, dict):
        for name, part in value.items() if kind is dict else enumerate(value):
            check_form(part, get_args(form)[-1], f"{where}.{name}")


def choose_arm(value, arms):
    """Choose the alternative of a union that has the type of a value."""
    if value is None:
        return NoneType
    kinds = {arm: dict if is_typeddict(arm) else get_origin(arm) or arm for arm in arms}
    return next((arm for arm, kind in kinds.items() if type(value) is kind), arms[0])


def form_fields(form, prefix=""):
    """List the fields of a form, with `[]` for entries of a list and `*` for names of the data."""
    arms = [arm for arm in get_args(form) if arm is not NoneType]
    if get_origin(form) in (Union, UnionType):
        return form_fields(arms[0], prefix) if len(arms) == 1 else [prefix]
    if is_typeddict(form):
        return [
            name
            for key, part in get_type_hints(form).items()
            for name in form_fields(part, f"{prefix}.{key}" if prefix else key)
        ]
    if get_origin(form) is list:
        return form_fields(arms[0], f"{prefix}[]")
    if get_origin(form) is dict and arms[1] is not Any:
        return form_fields(arms[1], f"{prefix}.*")
    return [prefix]
