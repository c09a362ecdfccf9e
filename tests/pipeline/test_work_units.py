from dfscan.pipeline.work_units import group_by_source, plan_units
from dfscan.schemas.records import VideoRef


def ref(
    name: str, group: str, part: str = "p", version: str = "1", original: str | None = None
) -> VideoRef:
    return VideoRef(name, f"/{name}", part, None, original, group, 1, version)


def family_of(name: str, fakes: int, part: str = "p") -> list[VideoRef]:
    return [
        ref(f"{name}z", name, part),
        *(ref(f"{name}{i}", name, part, original=f"{name}z") for i in range(fakes)),
    ]


def test_families_stay_together_and_parts_apart() -> None:
    refs = [v for part in "ab" for g in "uvwxy" for v in family_of(f"{part}{g}", 2, part)]
    units = plan_units(refs, 7, "config")
    assert sorted(v.video_id for u in units for v in u.videos) == sorted(r.video_id for r in refs)
    for unit in units:
        assert len({v.part for v in unit.videos}) == 1
        assert len(unit.videos) in (3, 6)
    groups = [(v.group, u.name) for u in units for v in u.videos]
    assert len({group for group, _ in groups}) == len(set(groups))


def test_a_family_begins_with_its_original() -> None:
    unit = plan_units([*family_of("b", 2), ref("c", "b")], 16, "c")[0]
    names = [[v.video_id for v in members] for members in group_by_source(unit.videos)]
    assert names == [["bz", "b0", "b1"], ["c"]]


def test_equal_work_has_the_equal_name_and_other_work_another() -> None:
    refs = [ref("a", "g"), ref("b", "g")]
    name = plan_units(refs, 16, "config")[0].name
    assert plan_units(refs[::-1], 16, "config")[0].name == name
    assert plan_units(refs, 16, "other")[0].name != name
    assert plan_units([refs[0], ref("b", "g", version="2")], 16, "config")[0].name != name


def test_a_fake_that_lies_in_another_part_is_done_with_its_original() -> None:
    refs = [
        ref("o", "g", "originals"),
        ref("f", "g", "fakes", original="o"),
        ref("p", "h", "fakes"),
    ]
    units = plan_units(refs, 16, "c")
    assert sorted(sorted(v.video_id for v in u.videos) for u in units) == [["f", "o"], ["p"]]


def test_a_large_family_has_a_unit_of_its_own_and_a_large_group_has_several() -> None:
    assert [len(u.videos) for u in plan_units(family_of("f", 49), 16, "c", True)] == [50]
    assert [len(u.videos) for u in plan_units(family_of("f", 49), 16, "c")] == [16, 16, 16, 2]
    refs = [ref(str(i), "one connected group") for i in range(50)]
    assert [len(u.videos) for u in plan_units(refs, 16, "c")] == [16, 16, 16, 2]
