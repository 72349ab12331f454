"""The parser of XLA's text, loop lengths and replica groups, on snippets written by hand."""

import pytest

from research.plan import hlo, loops, traffic
from research.plan.collectives import collectives, mesh_axes, replica_groups, total_bytes
from research.plan.walk import visits

MESH = {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
GROUPS = "replica_groups={{0,1,2,3},{4,5,6,7}}"
SUM = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}
"""


def entry(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    return hlo.parse(f"HloModule test\n{SUM}{before}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n")


def moved(*lines, before=""):
    return total_bytes(collectives(entry("%p = f32[8,4]{1,0} parameter(0)", *lines, before=before), MESH))


# ---- Text.


def test_shapes_have_bytes_and_memory_spaces():
    arrays = hlo.parse_shape("(bf16[16,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/u32[], pred[5]{0}, u4[3], f8e4m3fn[7]{0})")
    assert [array.num_bytes for array in arrays] == [96, 4, 5, 2, 7]
    assert [array.space for array in arrays] == [1, 0, 0, 0, 0]


def test_an_instruction_is_taken_apart():
    module = entry(
        "%p = (f32[8]{0:T(128)}, /*index=1*/s32[]) parameter(0)",
        '%f.1 = f32[8]{0} fusion(%p, %p), kind=kLoop, calls=%sum, metadata={op_name="jit(f)/(a)" x=1}',
        "ROOT %c = f32[8]{0} conditional(%f.1), branch_computations={%sum, %sum}",
    )
    main = module.computations[module.entry]
    fusion = main.instructions["f.1"]
    assert (fusion.opcode, fusion.operands, fusion.attribute("kind")) == ("fusion", ("p", "p"), "kLoop")
    assert fusion.callees() == {"calls": ["sum"]}
    assert main.root.callees() == {"branch_computations": ["sum", "sum"]}
    assert main.instructions["p"].num_bytes == 36


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")


# ---- Groups of chips and the axes they run along.


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x={1}", [(0, 1), (2, 3)]),
        ("replica_groups={}, x={1}", [(0, 1, 2, 3)]),
        ("replica_groups=[2,2]<=[4], x", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [(0, 1), (2, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x", [(0, 1, 2, 3)]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [(0, 1), (2, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [(0, 2), (1, 3)]),
    ],
)
def test_groups_in_every_notation(text, groups):
    assert replica_groups(text, 4) == groups


def test_groups_lie_along_mesh_axes():
    assert mesh_axes([(0, 1, 2, 3), (4, 5, 6, 7)], MESH) == ("fsdp",)
    assert mesh_axes([(0, 4), (1, 5)], MESH) == ("data",)
    assert mesh_axes([tuple(range(8))], MESH) == ("data", "fsdp")
    assert mesh_axes([(0,), (1,)], MESH) == ()


# ---- Bytes of each kind; the input has 8 x 4 x 4 bytes and the groups 4 members.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"%x = f32[32,4]{{1,0}} all-gather(%p), channel_id=1, {GROUPS}, dimensions={{0}}", {"all-gather": 128 * 3}),
        (f"%x = f32[8,4]{{1,0}} all-reduce(%p), {GROUPS}, to_apply=%sum", {"all-reduce": 2 * 128 * 3 // 4}),
        (f"%x = f32[2,4]{{1,0}} reduce-scatter(%p), {GROUPS}, to_apply=%sum", {"reduce-scatter": 128 * 3 // 4}),
        (f"%x = f32[8,4]{{1,0}} all-to-all(%p), {GROUPS}", {"all-to-all": 128 * 3 // 4}),
        ("%x = f32[8,4]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}", {"collective-permute": 128}),
        (f"%x = (f32[8,4], f32[32,4]) all-gather-start(%p), {GROUPS}", {"all-gather": 128 * 3}),
        ("%x = f32[8,4]{1,0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%sum", {}),
    ],
)
def test_bytes_that_a_chip_receives(line, expected):
    assert moved(line) == expected


def test_a_channel_counts_once_however_many_fusions_repeat_it():
    fused = "".join(
        f"""
