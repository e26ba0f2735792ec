"""Errors of writing ``.safetensors`` files."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from trainables.tensor_files import system_errors


def test_a_file_that_cannot_be_written_is_an_error_of_the_operating_system(tmp_path):
    path = tmp_path / "nowhere" / "net.safetensors"
    with pytest.raises(FileNotFoundError) as caught, system_errors(path):
        save_file({"a": torch.zeros(1)}, path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize(
    "message",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
    ],
)
def test_a_full_disk_in_the_words_of_several_versions(tmp_path, message):
    with pytest.raises(OSError, match="No space left on device") as caught, system_errors(tmp_path):
        raise SafetensorError(message)
    assert caught.value.errno == errno.ENOSPC


def test_an_error_in_the_tensors_stays_what_it_is(tmp_path):
    with pytest.raises(SafetensorError), system_errors(tmp_path):
        raise SafetensorError("Error while serializing: InvalidTensorView(F32, [3], 8)")
