// Tensors that are a record each: their data, and what they take.
//
// Nothing here validates: callers in TypeScript have checked every number before it arrives.

#include "api.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "tensor_record.h"

#include <cstring>

void tensor_from_record(const tensor_record & record, ggml_tensor & tensor) {
    memset(&tensor, 0, sizeof(tensor));
    tensor.type   = ggml_type(record.type);
    tensor.buffer = reinterpret_cast<ggml_backend_buffer_t>(record.buffer);
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        tensor.ne[i] = record.ne[i];
        tensor.nb[i] = record.nb[i];
    }
    tensor.op = ggml_op(record.op);
    memcpy(tensor.op_params, record.op_params, sizeof(tensor.op_params));
    tensor.flags     = record.flags;
    tensor.view_offs = size_t(record.view_offs);
    tensor.data      = reinterpret_cast<void *>(record.data);
    memcpy(tensor.name, record.name, sizeof(tensor.name));
    tensor.name[GGML_MAX_NAME - 1] = 0;
}

API void gs_tensor_set(const tensor_record * record, const void * data, double offset, double size) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    ggml_backend_tensor_set(&tensor, data, size_t(offset), size_t(size));
}

API void gs_tensor_get(const tensor_record * record, void * data, double offset, double size) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    ggml_backend_tensor_get(&tensor, data, size_t(offset), size_t(size));
}

API int gs_tensor_copy(const tensor_record * from, const tensor_record * to) {
    ggml_tensor source, target;
    tensor_from_record(*from, source);
    tensor_from_record(*to, target);
    if (ggml_backend_buffer_is_host(target.buffer) && ggml_backend_buffer_is_host(source.buffer)) {
        memmove(target.data, source.data, ggml_nbytes(&source));
        return 1;
    }
    return ggml_backend_buffer_copy_tensor(&source, &target) ? 1 : 0;
}

// 0 when the backend attached host-side state to the tensor, which the protocol cannot carry.
API int gs_tensor_init(const tensor_record * record) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    if (tensor.buffer != nullptr && tensor.buffer->iface.init_tensor != nullptr) {
        tensor.buffer->iface.init_tensor(tensor.buffer, &tensor);
    }
    return tensor.extra == nullptr ? 1 : 0;
}

// Bytes that the tensor takes in buffers of this type; sources is an array of 10 records, id 0 absent.
API double gs_tensor_alloc_size(ggml_backend_buffer_type_t type, const tensor_record * record, const tensor_record * sources) {
    ggml_tensor tensor;
    ggml_tensor source[GGML_MAX_SRC];
    tensor_from_record(*record, tensor);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (sources[i].id != 0) {
            tensor_from_record(sources[i], source[i]);
            tensor.src[i] = &source[i];
        }
    }
    return double(ggml_backend_buft_get_alloc_size(tensor.buffer != nullptr ? tensor.buffer->buft : type, &tensor));
}
