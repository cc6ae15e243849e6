import copy
import pickle

import pytest

from supernet import Architecture, Block, Settings


def test_settings_are_values():
    assert Block(kernel=3, expand=4) == Block(expand=4, kernel=3)
    assert hash(Block(kernel=3, expand=4)) == hash(Block(expand=4, kernel=3))
    assert Block(kernel=3) != Block(kernel=5)
    assert Block(kernel=3).kernel == Block(kernel=3)["kernel"] == 3
    assert copy.deepcopy(Block(kernel=3)) == pickle.loads(pickle.dumps(Block(kernel=3))) == Block(kernel=3)  # noqa: S301
    with pytest.raises(AttributeError, match="no setting 'expand'; there are kernel"):
        _ = Block(kernel=3).expand
    with pytest.raises(TypeError, match="not a number"):
        Block(kernel="3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nan is not finite"):
        Block(expand=float("nan"))


def test_architecture_is_a_value():
    arch = Architecture(160, ((Block(kernel=3),), (Block(kernel=5), Block(kernel=3))), Settings(stem=8))
    again = Architecture.from_dict(arch.to_dict())
    assert again == arch and hash(again) == hash(arch) and again.id == arch.id
    assert arch.depths == (1, 2)
    assert str(arch) == "r160 [k3] [k5 k3] stem=8"
    with pytest.raises(AttributeError):
        arch.resolution = 3  # type: ignore[misc]


def test_equal_architectures_have_one_id():
    whole, written = Architecture(160, ((Block(expand=3),),)), Architecture(160.0, ((Block(expand=3.0),),))  # type: ignore[arg-type]
    assert whole == written and whole.id == written.id and whole.to_dict() == written.to_dict()
    assert Block(expand=3.5)["expand"] == 3.5


def test_the_id_never_changes():
    # Stores and bundles of other versions refer to it.
    assert Architecture(160, ((Block(kernel=3, expand=4),),)).id == "cbf41e53b9"


@pytest.mark.parametrize(
    "data", [{}, {"resolution": 3}, {"resolution": 3, "stages": [[3]]}, {"resolution": "x", "stages": []}]
)
def test_what_is_no_architecture_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match=r"(not an architecture|invalid literal)") as error:
        Architecture.from_dict(data)
    assert "\n" not in str(error.value)
