// Buffers, and what malloc and the system do for them.

#include "api.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "guarded_buffer.h"
#include "populate.h"
#include "tensor_record.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Vulkan clears whole words of 4 bytes.
size_t whole_words(size_t size) {
    return (size + 3) & ~size_t(3);
}

constexpr size_t kFilledBytes = size_t(1) << 20;

// In memory of a device. Its own ways are not to be had for every value and place: in v0.5.0 Vulkan's buffers are cleared to
// words of which three bytes are 0, and parts of tensors filled by whole words.
void fill_by_copies(ggml_backend_buffer_t buffer, void * start, uint8_t value, size_t size) {
    const std::vector<uint8_t> block(std::min(size, kFilledBytes), value);
    ggml_tensor bytes{};
    bytes.type   = GGML_TYPE_I8;
    bytes.buffer = buffer;
    bytes.data   = start;
    bytes.ne[0]  = int64_t(size);
    bytes.nb[0]  = 1;
    for (int dim = 1; dim < GGML_MAX_DIMS; dim++) {
        bytes.ne[dim] = 1;
        bytes.nb[dim] = size;
    }
    for (size_t done = 0; done < size; done += block.size()) {
        ggml_backend_tensor_set(&bytes, block.data(), done, std::min(block.size(), size - done));
    }
}

} // namespace

// It is zero: what another program, or an earlier client, left in a device's memory is nobody's to read. Memory of the host is
// guarded as well.
API ggml_backend_buffer_t gs_buffer_alloc(ggml_backend_buffer_type_t type, double size) {
    try {
        if (type == ggml_backend_cpu_buffer_type() && size > 0) {
            return guarded_buffer(type, size_t(size));
        }
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, whole_words(size_t(size)));
        if (buffer != nullptr) {
            ggml_backend_buffer_clear(buffer, 0);
        }
        return buffer;
    } catch (...) {
        // Backends throw what the wrappers of their drivers throw.
        return nullptr;
    }
}

API void gs_buffer_clear(ggml_backend_buffer_t buffer, int value) {
    const size_t size = ggml_backend_buffer_get_size(buffer);
    if (ggml_backend_buffer_is_host(buffer)) {
        populate(ggml_backend_buffer_get_base(buffer), size);
    } else if (value != 0) {
        fill_by_copies(buffer, ggml_backend_buffer_get_base(buffer), uint8_t(value), size);
        return;
    }
    ggml_backend_buffer_clear(buffer, uint8_t(value));
}

// Sets bytes of a tensor to one value.
API void gs_tensor_memset(const tensor_record * record, int value, double offset, double size) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    if (ggml_backend_buffer_is_host(tensor.buffer)) {
        ggml_backend_tensor_memset(&tensor, uint8_t(value), size_t(offset), size_t(size));
    } else {
        fill_by_copies(tensor.buffer, static_cast<char *>(tensor.data) + size_t(offset), uint8_t(value), size_t(size));
    }
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
