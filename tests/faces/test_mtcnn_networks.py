import facenet_pytorch.models.mtcnn as library
import pytest
import torch
from torch import Tensor

from dfscan.faces.mtcnn_networks import OFFSET, SCALE, ONet, PNet, RNet

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def pixels(count: int, height: int, width: int) -> Tensor:
    """Random pictures (B, 3, h, w), 0 to 255, each lighter than the one before."""
    chance = torch.Generator().manual_seed(height * 1000 + width)
    picture = torch.randint(0, 256, (count, 3, height, width), generator=chance)
    return picture * torch.linspace(0.2, 1, count)[:, None, None, None]


def normal(picture: Tensor) -> Tensor:
    return (picture - 127.5) * 0.0078125


def turned(picture: Tensor) -> Tensor:
    return picture.transpose(2, 3)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_normalisation_is_the_librarys() -> None:
    assert (OFFSET, SCALE) == (127.5, 0.0078125)


@pytest.mark.parametrize(
    ("height", "width"),
    [(12, 12), (12, 13), (13, 12), (13, 13), (14, 15), (31, 50), (50, 31), (64, 64), (57, 101)],
)
def test_pnet_equals_the_librarys(height: int, width: int) -> None:
    picture = pixels(3, height, width)
    offsets, probability = library.PNet().eval()(normal(picture))
    for laid_out in (torch.contiguous_format, torch.channels_last):
        ours = PNet(CPU)(turned(picture).contiguous(memory_format=laid_out))
        assert_close(turned(ours[0][:, None])[:, 0], probability[:, 1])
        assert_close(turned(ours[1]), offsets)


@pytest.mark.parametrize("count", [1, 2, 33])
def test_rnet_equals_the_librarys(count: int) -> None:
    picture = pixels(count, 24, 24)
    offsets, probability = library.RNet().eval()(normal(picture))
    ours = RNet(CPU)(turned(picture).contiguous(memory_format=torch.channels_last))
    assert_close(ours[0], probability[:, 1])
    assert_close(ours[1], offsets)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_onet_equals_the_librarys(count: int) -> None:
    picture = pixels(count, 48, 48)
    offsets, points, probability = library.ONet().eval()(normal(picture))
    ours = ONet(CPU)(turned(picture).contiguous(memory_format=torch.channels_last))
    assert_close(ours[0], probability[:, 1])
    assert_close(ours[1], offsets)
    assert_close(ours[2], points)


def test_black_and_white_pictures_give_the_librarys_outputs() -> None:
    picture = torch.stack([torch.zeros(3, 24, 24), torch.full((3, 24, 24), 255.0)])
    offsets, probability = library.RNet().eval()(normal(picture))
    ours = RNet(CPU)(turned(picture))
    assert_close(ours[0], probability[:, 1])
    assert_close(ours[1], offsets)


def test_no_pictures_give_no_outputs() -> None:
    probability, offsets = RNet(CPU)(torch.empty(0, 3, 24, 24))
    assert (probability.shape, offsets.shape) == ((0,), (0, 4))
    probability, offsets, points = ONet(CPU)(torch.empty(0, 3, 48, 48))
    assert (probability.shape, offsets.shape, points.shape) == ((0,), (0, 4), (0, 10))
