#pragma once

#include "ggml-backend.h"

#include <cstddef>

// Host memory between inaccessible regions: whoever reads or writes past either end by less than kGuardBytes ends the
// process instead of reaching something else of it. The memory is zero. nullptr when the system has none. Behind it is a
// page of zeros that can only be read: some kernels look at more of a tensor than they use.
ggml_backend_buffer_t guarded_buffer(ggml_backend_buffer_type_t type, size_t size);

// Bytes behind the end of any buffer that may be read; 0 for one that is not guarded.
size_t readable_bytes_behind(ggml_backend_buffer_t buffer);
