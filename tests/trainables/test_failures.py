"""From an exception to a failure: class, message, and what may leave the site."""

from __future__ import annotations

import errno

import pytest
import torch
import torch.distributed as dist

from search_spaces.exceptions import DataError, DivergenceError, MemoryLimitError, TrackingError, UserError
from search_spaces.names import FailureClass
from trainables.failures import failure_of, lost_a_peer, node_failure, public_message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), FailureClass.TRACKING),
        (OSError(errno.EIO, "Input/output error"), FailureClass.TRACKING),
        (FileNotFoundError(errno.ENOENT, "No such file"), FailureClass.USER),
        (PermissionError(errno.EACCES, "Permission denied"), FailureClass.USER),
        (UserError("x"), FailureClass.USER),
        (DataError("x"), FailureClass.DATA),
        (DivergenceError("x"), FailureClass.DIVERGENCE),
        (MemoryLimitError("x"), FailureClass.MEMORY),
        (TrackingError("x"), FailureClass.TRACKING),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), FailureClass.MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), FailureClass.MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), FailureClass.MEMORY),
        (MemoryError(), FailureClass.MEMORY),
        (RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4711"), FailureClass.NODE),
        (dist.DistNetworkError("x"), FailureClass.NODE),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureClass.USER),
        (KeyError("head"), FailureClass.USER),
        (SystemExit(3), FailureClass.USER),
    ],
)
def test_class_of_an_exception(error: BaseException, expected: FailureClass) -> None:
    assert failure_of(error, None).failure_class is expected


def test_what_torch_says_when_host_memory_runs_out_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert failure_of(caught.value, None).failure_class is FailureClass.MEMORY
    assert not lost_a_peer(caught.value)


def test_a_failure_keeps_step_type_and_the_end_of_the_traceback() -> None:
    def bug_in_a_factory() -> None:
        raise KeyError("head")

    with pytest.raises(KeyError) as caught:
        bug_in_a_factory()
    failure = failure_of(caught.value, 30)
    assert failure.step == 30
    assert failure.message == "KeyError: 'head'"
    assert "bug_in_a_factory" in failure.detail


def test_our_own_errors_speak_for_themselves() -> None:
    assert failure_of(DivergenceError("loss is nan at step 7"), 6).message == "loss is nan at step 7"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss is nan at step 7", "loss is nan at step 7"),
        ("cannot read /data/Jane_Doe/1.png: truncated", "cannot read <path>: truncated"),
        ("cannot read '/data/Jane Doe/1.png': truncated", "cannot read '<path>': truncated"),
        ("no file s3://bucket/doe/x", "no file <path>"),
        (r"no file C:\scans\doe.dcm", "no file <path>"),
        ("scans/doe/1 has no mask", "<path> has no mask"),
        ("Doe_Jane.dcm: bad header", "<file>: bad header"),
        ("can't allocate, doesn't fit", "can't allocate, doesn't fit"),
        ("unknown scale 'resnet'", "unknown scale 'resnet'"),
    ],
)
def test_public_message_has_no_path_and_no_file_name(text: str, expected: str) -> None:
    assert public_message(text) == expected


def test_messages_about_data_lose_their_quoted_values_too() -> None:
    failure = failure_of(DataError("image 'doe-0001' of class 'mel' cannot be decoded"), None)
    assert failure.public_message == "image '<value>' of class '<value>' cannot be decoded"
    assert "doe-0001" in failure.message


def test_public_message_is_cut() -> None:
    assert len(public_message("word " * 500)) == 500


def test_node_failure() -> None:
    failure = node_failure("rank 1 on /nodes/7 died")
    assert failure.failure_class is FailureClass.NODE
    assert failure.public_message == "rank 1 on <path> died"
