"""What the README tells to paste works."""

import importlib
import re

import pytest
from omegaconf import OmegaConf

from attentions.base import Pattern
from cab import ROOT
from cab.check import gate as check
from cab.config import part
from cab.errors import UserError


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The module and the configuration of `Add an attention`."""
    text = (ROOT / "README.md").read_text().partition("## Add an attention")[2]
    (code,), (options, *_) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml"))
    folder = tmp_path_factory.mktemp("readme")
    (folder / "pasted.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("pasted"), OmegaConf.create(options.replace("attentions.mine", "pasted"))


def test_the_attention_passes_where_it_says_so(example):
    module, options = example
    family = part("attention", options)
    assert family.func is module.Mine
    for pattern in family.func.support:
        assert all(finding.passed for finding in check.examine(family, pattern))
    assert list(family.func.support) == [Pattern.CAUSAL_SELF]


@pytest.mark.parametrize(
    ("gain", "words"),
    [("much", "attention.gain='much'"), ("true", "attention.gain=True"), ("null", "attention.gain=None")],
)
def test_its_option_is_checked(example, gain, words):
    options = OmegaConf.merge(example[1], OmegaConf.create(f"gain: {gain}"))
    with pytest.raises(UserError, match=words):
        part("attention", options)


class Untyped:
    def __init__(self, shape, pattern, layer, layers, *, gain):
        pass


class Positional:
    def __init__(self, shape, pattern, layer, layers, gain: float = 1.0):
        pass


@pytest.mark.parametrize(("family", "words"), [("Untyped", "does not say of what type"), ("Positional", "after `\\*`")])
def test_an_option_that_is_none_is_one_line(family, words):
    options = OmegaConf.create({"_target_": f"{__name__}.{family}", "_partial_": True, "gain": 1.0})
    with pytest.raises(UserError, match=f"attention.gain: .*{words}"):
        part("attention", options)
