"""multilingual-e5-small out of its 4-bit container, in torch, with a low-rank difference on its matrices."""

import math
import struct

import numpy
import torch
import torch.nn.functional as F
from torch import nn

MATRICES = ("q", "k", "v", "ao", "fi", "fo")


class Container:
    """The file that `src/embed/container.rs` describes."""

    def __init__(self, path):
        self.bytes = open(path, "rb").read()
        self.at = 4
        assert self.bytes[:4] == b"E5S1" and self.number("I") == 1, "no e5 container of version 1"
        names = ("hidden", "layers", "heads", "ffn", "vocab", "positions", "types")
        self.shape = {name: self.number("i") for name in names}
        self.eps = self.number("f")
        assert self.number("i") == 32
        pieces = self.number("i")
        self.at += 16
        blob = self.number("Q")
        self.at += (pieces + 1) * 4 + pieces * 4 + blob + 4
        normaliser = self.number("I")
        self.at += normaliser
        self.entries = {}
        for _ in range(self.number("i")):
            length = self.number("H")
            name = self.bytes[self.at : self.at + length].decode()
            self.at += length
            kind, values, offset, size = (self.number(code) for code in "BIQQ")
            self.entries[name] = (kind, values, offset, size)

    def number(self, code):
        size = struct.calcsize("<" + code)
        (value,) = struct.unpack("<" + code, self.bytes[self.at : self.at + size])
        self.at += size
        return value

    def tensor(self, name, *shape):
        kind, values, offset, size = self.entries[name]
        raw = numpy.frombuffer(self.bytes, numpy.uint8, size, offset)
        if kind == 0:
            decoded = raw.view(numpy.float32).copy()
        else:
            blocks = raw.reshape(-1, 18)
            scales = blocks[:, :2].copy().view(numpy.float16).astype(numpy.float32)
            packed = blocks[:, 2:]
            nibbles = numpy.concatenate([packed & 15, packed >> 4], 1).astype(numpy.float32)
            decoded = ((nibbles - 8) * scales).reshape(-1)
        return torch.from_numpy(decoded[:values]).reshape(*shape)


class Linear(nn.Module):
    """`(weight + up down * scale) x + bias`: weight and bias stay as they are, up and down are learnt where there is a rank."""

    def __init__(self, weight, bias, rank, scale):
        super().__init__()
        self.register_buffer("weight", weight.bfloat16())
        self.register_buffer("bias", bias.bfloat16())
        self.scale = scale
        outputs, inputs = weight.shape
        self.down = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs)) if rank else None
        self.up = nn.Parameter(torch.zeros(outputs, rank)) if rank else None

    def forward(self, x):
        # Added to the weight, not to what comes out: there are more numbers in a batch than in a matrix.
        weight = self.weight + (self.up @ self.down * self.scale).bfloat16() if self.up is not None else self.weight
        return F.linear(x, weight, self.bias)


class Layer(nn.Module):
    def __init__(self, container, index, rank, scale):
        super().__init__()
        hidden, ffn = container.shape["hidden"], container.shape["ffn"]
        self.heads, self.eps = container.shape["heads"], container.eps
        sizes = {"fi": (ffn, hidden), "fo": (hidden, ffn)}
        for name in MATRICES:
            size = sizes.get(name, (hidden, hidden))
            weight = container.tensor(f"l{index}.{name}.w", *size)
            setattr(self, name, Linear(weight, container.tensor(f"l{index}.{name}.b", size[0]), rank, scale))
        for name in ("aln", "oln"):
            for part in ("w", "b"):
                self.register_buffer(f"{name}_{part}", container.tensor(f"l{index}.{name}.{part}", hidden).bfloat16())

    def forward(self, x, mask):
        batch, length, width = x.shape
        split = lambda y: y.view(batch, length, self.heads, -1).transpose(1, 2)
        attended = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), attn_mask=mask)
        attended = self.ao(attended.transpose(1, 2).reshape(batch, length, width))
        x = F.layer_norm(x + attended, (width,), self.aln_w, self.aln_b, self.eps)
        return F.layer_norm(x + self.fo(F.gelu(self.fi(x))), (width,), self.oln_w, self.oln_b, self.eps)


class Encoder(nn.Module):
    """The first `frozen` layers stay as they are: what they make of a text can be kept."""

    def __init__(self, path, rank=16, scale=2.0, frozen=6):
        super().__init__()
        container = Container(path)
        shape = container.shape
        self.hidden, self.frozen, self.ffn = shape["hidden"], frozen, shape["ffn"]
        self.register_buffer("words", container.tensor("emb.word", shape["vocab"], self.hidden).bfloat16())
        self.register_buffer("positions", container.tensor("emb.pos", shape["positions"], self.hidden))
        self.register_buffer("kind", container.tensor("emb.type", shape["types"], self.hidden)[0])
        self.register_buffer("ln_w", container.tensor("emb.ln.w", self.hidden))
        self.register_buffer("ln_b", container.tensor("emb.ln.b", self.hidden))
        self.eps = container.eps
        ranks = [rank if index >= frozen else 0 for index in range(shape["layers"])]
        self.layers = nn.ModuleList(Layer(container, index, rank, scale) for index, rank in enumerate(ranks))

    def lower(self, ids, lengths):
        """`[texts, longest, hidden]` of padded token ids `[texts, longest]`, after the layers that do not learn."""
        with torch.no_grad():
            longest = ids.shape[1]
            x = F.embedding(ids, self.words).float() + self.positions[:longest] + self.kind
            x = F.layer_norm(x, (self.hidden,), self.ln_w, self.ln_b, self.eps).bfloat16()
            mask = inside(longest, lengths)
            for layer in self.layers[: self.frozen]:
                x = layer(x, mask)
            return x

    def upper(self, x, lengths):
        """Unit vectors."""
        mask = inside(x.shape[1], lengths)
        for layer in self.layers[self.frozen :]:
            x = layer(x, mask)
        pooled = (x.float() * mask[:, 0, 0, :, None]).sum(1) / lengths[:, None]
        return F.normalize(pooled, dim=1)

    def forward(self, ids, lengths):
        return self.upper(self.lower(ids, lengths), lengths)


def inside(longest, lengths):
    return (torch.arange(longest)[None, :] < lengths[:, None])[:, None, None, :]
