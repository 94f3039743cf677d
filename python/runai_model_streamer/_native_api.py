"""The native module, loaded once; a failure to load is an ImportError."""

from __future__ import annotations

from runai_model_streamer import _errors as errors
from runai_model_streamer import _native

_native.set_error_factory(errors.from_native)

DEVICE_AHEAD = _native.DEVICE_AHEAD
DEVICE_ROUND = _native.DEVICE_ROUND
DEVICE_ROUND_OF_RANK = _native.DEVICE_ROUND_OF_RANK
OBJECT_WINDOW = _native.OBJECT_WINDOW
ROUND = _native.ROUND
ROUND_OF_RANK = _native.ROUND_OF_RANK
SMALL_RANGE = _native.SMALL_RANGE
GROUP_BYTES = _native.GROUP_BYTES
DeviceType = _native.DeviceType
MemoryLimit = _native.MemoryLimit
Ownership = _native.Ownership
Stream = _native.Stream
Buffer = _native.Buffer
FileRanges = _native.FileRanges
OpenedFile = _native.OpenedFile
Ready = _native.Ready
TensorDescription = _native.TensorDescription
TensorFactory = _native.TensorFactory
at_version = _native.at_version
has_regions = _native.has_regions
is_url = _native.is_url
list_objects = _native.list_objects
list_digests = _native.list_digests
lists_digests = _native.lists_digests
find_access = _native.find_access
object_key = _native.object_key
cached_fraction = _native.cached_fraction
safetensors_dtype_bits = _native.safetensors_dtype_bits
safetensors_header = _native.safetensors_header
safetensors_header_end = _native.safetensors_header_end
setting = _native.setting
settings_sign = _native.settings_sign
settings_table = _native.settings_table
shown_access_key = _native.shown_access_key
source_kind = _native.source_kind
sticky_device_hint = _native.sticky_device_hint
version = _native.version
