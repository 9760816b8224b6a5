// Buffers, and what malloc and the system do for them.

#include "api.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "guarded_buffer.h"
#include "populate.h"

#include <cstdint>
#include <new>

// Memory of the host is zero and guarded; that of other devices is as the device gives it.
API ggml_backend_buffer_t gs_buffer_alloc(ggml_backend_buffer_type_t type, double size) {
    try {
        if (type == ggml_backend_cpu_buffer_type() && size > 0) {
            return guarded_buffer(type, size_t(size));
        }
        return ggml_backend_buft_alloc_buffer(type, size_t(size));
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

API void gs_buffer_clear(ggml_backend_buffer_t buffer, int value) {
    if (ggml_backend_buffer_is_host(buffer)) {
        populate(ggml_backend_buffer_get_base(buffer), ggml_backend_buffer_get_size(buffer));
    }
    ggml_backend_buffer_clear(buffer, uint8_t(value));
}

API double gs_buffer_size(ggml_backend_buffer_t buffer) {
    return double(ggml_backend_buffer_get_size(buffer));
}

API double gs_buffer_base(ggml_backend_buffer_t buffer) {
    return double(reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer)));
}

API double gs_buffer_tail(ggml_backend_buffer_t buffer) {
    return double(readable_bytes_behind(buffer));
}

API double gs_buft_alignment(ggml_backend_buffer_type_t type) {
    return double(ggml_backend_buft_get_alignment(type));
}

// 1 when every tensor takes just its own bytes in buffers of this type.
API int gs_buft_sizes_are_plain(ggml_backend_buffer_type_t type) {
    return type->iface.get_alloc_size == nullptr ? 1 : 0;
}

// SIZE_MAX (no limit) comes back as -1: a double cannot hold it.
API double gs_buft_max_size(ggml_backend_buffer_type_t type) {
    const size_t size = ggml_backend_buft_get_max_size(type);
    return size == SIZE_MAX ? -1.0 : double(size);
}
