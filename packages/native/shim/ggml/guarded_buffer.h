#pragma once

#include "ggml-backend.h"

#include <cstddef>

// Host memory between inaccessible regions: whoever reads or writes past either end by less than kGuardBytes ends the
// process instead of reaching something else of it. The memory is zero. nullptr when the system has none.
ggml_backend_buffer_t guarded_buffer(ggml_backend_buffer_type_t type, size_t size);
