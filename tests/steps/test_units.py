from dfscan.records import VideoRef
from dfscan.steps.units import plan_units


def ref(name: str, group: str, part: str = "p", version: str = "1") -> VideoRef:
    return VideoRef(name, f"/{name}", part, None, None, group, 1, version)


def test_groups_stay_together_and_parts_apart() -> None:
    refs = [ref(f"{g}{i}", f"g{g}", part) for part in "ab" for g in range(5) for i in range(3)]
    units = plan_units(refs, 7, "config")
    assert sorted(v.video_id for u in units for v in u.videos) == sorted(r.video_id for r in refs)
    for unit in units:
        assert len({v.part for v in unit.videos}) == 1
        assert len(unit.videos) in (3, 6)
    groups = [(v.part, v.group, u.name) for u in units for v in u.videos]
    assert len({(part, group) for part, group, _ in groups}) == len(set(groups))


def test_equal_work_has_the_equal_name_and_other_work_another() -> None:
    refs = [ref("a", "g"), ref("b", "g")]
    name = plan_units(refs, 16, "config")[0].name
    assert plan_units(refs[::-1], 16, "config")[0].name == name
    assert plan_units(refs, 16, "other")[0].name != name
    assert plan_units([refs[0], ref("b", "g", version="2")], 16, "config")[0].name != name


def test_a_large_group_has_a_unit_of_its_own() -> None:
    refs = [ref(str(i), "big") for i in range(50)]
    assert [len(u.videos) for u in plan_units(refs, 16, "c")] == [50]
