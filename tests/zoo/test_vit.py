"""Vision transformers: blocks beside torch's own and ones written by hand, and how every residual begins."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import ChainError, ShapeError
from skipway.zoo.vit import RESIDUALS, Embedding, Heads, block, vit

SMALL = {"image": 32, "patch": 8, "depth": 2, "width": 12, "heads": 3, "num_classes": 5}


def drawn(net):
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net.eval()


def attention(part, x, heads):
    """Attention head by head, from the definition."""
    query, key, value = part["qkv"](x).chunk(3, dim=-1)
    each = x.shape[-1] // heads
    out = []
    for h in range(heads):
        q, k, v = (t[..., h * each : (h + 1) * each] for t in (query, key, value))
        out.append((q @ k.transpose(1, 2) / math.sqrt(each)).softmax(-1) @ v)
    return part["out"](torch.cat(out, -1))


def dense(part, x):
    return part["narrow"](F.gelu(part["wide"].weight @ x.mT + part["wide"].bias[:, None]).mT)


FORMULAS = {
    "pre-norm": lambda s, f, x, n: x + f(s["norm"](x)),
    "post-norm": lambda s, f, x, n: s.shortcuts["input->output"].act(x + f(x)),
    "sandwich": lambda s, f, x, n: x + s["last_norm"](f(s["norm"](x))),
    "deepnorm": lambda s, f, x, n: s.shortcuts["input->output"].act((2 * n) ** 0.25 * x + f(x)),
    "layerscale": lambda s, f, x, n: x + s.shortcuts["input->output"].scale * f(s["norm"](x)),
}


@pytest.mark.parametrize("residual", RESIDUALS)
def test_a_block_is_its_formula(residual):
    made, x = drawn(block(12, 3, residual, depth=7)), torch.randn(2, 5, 12)
    formula = FORMULAS[residual]
    middle = formula(made["attention"], lambda v: attention(made["attention"], v, 3), x, 7)
    expected = formula(made["mlp"], lambda v: dense(made["mlp"], v), middle, 7)
    with torch.no_grad():
        assert torch.allclose(made(x), expected, atol=1e-4)


@pytest.mark.parametrize(("residual", "first"), [("pre-norm", True), ("post-norm", False)])
def test_a_block_is_torchs_encoder_layer(residual, first):
    made, x = drawn(block(12, 3, residual)), torch.randn(2, 5, 12)
    theirs = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", 1e-6, batch_first=True, norm_first=first)
    names = {"qkv": "self_attn.in_proj", "out": "self_attn.out_proj", "wide": "linear1", "narrow": "linear2"}
    state = {}
    for key, value in made.state_dict().items():
        half, _, rest = key.partition(".")
        layer, kind = rest.split(".")[-2:]
        if layer in names:
            name = names[layer]
            state[f"{name}_{kind}" if layer == "qkv" else f"{name}.{kind}"] = value
        else:
            state[f"{'norm1' if half == 'attention' else 'norm2'}.{kind}"] = value
    theirs.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(made(x), theirs(x), atol=1e-4)


def test_heads_of_one_token_give_its_value():
    x = torch.randn(4, 24)
    assert torch.allclose(Heads(2)(x), x[:, 16:], atol=1e-6)
    assert torch.allclose(Heads(2)(x[:, None])[:, 0], x[:, 16:], atol=1e-6)


def test_patches_become_tokens_in_reading_order():
    net, x = vit(**SMALL).eval(), torch.randn(1, 3, 32, 32)
    found = net.features(x, ["patches", "tokens", "embed"])
    assert found["tokens"].shape == (1, 16, 12)
    assert torch.equal(found["tokens"][0, 4 * 2 + 3], found["patches"][0, :, 2, 3])
    place = net["embed"].place[0]
    assert torch.allclose(found["embed"][0, 1:], found["tokens"][0] + place[1:])
    assert torch.allclose(found["embed"][0, 0], place[0] + net["embed"].first[0, 0])


@pytest.mark.parametrize("residual", ["pre-norm", "sandwich", "layerscale"])
def test_without_branches_the_stream_is_the_embedding(residual):
    net, x = vit(**SMALL, residual=residual).eval(), torch.randn(1, 3, 32, 32)
    for part in net["blocks"]:
        for half in part:
            last = half["last_norm"] if residual == "sandwich" else half[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    found = net.features(x, ["embed", "blocks"])
    assert torch.equal(found["embed"], found["blocks"])


@pytest.mark.parametrize("residual", ["post-norm", "deepnorm"])
def test_after_every_block_comes_a_norm(residual):
    net, x = vit(**SMALL, residual=residual).eval(), torch.randn(2, 3, 32, 32)
    out = net.features(x, ["blocks"])["blocks"]
    assert torch.allclose(out.mean(-1), torch.zeros(2, 17), atol=1e-5)
    assert torch.allclose(out.var(-1, unbiased=False), torch.ones(2, 17), atol=1e-2)
    assert "norm" not in dict(net.named_children())


def test_deepnorm_begins_with_its_constants():
    net = vit(**{**SMALL, "width": 96, "depth": 6}, residual="deepnorm")
    assert net["blocks"][0]["mlp"].wiring[0].path_scale == pytest.approx(12**0.25)
    part, beta = net["blocks"][3], 48**-0.25
    query, key, value = part["attention"]["qkv"].weight.chunk(3)
    glorot = math.sqrt(2 / (96 + 96))
    for weight, gain in ((query, 1), (key, 1), (value, beta), (part["attention"]["out"].weight, beta)):
        assert weight.std().item() == pytest.approx(gain * glorot, rel=0.05)
    for weight in (part["mlp"]["wide"].weight, part["mlp"]["narrow"].weight):
        assert weight.std().item() == pytest.approx(beta * math.sqrt(2 / (96 + 384)), rel=0.05)


@pytest.mark.parametrize(("depth", "gamma"), [(2, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6)])
def test_layerscale_begins_smaller_in_deeper_nets(depth, gamma):
    net = vit(**{**SMALL, "depth": depth}, residual="layerscale")
    scale = net["blocks"][depth - 1]["mlp"].shortcuts["input->output"].scale
    assert scale.shape == (12,)
    assert (scale == torch.tensor(gamma)).all()


def test_parameters_of_every_residual():
    counts = {r: sum(p.numel() for p in vit(**SMALL, residual=r).parameters()) for r in RESIDUALS}
    norm, plain = 2 * 12, counts["pre-norm"]
    assert counts["post-norm"] == counts["deepnorm"] == plain - norm
    assert counts["sandwich"] == plain + 4 * norm
    assert counts["layerscale"] == plain + 4 * 12


def test_drop_grows_linearly_with_depth():
    net = vit(**{**SMALL, "depth": 3}, drop=0.2)
    assert [b[half].wiring[0].drop for b in net["blocks"] for half in (0, 1)] == pytest.approx(
        [0, 0, 0.1, 0.1, 0.2, 0.2]
    )


def test_an_image_of_another_size_is_told():
    with pytest.raises((ChainError, ShapeError), match="places for 16 patches, and 25 arrive"):
        vit(**SMALL)(torch.zeros(1, 3, 40, 40))
    assert Embedding(4, 2)(torch.zeros(0, 4, 2)).shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "huge"}, "size= is one of tiny, small, base, large"),
        ({"residual": "prenorm"}, "did you mean 'pre-norm'"),
        ({"patch": 7}, "patch=7 does not divide image=32"),
        ({"heads": 5}, "heads=5 does not divide width=12"),
        ({"scale": 0.1}, 'gamma of residual="layerscale"'),
        ({"drop": 1.0}, "drop must be a probability"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        vit(**{**SMALL, **options})