%fused.{index} (q: f32[8,4]) -> f32[32,4] {{
  %q = f32[8,4]{{1,0}} parameter(0)
  ROOT %gather.{index} = f32[32,4]{{1,0}} all-gather(%q), channel_id=7, {GROUPS}
}}
"""
        for index in range(3)
    )
    calls = [f"%f{index} = f32[32,4]{{1,0}} fusion(%p), calls=%fused.{index}" for index in range(3)]
    assert moved(*calls, before=fused) == {"all-gather": 128 * 3}


def test_an_all_reduce_that_is_scattered_moves_half():
    fused = f"""
%all-reduce-scatter.1 (q: f32[8,4]) -> f32[2,4] {{
  %q = f32[8,4]{{1,0}} parameter(0)
  %r = f32[8,4]{{1,0}} all-reduce(%q), channel_id=1, {GROUPS}, to_apply=%sum
  ROOT %s = f32[2,4]{{1,0}} dynamic-slice(%r), dynamic_slice_sizes={{2,4}}
}}
"""
    call = "{0} = f32[2,4]{{1,0}} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1"
    assert moved(call.format("%a"), call.format("%b"), before=fused) == {"reduce-scatter": 2 * 128 * 3 // 4}


def test_the_most_expensive_branch_of_a_conditional_counts():
    branch = """
%{0} (q: f32[8,4]) -> f32[{1},4] {{
  %q = f32[8,4]{{1,0}} parameter(0)
  ROOT %g.{0} = f32[{1},4]{{1,0}} {2}
}}
"""
    gather = f"all-gather(%q), channel_id=3, {GROUPS}"
    both = branch.format("none", 8, "copy(%q)") + branch.format("some", 32, gather)
    line = "%c = f32[32,4]{1,0} conditional(%p, %p, %p), branch_computations={%none, %some}"
    assert moved(line, before=both) == {"all-gather": 128 * 3}


# ---- Loops.


def loop(start="0", step="1", limit="24", direction="LT", counter="%i", inner="", indirect=False):
    """A loop over (counter, limit, array) that gathers once a trip; the limit is a constant or handed around."""
    bound = "get-tuple-element(%t), index=1" if indirect else f"constant({limit})"
    return f"""
%step.1 (s: s32[]) -> s32[] {{
  %s = s32[] parameter(0)
  %by = s32[] constant({step})
  ROOT %next = s32[] add(%s, %by)
}}

