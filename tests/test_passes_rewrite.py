"""Graphs before and after, for each class."""

from __future__ import annotations

from typing import Any

import expecttest
import torch
from capture import capture, journal
from torch import Tensor, nn
from torch.nn import functional as F
from torch_sparsedrop.passes import SparseDropPass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 128), nn.Linear(128, 64)
        self.drop1, self.drop2 = nn.Dropout(0.1), nn.Dropout(0.2)


class A(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(self.drop1(x.sin()))


class Shared(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.drop1(x.sin())
        return self.fc1(y), y + x


class B(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop1(F.relu(self.fc1(x))))


class C(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop2(self.fc2(self.fc1(x)))


class BothSides(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))


class Chunked(Net):
    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.fc1(x).chunk(2, -1)
        return F.linear(self.drop1(F.silu(gate) * up), self.fc1.weight)


class Untouched(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.drop1(x).softmax(-1)


def dumps(model: nn.Module, matched: dict[str, int], dynamic: bool | None = None) -> tuple[str, str]:
    graph = capture(model, torch.randn(4, 10, 64), dynamic=dynamic).graph
    run = SparseDropPass(select="all", block=16, keep_dumps=True)
    before = journal(graph)
    run(graph)
    assert run.matched == matched
    assert len(run.dumps) == bool(matched)
    return before, journal(graph)


class TestJournals(expecttest.TestCase):
    def test_a(self) -> None:
        before, after = dumps(A(), {"A": 1})
        self.assertExpectedInline(
            before,
            """\
%sin = .sin(%l_x_,)
%dropout = torch.nn.functional.dropout(%sin, 0.1, True, False)
%linear = torch._C._nn.linear(%dropout, %fc1.weight, %fc1.bias)
return (linear,)
""",
        )
        self.assertExpectedInline(
            after,
            """\
%full_default = aten.full.default([], 0.1), kwargs = {dtype: torch.float32, device: cpu})
%sin = .sin(%l_x_,)
%rand = torch.rand([12],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [3, 4])
%getitem = operator.getitem(%draw_default, 1)
%getitem_1 = operator.getitem(%draw_default, 2)
%linear_default = sparsedrop.linear.default(%sin, %fc1.weight, %fc1.bias, %getitem, %getitem_1, [16, 16], None, None, [], REVISION)
return (linear_default,)
""",
        )

    def test_shared(self) -> None:
        before, after = dumps(Shared(), {"A": 1})
        self.assertExpectedInline(
            before,
            """\
%sin = .sin(%l_x_,)
%y = torch.nn.functional.dropout(%sin, 0.1, True, False)
%linear = torch._C._nn.linear(%y, %fc1.weight, %fc1.bias)
%add = operator.add(%y, %l_x_)
return (linear, add)
""",
        )
        self.assertExpectedInline(
            after,
            """\
%full_default = aten.full.default([], 0.1), kwargs = {dtype: torch.float32, device: cpu})
%sin = .sin(%l_x_,)
%rand = torch.rand([12],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [3, 4])
%getitem = operator.getitem(%draw_default, 1)
%getitem_1 = operator.getitem(%draw_default, 2)
%arange_default = aten.arange.default(40,), kwargs = {device: cpu})
%remainder_scalar = aten.remainder.Scalar(%arange_default, 16)
%sub_tensor = aten.sub.Tensor(%arange_default, %remainder_scalar)
%floor_divide_default = aten.floor_divide.default(%sub_tensor, 16)
%arange_default_1 = aten.arange.default(64,), kwargs = {device: cpu})
%remainder_scalar_1 = aten.remainder.Scalar(%arange_default_1, 16)
%sub_tensor_1 = aten.sub.Tensor(%arange_default_1, %remainder_scalar_1)
%floor_divide_default_1 = aten.floor_divide.default(%sub_tensor_1, 16)
%unsqueeze_default = aten.unsqueeze.default(%floor_divide_default, 1)
%mul_tensor = aten.mul.Tensor(%unsqueeze_default, 4)
%getitem_2 = operator.getitem(%draw_default, 0)
%add_tensor = aten.add.Tensor(%mul_tensor, %floor_divide_default_1)
%index_tensor = aten.index.Tensor(%getitem_2, [%add_tensor])
%view_default = aten.view.default(%index_tensor, [4, 10, 64])
%where_scalar_other = aten.where.ScalarOther(%view_default, %sin, 0.0)
%mul_tensor_1 = aten.mul.Tensor(%where_scalar_other, %getitem_1)
%linear_default = sparsedrop.linear.default(%sin, %fc1.weight, %fc1.bias, %getitem, %getitem_1, [16, 16], None, None, [], REVISION)
%add = operator.add(%mul_tensor_1, %l_x_)
return (linear_default, add)
""",
        )

    def test_b(self) -> None:
        before, after = dumps(B(), {"B": 1})
        self.assertExpectedInline(
            before,
            """\
%linear = torch._C._nn.linear(%l_x_, %fc1.weight, %fc1.bias)
%relu = torch.nn.functional.relu(%linear,)
%dropout = torch.nn.functional.dropout(%relu, 0.1, True, False)
%linear_1 = torch._C._nn.linear(%dropout, %fc2.weight, %fc2.bias)
return (linear_1,)
""",
        )
        self.assertExpectedInline(
            after,
            """\
%full_default_1 = aten.full.default([], 1.0), kwargs = {dtype: torch.float32, device: cpu})
%full_default = aten.full.default([], 0.1), kwargs = {dtype: torch.float32, device: cpu})
%rand = torch.rand([24],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [3, 8])
%getitem = operator.getitem(%draw_default, 1)
%getitem_1 = operator.getitem(%draw_default, 2)
%linear_default = sparsedrop.linear.default(%l_x_, %fc1.weight, %fc1.bias, None, None, [], %getitem, %full_default_1, [16, 16], REVISION)
%relu = torch.nn.functional.relu(%linear_default,)
%linear_default_1 = sparsedrop.linear.default(%relu, %fc2.weight, %fc2.bias, %getitem, %getitem_1, [16, 16], None, None, [], REVISION)
return (linear_default_1,)
""",
        )

    def test_c(self) -> None:
        before, after = dumps(C(), {"C": 1})
        self.assertExpectedInline(
            before,
            """\
%linear = torch._C._nn.linear(%l_x_, %fc1.weight, %fc1.bias)
%linear_1 = torch._C._nn.linear(%linear, %fc2.weight, %fc2.bias)
%dropout = torch.nn.functional.dropout(%linear_1, 0.2, True, False)
%add = operator.add(%l_x_, %dropout)
return (add,)
""",
        )
        self.assertExpectedInline(
            after,
            """\
%full_default = aten.full.default([], 0.2), kwargs = {dtype: torch.float32, device: cpu})
%linear = torch._C._nn.linear(%l_x_, %fc1.weight, %fc1.bias)
%rand = torch.rand([12],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [3, 4])
%getitem = operator.getitem(%draw_default, 1)
%getitem_1 = operator.getitem(%draw_default, 2)
%linear_default = sparsedrop.linear.default(%linear, %fc2.weight, %fc2.bias, None, None, [], %getitem, %getitem_1, [16, 16], REVISION)
%add = operator.add(%l_x_, %linear_default)
return (add,)
""",
        )

    def test_both_sides(self) -> None:
        _, after = dumps(BothSides(), {"B": 1, "C": 1})
        self.assertExpectedInline(
            after,
            """\
%full_default_2 = aten.full.default([], 0.2), kwargs = {dtype: torch.float32, device: cpu})
%full_default_1 = aten.full.default([], 1.0), kwargs = {dtype: torch.float32, device: cpu})
%full_default = aten.full.default([], 0.1), kwargs = {dtype: torch.float32, device: cpu})
%rand = torch.rand([24],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [3, 8])
%getitem = operator.getitem(%draw_default, 1)
%getitem_1 = operator.getitem(%draw_default, 2)
%linear_default = sparsedrop.linear.default(%l_x_, %fc1.weight, %fc1.bias, None, None, [], %getitem, %full_default_1, [16, 16], REVISION)
%gelu = torch._C._nn.gelu(%linear_default,)
%rand_1 = torch.rand([12],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default_1 = sparsedrop.draw.default(%rand_1, %full_default_2, False, [3, 4])
%getitem_2 = operator.getitem(%draw_default_1, 1)
%getitem_3 = operator.getitem(%draw_default_1, 2)
%linear_default_1 = sparsedrop.linear.default(%gelu, %fc2.weight, %fc2.bias, %getitem, %getitem_1, [16, 16], %getitem_2, %getitem_3, [16, 16], REVISION)
%add = operator.add(%l_x_, %linear_default_1)
return (add,)
""",
        )

    def test_chunked(self) -> None:
        _, after = dumps(Chunked(), {"B": 1})
        self.assertExpectedInline(
            after,
            """\
%full_default_1 = aten.full.default([], 1.0), kwargs = {dtype: torch.float32, device: cpu})
%full_default = aten.full.default([], 0.1), kwargs = {dtype: torch.float32, device: cpu})
%rand = torch.rand([12],), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [3, 4])
%getitem_2 = operator.getitem(%draw_default, 1)
%getitem_3 = operator.getitem(%draw_default, 2)
%arange_default = aten.arange.default(24,), kwargs = {device: cpu})
%floor_divide_default = aten.floor_divide.default(%arange_default, 8)
%mul_tensor = aten.mul.Tensor(%floor_divide_default, 4)
%remainder_scalar = aten.remainder.Scalar(%arange_default, 4)
%add_tensor = aten.add.Tensor(%mul_tensor, %remainder_scalar)
%getitem_4 = operator.getitem(%draw_default, 0)
%index_tensor = aten.index.Tensor(%getitem_4, [%add_tensor])
%plan_default = sparsedrop.plan.default(%index_tensor, [3, 8])
%linear_default = sparsedrop.linear.default(%l_x_, %fc1.weight, %fc1.bias, None, None, [], %plan_default, %full_default_1, [16, 16], REVISION)
%chunk = .chunk(%linear_default, 2, -1)
%gate = operator.getitem(%chunk, 0)
%up = operator.getitem(%chunk, 1)
%silu = torch.nn.functional.silu(%gate,)
%mul = operator.mul(%silu, %up)
%linear_default_1 = sparsedrop.linear.default(%mul, %fc1.weight, None, %getitem_2, %getitem_3, [16, 16], None, None, [], REVISION)
return (linear_default_1,)
""",
        )

    def test_dynamic(self) -> None:
        _, after = dumps(A(), {"A": 1}, dynamic=True)
        self.assertExpectedInline(
            after,
            """\
%sin = .sin(%l_x_,)
%item = .item(%l_self_modules_drop1_p,)
%sym_size_int = aten.sym_size.int(%sin, 0)
%sym_size_int_1 = aten.sym_size.int(%sin, 1)
%mul = operator.mul(%sym_size_int, %sym_size_int_1)
%add = operator.add(%mul, 15)
%floordiv = operator.floordiv(%add, 16)
%mul_1 = operator.mul(%floordiv, 4)
%rand = torch.rand([%mul_1],), kwargs = {dtype: torch.float32, device: cpu})
%full_default = aten.full.default([], %item), kwargs = {dtype: torch.float32, device: cpu})
%draw_default = sparsedrop.draw.default(%rand, %full_default, False, [%floordiv, 4])
%getitem = operator.getitem(%draw_default, 1)
%getitem_1 = operator.getitem(%draw_default, 2)
%linear_default = sparsedrop.linear.default(%sin, %fc1.weight, %fc1.bias, %getitem, %getitem_1, [16, 16], None, None, [], REVISION)
return (linear_default,)
""",
        )

    def test_untouched(self) -> None:
        before, after = dumps(Untouched(), {})
        self.assertEqual(before, after)

    def test_second_run_changes_nothing(self) -> None:
        graph = capture(BothSides(), torch.randn(4, 10, 64)).graph
        SparseDropPass(select="all", block=16)(graph)
        once = journal(graph)
        again = SparseDropPass(select="all", block=16)
        again(graph)
        self.assertEqual(journal(graph), once)
        self.assertEqual(again.sites, [])
