"""Files of pairs, and pairs that are drawn."""

import pytest

from research.data.images import pairs
from research.data.images.pairs import ImagePair


def test_a_csv_with_and_without_folds():
    plain = pairs.read_csv("path1,path2,same\na/1.jpg,a/2.jpg,1\n\nb/1.jpg,a/2.jpg,0\na/1.jpg,a/3.jpg,1\n", "pairs.csv")
    assert plain == [
        ImagePair("a/1.jpg", "a/2.jpg", 1, 0),
        ImagePair("b/1.jpg", "a/2.jpg", 0, 0),
        ImagePair("a/1.jpg", "a/3.jpg", 1, 1),
    ]
    assert pairs.read_csv("a,b,0,7\n", "pairs.csv") == [ImagePair("a", "b", 0, 7)]
    for line in ("a,b", "a,b,2", "a,b,1,x", "a,b,1,2,3"):
        with pytest.raises(ValueError, match=rf"pairs.csv, line 2: '{line}' is not path1,path2,same"):
            pairs.read_csv(f"a,b,1\n{line}\n", "pairs.csv")


def test_view_2_of_lfw():
    text = "2\t2\nAbel_Pacheco\t1\t4\nAkhmed\t1\t3\nAbdel\t1\tDean\t10\nA\t1\tB\t2\n"
    text += "C\t1\t2\nC\t1\t3\nC\t1\tD\t2\nC\t2\tD\t2\n"
    read = pairs.read_view2(text, "pairs.txt")
    assert read[0] == ImagePair("Abel_Pacheco/Abel_Pacheco_0001.jpg", "Abel_Pacheco/Abel_Pacheco_0004.jpg", 1, 0)
    assert read[2] == ImagePair("Abdel/Abdel_0001.jpg", "Dean/Dean_0010.jpg", 0, 0)
    assert [pair.fold for pair in read] == [0] * 4 + [1] * 4 and [pair.same for pair in read] == [1, 1, 0, 0] * 2
    with pytest.raises(ValueError, match=r"pairs.txt, line 3: 'A x 2' is not `name n1 n2`"):
        pairs.read_view2("1 300\nA 1 2\nA x 2\n", "pairs.txt")
    with pytest.raises(ValueError, match=r"pairs.txt must begin with the number of folds"):
        pairs.read_view2("A 1 2\n", "pairs.txt")


def test_a_missing_image_is_named_with_the_file_and_the_entry():
    with pytest.raises(ValueError, match=r"pairs.csv, pair 2: there is no image 'c'; fix the entry or add the file"):
        pairs.check([ImagePair("a", "b", 1, 0), ImagePair("a", "c", 0, 0)], {"a", "b"}, "pairs.csv")
    with pytest.raises(ValueError, match=r"pairs.csv holds no pairs"):
        pairs.check([], {"a"}, "pairs.csv")


def test_all_pairs_are_drawn_where_they_are_few():
    images = [(f"{person}{number}", person) for person in "abc" for number in range(3)]
    drawn = pairs.draw(images)
    assert drawn == pairs.draw(images[::-1])
    names = {tuple(sorted(pair[:2])) for pair in drawn}
    assert len(names) == len(drawn) == 36
    assert all(pair.same == (pair.first[0] == pair.second[0]) for pair in drawn)
    assert sum(pair.same for pair in drawn) == 9


def test_the_second_image_is_one_of_the_gallery():
    images, gallery = [("a0", "a"), ("b0", "b")], [("a1", "a"), ("a2", "a"), ("b1", "b")]
    drawn = pairs.draw(images, gallery)
    same = {pair[:2] for pair in drawn if pair.same}
    assert same == {("a0", "a1"), ("a0", "a2"), ("b0", "b1")}
    assert {pair[:2] for pair in drawn if not pair.same} == {("a0", "b1"), ("b0", "a1"), ("b0", "a2")}


def test_no_more_are_drawn_than_said_and_none_where_there_are_none(monkeypatch):
    monkeypatch.setattr(pairs, "DRAWN", 20)
    images = [(f"{person}/{number}", str(person)) for person in range(30) for number in range(4)]
    drawn = pairs.draw(images)
    assert [sum(pair.same == kind for pair in drawn) for kind in (0, 1)] == [20, 20]
    assert {pair.fold for pair in drawn} == set(range(10))
    with pytest.raises(ValueError, match=r"2 images give 0 pairs of the same person and 1 of different people"):
        pairs.draw([("a", "a"), ("b", "b")])