%body (t: (s32[], s32[], f32[8,4])) -> (s32[], s32[], f32[8,4]) {{
  %t = (s32[], s32[], f32[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] get-tuple-element(%t), index=1
  %x = f32[8,4]{{1,0}} get-tuple-element(%t), index=2
  %j = s32[] fusion({counter}), kind=kLoop, calls=%step.1
  %g = f32[32,4]{{1,0}} all-gather(%x), channel_id=1, {GROUPS}{inner}
  ROOT %r = (s32[], s32[], f32[8,4]) tuple(%j, %n, %x)
}}

%condition (t: (s32[], s32[], f32[8,4])) -> pred[] {{
  %t = (s32[], s32[], f32[8,4]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] {bound}
  ROOT %less = pred[] compare(%i, %n), direction={direction}
}}
"""


def run(start="0", limit="24"):
    return (
        f"%zero = s32[] constant({start})",
        f"%limit = s32[] constant({limit})",
        "%init = (s32[], s32[], f32[8,4]) tuple(%zero, %limit, %p)",
        "%w = (s32[], s32[], f32[8,4]) while(%init), condition=%condition, body=%body",
    )


@pytest.mark.parametrize(
    ("start", "step", "limit", "direction", "trips"),
    [
        ("0", "1", "24", "LT", 24),
        ("0", "2", "8", "LT", 4),
        ("0", "2", "7", "LT", 4),
        ("3", "1", "24", "LE", 22),
        ("23", "-1", "0", "GE", 24),
        ("0", "1", "5", "NE", 5),
        ("9", "1", "5", "LT", 0),
    ],
)
@pytest.mark.parametrize("indirect", [False, True])
def test_a_loop_runs_from_start_to_limit(start, step, limit, direction, trips, indirect):
    text = loop(step=step, limit=limit, direction=direction, indirect=indirect)
    expected = {"all-gather": 128 * 3 * trips}
    assert moved(*run(start, limit), before=text) == expected


def test_a_loop_in_a_loop_multiplies():
    outer = loop(limit="3").replace("%body", "%outer").replace("%condition", "%until").replace("%step.1", "%step.2")
    again = "\n  %w = (s32[], s32[], f32[8,4]) while(%t2), condition=%condition, body=%body"
    start = "%zero = s32[] constant(0)\n  %t2 = (s32[], s32[], f32[8,4]) tuple(%zero, %n, %x)"
    outer = outer.replace(f"%g = f32[32,4]{{1,0}} all-gather(%x), channel_id=1, {GROUPS}", start + again)
    lines = [line.replace("%condition", "%until").replace("%body", "%outer") for line in run()]
    # The inner loop's limit is an element that the outer one hands on unchanged.
    assert moved(*lines, before=loop(indirect=True) + outer) == {"all-gather": 128 * 3 * 24 * 3}


def test_a_loop_whose_length_depends_on_data_counts_once_and_says_so():
    text = loop(counter="%n")  # the counter is not what it was plus a step
    module = entry("%p = f32[8,4]{1,0} parameter(0)", *run(), before=text)
    (found,) = collectives(module, MESH)
    assert (found.trips, found.certain, found.num_bytes) == (1, False, 128 * 3)


def test_xla_may_name_the_length_itself():
    module = entry(
        "%p = f32[8,4]{1,0} parameter(0)",
        *run()[:3],
        run()[3] + ', backend_config={"known_trip_count":{"n":"6"}}',
        before=loop(counter="%n"),
    )
    while_loop = module.computations["main"].instructions["w"]
    assert loops.trip_count(module, module.computations["main"], while_loop, lambda index: None) == 6
    assert {visit.trips for visit in visits(module, len) if visit.computation.name == "body"} == {6}


# ---- Bytes between a chip and its HBM.


def touched(*lines, before=""):
    return traffic.hbm_bytes(entry("%p = f32[8,4]{1,0} parameter(0)", *lines, before=before))


SLICED = """
%sliced (q: f32[8,4], i: s32[]) -> f32[1,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %view = f32[8,4]{1,0} bitcast(%q)
  ROOT %s = f32[1,4]{1,0} dynamic-slice(%view, %i), dynamic_slice_sizes={1,4}
}

%around (q: f32[8,4], i: s32[]) -> f32[1,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[1,4]{1,0} fusion(%q, %i), kind=kLoop, calls=%sliced
}

%updated (q: f32[8,4], u: f32[1,4], i: s32[]) -> f32[8,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %u = f32[1,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %d = f32[8,4]{1,0} dynamic-update-slice(%q, %u, %i)
}
"""
INDEX = "%i = s32[]{:S(6)} constant(3)"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("%a = f32[8,4]{1,0} add(%p, %p)",), 3 * 128),
        (("%a = f32[8,4]{1,0:S(1)} add(%p, %p)",), 2 * 128),  # the result stays on the chip
        (("%t = (f32[8,4]) tuple(%p)",), 0),
        (("%s = (f32[8,4]{1,0}, f32[8,4]{1,0:S(1)}, u32[]) copy-start(%p)",), 128),
        ((INDEX, "%s = f32[1,4]{1,0} fusion(%p, %i), kind=kLoop, calls=%sliced"), 2 * 16),
        ((INDEX, "%s = f32[1,4]{1,0} fusion(%p, %i), kind=kLoop, calls=%around"), 2 * 16),
        (
            (
                INDEX,
                "%u = f32[1,4]{1,0:S(1)} constant({...})",
                "%d = f32[8,4]{1,0} fusion(%p, %u, %i), kind=kLoop, calls=%updated",
            ),
            16,
        ),
    ],
)
def test_what_an_instruction_reads_and_writes(lines, expected):
    assert touched(*lines, before=SLICED) == expected


def test_traffic_counts_for_every_trip():
    inner = "\n  %more = f32[8,4]{1,0} add(%x, %x)"
    gather, add, counter, test = 128 + 512, 3 * 128, 4 + 4, 4 + 4 + 1
    found = touched(*run(limit="5"), before=loop(limit="5", inner=inner))
    assert found == 5 * (gather + add + counter + test)
